from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from simulation.study.comparison import Comparison, Design, compare, with_holm
from simulation.study.resampling import bootstrap_mean
from simulation.study.statistics import FoldSize, corrected_t, effect_size, holm, paired_t, wilcoxon

FOLDS = {f"case-{number:02}": number // 4 for number in range(20)}
SIZES = {fold: FoldSize(train=16, test=4) for fold in range(5)}
RNG = np.random.default_rng(7)
BASELINE = {case: float(value) for case, value in zip(FOLDS, RNG.uniform(0.5, 0.8, 20), strict=True)}
BETTER = {case: value + float(RNG.normal(0.1, 0.03)) for case, value in BASELINE.items()}


DESIGN = Design(folds=FOLDS, sizes=SIZES)


def compared(approach: dict[str, float], **changed: Mapping[Any, Any]) -> Comparison:
    return compare(approach, BASELINE, design=replace(DESIGN, **changed), seed=1)


def test_everything_is_computed_from_the_same_differences() -> None:
    found = compared(BETTER)
    each = [BETTER[case] - BASELINE[case] for case in FOLDS]
    means = [float(np.mean(each[start : start + 4])) for start in range(0, 20, 4)]
    assert (found.patients, found.folds, found.notes) == (20, 5, ())
    assert found.mean == np.mean(each)
    assert found.as_published == paired_t(means)
    assert found.corrected == corrected_t(means, test_share_ratio=4 / 16)
    assert found.wilcoxon == wilcoxon(each)
    assert found.bootstrap == bootstrap_mean(each, seed=1)
    assert found.effect == effect_size(each)
    assert (found.verdict, found.verdict_from) == ("non-inferior", "corrected t")


def test_the_order_of_cases_changes_nothing() -> None:
    turned = dict(reversed(BETTER.items()))
    assert compared(turned) == compared(BETTER)


def test_a_baseline_against_the_better_one_is_inferior_by_the_same_numbers() -> None:
    found = compare(BASELINE, BETTER, design=DESIGN, seed=1)
    assert found.verdict == "inferior"
    assert found.mean == -compared(BETTER).mean
    assert found.wilcoxon.p == compared(BETTER).wilcoxon.p


def test_less_is_better_for_distances() -> None:
    assert compare(BETTER, BASELINE, design=DESIGN, seed=1, higher_is_better=False).verdict == "inferior"


def test_without_a_margin_there_is_no_verdict() -> None:
    found = compare(BETTER, BASELINE, design=DESIGN, seed=1, margin=None)
    assert (found.verdict, found.verdict_from) == (None, None)
    assert found == replace(compared(BETTER), verdict=None, verdict_from=None)


def test_cases_of_one_patient_are_averaged_first() -> None:
    """Two examinations of each of ten patients: ten differences, and fold means of patients."""
    patients = {case: f"patient-{number // 2}" for number, case in enumerate(FOLDS)}
    found = compared(BETTER, patients=patients)
    each = [BETTER[case] - BASELINE[case] for case in FOLDS]
    assert found.patients == 10
    assert found.wilcoxon == wilcoxon([float(np.mean(each[n : n + 2])) for n in range(0, 20, 2)])
    by_case = compared(BETTER).corrected
    assert found.corrected is not None
    assert by_case is not None
    assert found.corrected.t == pytest.approx(by_case.t)
    assert found.mean == pytest.approx(compared(BETTER).mean)


def test_clusters_are_sites() -> None:
    sites = {case: f"site-{number % 8}" for number, case in enumerate(FOLDS)}
    found = compared(BETTER, clusters=sites)
    assert found.bootstrap is not None
    assert (found.bootstrap.units, found.notes) == (8, ())


def test_few_units_are_said() -> None:
    found = compared(BETTER, clusters={case: case[-1] > "4" for case in FOLDS})
    assert found.notes == ("bootstrap: 2 units are few; its interval is too narrow below 6",)


def test_one_fold_leaves_the_tests_of_folds_open() -> None:
    found = compared(BETTER, folds=dict.fromkeys(FOLDS, 0))
    assert found.as_published is found.corrected is None
    assert (found.verdict, found.verdict_from) == ("non-inferior", "bootstrap")
    assert found.notes == ("differences: 1 given, but at least 2 are needed",)


def test_one_patient_leaves_all_but_the_ranks_open() -> None:
    case = "case-00"
    found = compare({case: 0.6}, {case: 0.5}, design=DESIGN, seed=0)
    assert (found.corrected, found.bootstrap, found.effect, found.verdict) == (None, None, None, None)
    assert found.verdict_from is None
    assert (found.wilcoxon.p, len(found.notes)) == (1, 2)


def test_equal_approaches() -> None:
    found = compared(BASELINE)
    assert found.corrected is not None
    assert (found.mean, found.corrected.p, found.wilcoxon.p, found.effect) == (0, 1, 1, 0)
    assert found.verdict == "non-inferior"


def test_holm_goes_over_the_family() -> None:
    family = {
        "better": compared(BETTER),
        "same": compared(BASELINE),
        "one fold": compared(BETTER, folds=dict.fromkeys(FOLDS, 0)),
    }
    found = with_holm(family)
    assert list(found) == list(family)
    corrected, ranked = family["better"].corrected, [one.wilcoxon.p for one in family.values()]
    assert corrected is not None
    assert found["better"].corrected_holm == pytest.approx(min(1, 3 * corrected.p))
    assert found["one fold"].corrected_holm is None
    assert tuple(one.wilcoxon_holm for one in found.values()) == holm(ranked)
    assert replace(found["same"], corrected_holm=None, wilcoxon_holm=None) == family["same"]


def test_refusals() -> None:
    fewer = {case: value for case, value in BETTER.items() if case != "case-03"}
    with pytest.raises(InputError, match="1 cases of one approach alone, 'case-03' first"):
        compared(fewer)
    with pytest.raises(InputError, match="no fold is given for 'case-03'"):
        compared(BETTER, folds={case: fold for case, fold in FOLDS.items() if case != "case-03"})
    with pytest.raises(InputError, match="no size is given for '4'"):
        compared(BETTER, sizes={fold: SIZES[fold] for fold in range(4)})
    with pytest.raises(InputError, match="no patient is given for 'case-00'"):
        compared(BETTER, patients={})
    with pytest.raises(InputError, match="no cluster is given"):
        compared(BETTER, clusters={})
    with pytest.raises(InputError, match="patient 'p' lies in more than one fold"):
        compared(BETTER, patients=dict.fromkeys(FOLDS, "p"))
    with pytest.raises(InputError, match="not finite"):
        compared({**BETTER, "case-00": float("nan")})
    with pytest.raises(InputError, match="at least one patient"):
        compare({}, {}, design=DESIGN, seed=0)
