"""The split of the drop into parts, what is recovered, and what is left, each on numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from simulation.study.bundle_shift.claims import above, beyond_half, not_recovered
from simulation.study.bundle_shift.cohorts import ANATOMY
from simulation.study.bundle_shift.settings import CELLS, PATIENTS
from simulation.study.bundle_shift.shift import (
    Scores,
    drop_of_groups,
    near_and_far,
    parts_of,
    recovered_systematic,
    recovered_tumour,
    residual,
    scores_of,
)
from simulation.study.resampling import Estimate, Interval
from simulation.study.results import Row

PEOPLE = 8


def row(
    cell: str, patient: int, approach: str, value: float, *, bundle: str = "b", metric: str = "dice"
) -> Row:
    return Row(cell, f"p{patient}", approach, 0, 1, bundle, metric, value, "1")


def study(
    *,
    systematic: float = 0.2,
    tumour: float = 0.1,
    inter: float = 0.05,
    kept: float = 0.25,
    per_mm: float = 0.02,
) -> Scores:
    """Eight patients; fine-tuning leaves `kept` of the systematic part, and the tumour's."""
    rows = []
    for patient in range(PEOPLE):
        home = 0.8 + 0.01 * (patient % 3)
        moved = float(patient)
        ill = tumour + per_mm * (moved - 3.5)
        values = {
            "source-twin": home,
            "source-tumour": home - tumour,
            "clinical-twin": home - systematic,
            "clinical-tumour": home - systematic - tumour - inter,
        }
        rows += [row(cell, patient, "t1-healthy", values[cell]) for cell in CELLS]
        tuned = home - kept * systematic
        rows += [row("clinical-twin", patient, "t1-fine-tuned", tuned)]
        rows += [row(PATIENTS, patient, "t1-fine-tuned", tuned - ill)]
        rows += [row(PATIENTS, patient, ANATOMY, moved, metric="displacement")]
    return scores_of(rows, modalities=("t1",), bundles=("b",), seed=1)


def test_the_parts_are_the_factorials_and_add_up() -> None:
    parts = parts_of(study(), "healthy")

    assert parts.total.value == pytest.approx(0.35)
    assert parts.systematic.value == pytest.approx(0.2)
    assert parts.tumour.value == pytest.approx(0.1)
    assert parts.interaction.value == pytest.approx(0.05)
    assert parts.total.interval.low == pytest.approx(parts.total.interval.high)
    assert parts.total.units == PEOPLE


def test_what_is_recovered_is_measured_at_the_clinical_protocol_against_home() -> None:
    systematic, tumour = recovered_systematic(study()), recovered_tumour(study())

    assert (systematic.before.value, systematic.after.value) == pytest.approx((0.2, 0.05))
    assert systematic.share is not None
    assert systematic.share.value == pytest.approx(0.75)
    assert (tumour.before.value, tumour.after.value) == pytest.approx((0.15, 0.1))
    assert tumour.share is not None
    assert tumour.share.value == pytest.approx(1 / 3)


def test_a_share_of_what_may_be_nothing_is_not_stated() -> None:
    assert recovered_systematic(study(systematic=0.0)).share is None
    assert recovered_systematic(study(systematic=-0.1)).share is None


def test_the_residual_grows_by_the_slope_that_was_put_in() -> None:
    found = residual(study(per_mm=0.03), "displacement")

    assert found is not None
    assert found.beyond_twin.value == pytest.approx(0.03)
    assert found.slope.value == pytest.approx(0.03, abs=0.004)  # heads differ by a hundredth or two
    assert found.rank.value == pytest.approx(1.0, abs=0.05)
    assert found.pairs == PEOPLE


def test_bundles_that_are_harder_for_everybody_make_no_slope() -> None:
    rows = []
    for bundle, level, far in (("easy", 0.9, 0.0), ("hard", 0.5, 4.0)):
        for patient in range(PEOPLE):
            for cell in ("clinical-twin", PATIENTS):
                wiggle = 0.01 * ((patient * 3) % 4)
                rows.append(row(cell, patient, "t1-fine-tuned", level - wiggle, bundle=bundle))
            moved = far + 0.1 * (patient % 2)
            rows.append(row(PATIENTS, patient, ANATOMY, moved, bundle=bundle, metric="displacement"))
    scores = scores_of(rows, modalities=("t1",), bundles=("easy", "hard"), seed=1)

    found = residual(scores, "displacement")

    assert found is not None
    assert found.slope.interval.low < 0 < found.slope.interval.high or abs(found.slope.value) < 0.2
    assert residual(scores, "interrupted") is None


def test_the_mean_is_over_patients_that_have_all_parts() -> None:
    rows = [row(PATIENTS, 1, "t1-healthy", 0.5), row(PATIENTS, 2, "t1-healthy", 0.7)]
    rows += [row(PATIENTS, 1, "fa-healthy", 0.9)]
    scores = scores_of(rows, modalities=("t1", "fa"), bundles=("b",), seed=1)

    assert scores.mean("healthy", PATIENTS) == {"p1": pytest.approx(0.7)}
    assert scores.mean("healthy", PATIENTS, modality="t1") == {"p1": 0.5, "p2": 0.7}


def test_two_groups_differ_by_their_means_with_an_interval_wider_than_each() -> None:
    rng = np.random.default_rng(1)
    first = {str(n): float(value) for n, value in enumerate(rng.normal(0.8, 0.05, 40))}
    second = {str(n): float(value) for n, value in enumerate(rng.normal(0.6, 0.05, 40))}

    found = drop_of_groups(first, second, seed=1)

    assert found.value == pytest.approx(np.mean(list(first.values())) - np.mean(list(second.values())))
    half = (found.interval.high - found.interval.low) / 2
    # Student's interval for two groups of 40 with one standard deviation of 0.05.
    assert half == pytest.approx(1.99 * 0.05 * np.sqrt(2 / 40), rel=0.2)
    with pytest.raises(InputError):
        drop_of_groups(first, {"1": 0.5}, seed=1)


def test_near_and_far_bundles_are_held_against_the_healthy_ones() -> None:
    rows = []
    for patient in (1, 2):
        for bundle, value, away in (("near", 0.4, 5.0), ("far", 0.7, 30.0)):
            rows.append(row(PATIENTS, patient, "t1-healthy", value, bundle=bundle))
            rows.append(row(PATIENTS, patient, ANATOMY, away, bundle=bundle, metric="distance"))
    scores = scores_of(rows, modalities=("t1",), bundles=("near", "far"), seed=1)

    near, far = near_and_far(scores, "healthy", near_mm=20.0, home={"near": 0.8, "far": 0.75})

    assert near == {"p1": pytest.approx(0.4), "p2": pytest.approx(0.4)}
    assert far == {"p1": pytest.approx(0.05), "p2": pytest.approx(0.05)}


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, Interval(low, high), units=8, resamples=100)


def test_verdicts_follow_the_intervals() -> None:
    error = residual(study(per_mm=0.03), "displacement")
    assert error is not None

    assert [above(estimate(*ends)) for ends in ((0.1, 0.2), (-0.1, 0.1), (-0.2, -0.1))] == [
        "yes",
        "undecided",
        "no",
    ]
    assert [beyond_half(estimate(*ends)) for ends in ((0.6, 0.9), (0.3, 0.9), (0.1, 0.4))] == [
        "yes",
        "undecided",
        "no",
    ]
    assert not_recovered(estimate(-0.1, 0.3), error) == "yes"
    assert not_recovered(estimate(0.3, 0.7), error) == "undecided"
    assert not_recovered(estimate(0.6, 0.7), error) == "no"
    assert not_recovered(None, error) == "undecided"
    assert not_recovered(estimate(-0.1, 0.3), None) == "undecided"
