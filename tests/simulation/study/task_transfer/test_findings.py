"""What the page says of finished studies that nobody trained, with numbers that are known."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from common.metrics import RegionScore
from simulation.study.page import Page, Results
from simulation.study.pictures import Picture
from simulation.study.results import Row
from simulation.study.spec import Data, Source, parse, read
from simulation.study.task_transfer.claims import better, speed
from simulation.study.task_transfer.contrasts import Found
from simulation.study.task_transfer.convergence import converged
from simulation.study.task_transfer.findings import page
from simulation.study.task_transfer.pieces import SOURCE_JOB, score_rows
from simulation.study.task_transfer.settings import ARMS, SCRATCH, TRANSFER, TaskTransfer, arm_job


def curve(*, rise: int, level: float) -> list[float]:
    """0 before epoch `rise`, `level` from it on, for 60 epochs: it converges four epochs after its rise."""
    return [0.0] * (rise - 1) + [level] * (61 - rise)


def finished(
    *, rises: dict[str, int], gain: float = 0.0, spread: float = 0.0, stuck: str | None = None
) -> Found:
    """Nine seeds, three folds of two patients; Dice of transfer is `gain` above scratch, give or take a bit.

    Args:
        rises: arm -> the epoch at which its curves rise.
        gain: in Dice.
        spread: of that gain over patients.
        stuck: an arm that is never still, and so is censored.
    """
    raw, origin = read("gtv-transfer")
    study = parse(raw, TaskTransfer, preset="small", origin=origin)
    data = Data(tuple(_source(name, spec.role) for name, spec in study.cohorts.items()))
    rows: list[Row] = []
    facts: dict[str, dict[str, Any]] = {SOURCE_JOB: {"train": 20, "test": 4}}
    of = Row("hippocampus", "h", "source-model", -1, 1, "hippocampus", "", 0.0, "")
    rows += score_rows(_score(0.8), of=of)
    for number in study.numbers:
        fold = study.fold_of(number)
        cases = [f"case{2 * fold}", f"case{2 * fold + 1}"]
        for arm in ARMS:
            line = curve(rise=rises[arm], level=0.6)
            if arm == stuck:
                line = [0.3 + 0.3 * (epoch // 3 % 2) for epoch in range(60)]
            facts[arm_job(arm, number)] = {
                "dice": line,
                "loss": [1 - value for value in line],
                "convergence": {
                    "dice": asdict(converged(line)),
                    "loss": asdict(converged([1 - value for value in line], falling=True)),
                },
                "trained": 4,
                "patients": {case: case for case in cases},
                "rules": ["missed", "false"],
                "outside": [0.0, 2.0],
            }
            for place, case in enumerate(cases):
                value = 0.5 + (gain + spread * (-1) ** place if arm == TRANSFER else 0.0)
                rows += score_rows(
                    _score(value), of=Row("glioma", case, arm, fold, number, "GTV", "", 0.0, "")
                )
    return Found(study, Results(study, data, tuple(rows), facts, lambda job: _pictures(job, study)))


def _source(name: str, role: str) -> Source:
    return Source(name, role, Path("nowhere"), "adult-a", 4)


def _score(value: float) -> RegionScore:
    far = 10 * (1 - value)
    return RegionScore(dice=value, hd95_mm=far, assd_mm=far / 3, masd_mm=far / 4, nsd=value, rule="measured")


def _pictures(job: str, study: TaskTransfer) -> list[Picture]:
    if not job.startswith("seed-"):
        return []
    fold = study.fold_of(int(job.split("/")[0].removeprefix("seed-")))
    plane = np.zeros((8, 8), np.uint8)
    plane[2:5, 2:5] = 1
    return [
        Picture("glioma", f"case{2 * fold + place}", plane * 90, plane, plane, (1.0, 1.0), 3)
        for place in range(2)
    ]


def told(found: Found) -> tuple[Page, str]:
    """The page and all of its sentences."""
    made = page(found.results)
    words = [made.lead, *made.notices, *(text for section in made.sections for text in section.paragraphs)]
    return made, " ".join(words)


def test_a_clear_gain_in_epochs_and_no_loss_in_dice_reproduces() -> None:
    """Rises at 10 and 40: epochs 14 and 44, ratio 3.14 in every seed."""
    found = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.05, spread=0.01)
    assert found.ratio().estimate.value == pytest.approx(44 / 14)
    assert speed(found).held == "yes"
    assert "transfer within 20 epochs in 9 of 9 seeds, scratch beyond 50 in 0" in speed(found).evidence


def test_an_equal_speed_does_not_reproduce() -> None:
    found = finished(rises={TRANSFER: 30, SCRATCH: 30}, gain=0.05, spread=0.01)
    assert speed(found).held == "no"


def test_speed_at_the_price_of_dice_does_not_reproduce() -> None:
    found = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=-0.2, spread=0.01)
    assert speed(found).held == "no"


def test_speed_with_an_unsure_dice_is_undecided() -> None:
    found = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.0, spread=0.3)
    found = Found(found.study, replace(found.results, rows=_tilted(found)))
    assert speed(found).held == "undecided"


def _tilted(found: Found) -> tuple[Row, ...]:
    """Dice of transfer moved up in one fold and down in another."""
    moves = {0: 0.2, 1: -0.2, 2: 0.0}
    return tuple(
        replace(row, value=row.value + moves[row.fold])
        if row.approach == TRANSFER and row.metric == "dice"
        else row
        for row in found.results.rows
    )


@pytest.mark.parametrize(
    ("stuck", "bound", "held"), [(SCRATCH, "at least", "yes"), (TRANSFER, "at most", "no")]
)
def test_censored_runs_are_declared(stuck: str, bound: str, held: Literal["yes", "no"]) -> None:
    """Scratch that never settles counts its 60 epochs: the ratio is at least 60 / 14."""
    found = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.05, spread=0.01, stuck=stuck)
    assert found.ratio().bound == bound
    assert speed(found).held == held
    assert "censored" in speed(found).evidence
    assert found.convergence(stuck)[1].epoch == 60


def test_better_needs_the_whole_interval_on_one_side() -> None:
    up = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.1, spread=0.0)
    tilted = Found(up.study, replace(up.results, rows=_tilted(up)))
    assert better(tilted, "dice").held == "undecided"
    raised = Found(
        up.study,
        replace(
            up.results,
            rows=tuple(
                replace(row, value=row.value + 0.001 * row.fold) if row.approach == TRANSFER else row
                for row in up.results.rows
            ),
        ),
    )
    assert better(raised, "dice").held == "yes"
    assert better(raised, "hd95").held == "yes"


def test_transfer_that_is_worse_is_told_so() -> None:
    down = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=-0.1, spread=0.0)
    rows = tuple(
        replace(row, value=row.value + 0.001 * row.fold) if row.approach == TRANSFER else row
        for row in down.results.rows
    )
    assert better(Found(down.study, replace(down.results, rows=rows)), "dice").held == "no"


def test_each_patient_is_averaged_over_its_seeds() -> None:
    found = finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.1)
    assert found.by_patient(SCRATCH, "dice") == {f"case{number}": 0.5 for number in range(6)}
    assert found.mean(TRANSFER, "dice") == pytest.approx(0.6)
    assert found.contrast("hd95").mean == pytest.approx(-1.0)


def test_the_epoch_at_which_transfer_reaches_scratch() -> None:
    """Both end at the same level: transfer's average is there four epochs after its rise."""
    assert finished(rises={TRANSFER: 10, SCRATCH: 40}).catch_up(1) == 14


def test_the_page_says_what_it_must() -> None:
    made, words = told(finished(rises={TRANSFER: 10, SCRATCH: 40}, gain=0.05, spread=0.01))
    assert "told where the tumour is" in words
    assert "6 patients were tested" in words
    assert "phantom" in words.lower()
    assert "0 were empty on both sides" in words
    assert "in 18 nothing was found" in words
    assert "in 18 something was found where the expert saw none" in words
    assert [verdict.held for verdict in made.verdicts] == ["yes", "yes", "yes", "yes"]
    assert [row[0] for row in made.main.rows] == list(ARMS)
    assert len(next(s for s in made.sections if s.anchor == "seeds").charts) == 18
    assert [len(s.shown) for s in made.sections if s.anchor == "patients"] == [2]


def test_a_shipped_preset_is_a_study() -> None:
    raw, origin = read("gtv-transfer")
    for preset in ("smoke", "small", "full"):
        study = parse(raw, TaskTransfer, preset=preset, origin=origin)
        assert study.seeds % study.folds == 0


def test_a_budget_below_fifty_epochs_shows_nothing_beyond_them() -> None:
    """A censored run of 12 epochs is not known to need more than 50."""
    found = finished(rises={TRANSFER: 10, SCRATCH: 40})
    short = {
        job: {**facts, "convergence": {**facts["convergence"], "dice": SHORT}} if "dice" in facts else facts
        for job, facts in found.results.facts.items()
    }
    told_of = speed(Found(found.study, replace(found.results, facts=short)))
    assert told_of.evidence.endswith("transfer within 20 epochs in 0 of 9 seeds, scratch beyond 50 in 0")
    assert told_of.held == "undecided"


SHORT = {"epoch": 12, "censored": True, "best": 0.5}
