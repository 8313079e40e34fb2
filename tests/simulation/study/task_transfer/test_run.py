"""A whole study of a few steps: the same numbers for any number of workers, after a kill, and its report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from common.models.unet import UNet
from simulation.study import stretches
from simulation.study.jobs import Workplace, outcome_of, run_jobs
from simulation.study.page import Page
from simulation.study.report import gathered
from simulation.study.results import read_csv
from simulation.study.run import Setup, carry_out, opened
from simulation.study.task_transfer import training
from simulation.study.task_transfer.contrasts import METRICS
from simulation.study.task_transfer.crops import Crop
from simulation.study.task_transfer.settings import ARMS, REGION, TaskTransfer, arm_job

Make = Callable[..., Setup]
Write = Callable[..., Path]


def silent(_: str) -> None:
    """Say nothing."""


@pytest.fixture
def real(tiny: Make, gliomas: Write, hippocampi: Path) -> Make:
    """The tiny study on tiny scans from folders, prepared in a folder that is named."""
    folders = {"hippocampus": hippocampi, "glioma": gliomas(4)}
    return lambda out: tiny(out, folders=folders)


@pytest.mark.slow
def test_workers_and_interruption_change_no_number(real: Make) -> None:
    once, twice = real("once"), real("twice")
    carry_out(once, workers=1, resume=False, say=silent)
    with pytest.raises(KeyboardInterrupt):
        carry_out(twice, workers=2, resume=False, say=interrupt_at_third())
    assert not (twice.out / "results.csv").exists()
    carry_out(twice, workers=2, resume=True, say=silent)
    assert (once.out / "results.csv").read_bytes() == (twice.out / "results.csv").read_bytes()
    check_results(once)


def interrupt_at_third() -> Callable[[str], None]:
    """What is told of the third finished job interrupts the study."""
    calls = itertools.count(1)

    def say(_: str) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    return say


def check_results(setup: Setup) -> None:
    """Every patient is in it under both arms, and what the report needs is there."""
    study = cast(TaskTransfer, setup.study)
    _, rows = read_csv(setup.out / "results.csv")
    judged = [row for row in rows if row.region == REGION and row.case != "all"]
    assert len(judged) == 4 * len(ARMS) * len(METRICS)
    assert {row.unit for row in judged} == {"1", "mm"}
    for number in study.numbers:
        first, second = (outcome_of(setup.out, arm_job(arm, number)).facts for arm in ARMS)
        assert first["patients"] == second["patients"]
        assert first["outside"] == second["outside"]
        assert len(first["dice"]) == len(first["loss"]) == study.epochs
        assert first["loss"] != second["loss"]
    page = study_page(setup)
    assert len(page.verdicts) == 4
    assert "4 patients were tested" in " ".join(page.notices)


def study_page(setup: Setup) -> Page:
    """The page of a finished study, opened again from its folder."""
    again = opened(setup.out)
    return again.kind.page(gathered(again))


def test_a_killed_arm_goes_on_from_its_draft(real: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the draft of epoch 10, an arm ends with the numbers of one that was not."""
    setup = real("whole")
    jobs = {job.name: job for job in setup.jobs()}
    run_jobs(setup.out, list(jobs.values())[:2], workers=1, say=silent)
    job = jobs["seed-1/scratch"]
    whole = job.do(workplace(setup, "whole"), **job.arguments)
    place = workplace(setup, "killed")
    with monkeypatch.context() as patch:
        patch.setattr(training, "mean_dice", killed_after(training.DRAFT_EVERY))
        with pytest.raises(Killed):
            job.do(place, **job.arguments)
    assert (place.folder / stretches.DRAFT).is_file()
    assert job.do(place, **job.arguments) == whole
    assert not (place.folder / stretches.DRAFT).exists()


class Killed(BaseException):
    """What ends a job where it stands."""


def killed_after(epochs: int) -> Callable[..., float]:
    """`mean_dice` that ends the job at its call after so many."""
    calls = itertools.count()
    real_one = training.mean_dice

    def watched(model: UNet, crops: Sequence[Crop]) -> float:
        if next(calls) == epochs:
            raise Killed
        return real_one(model, crops)

    return watched


def workplace(setup: Setup, name: str) -> Workplace:
    """A job's folder."""
    place = Workplace(setup.out, name)
    place.folder.mkdir(parents=True)
    return place
