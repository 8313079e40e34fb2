"""Jobs: order, what is done once, what a failure leaves, and that workers change no number."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import DataError, InputError, RunError
from common.seeds import generator
from simulation.study.jobs import Job, Outcome, Workplace, is_done, outcome_of, run_jobs
from simulation.study.results import Row


def row(value: float) -> Row:
    return Row("ssa", "case-1", "baseline", 0, 1, "ET", "dice", value, "1")


def draw(place: Workplace, *, seed: int) -> Outcome:
    """A number that hangs on the arguments alone, and a line that counts how often the job was done."""
    with (place.folder / "times").open("a") as file:
        file.write("once\n")
    return Outcome([row(float(generator(seed, "draw").random()))], {"seed": seed})


def double(place: Workplace, *, of: str) -> Outcome:
    return Outcome([row(2 * outcome_of(place.out, of).rows[0].value)])


def refuse(place: Workplace) -> Outcome:
    raise DataError("case 3: no label", code="missing")


def crash(place: Workplace) -> Outcome:
    raise ZeroDivisionError("three words here")


def vanish(place: Workplace) -> Outcome:
    os._exit(1)


def write_nan(place: Workplace) -> Outcome:
    return Outcome([row(float("nan"))])


def jobs() -> list[Job]:
    drawn = [Job(f"draw/{seed}", draw, {"seed": seed}) for seed in range(4)]
    return [*drawn, Job("double", double, {"of": "draw/2"}, needs=("draw/2",), cost=2)]


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    run_jobs(tmp_path, jobs(), workers=workers, say=silent)
    found = [outcome_of(tmp_path, job.name).rows[0].value for job in jobs()]
    drawn = [float(generator(seed, "draw").random()) for seed in range(4)]
    assert found == [*drawn, 2 * drawn[2]]


def test_a_finished_job_is_not_done_again_and_progress_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    run_jobs(tmp_path, jobs()[:2], workers=1, say=silent)
    run_jobs(tmp_path, jobs(), workers=1, say=said.append)
    assert (tmp_path / "work" / "draw" / "0" / "times").read_text() == "once\n"
    assert said[:2] == ["2 of 5 jobs are done already", "draw/2 begins"]
    assert said[-1].startswith("[5/5] double: ")
    assert said[-1].endswith("all done")


@pytest.mark.parametrize(
    ("do", "error", "words"),
    [
        (refuse, DataError, "job bad: case 3: no label"),
        (crash, RunError, "job bad: ZeroDivisionError"),
        (vanish, RunError, "job bad: its process ended"),
        (write_nan, RunError, "job bad: ValueError"),
    ],
)
def test_a_failure_names_the_job_and_keeps_what_is_done(
    tmp_path: Path, do: Callable[..., Outcome], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run_jobs(tmp_path, [*jobs()[:1], Job("bad", do, needs=("draw/0",))], workers=1, say=silent)
    assert is_done(tmp_path, "draw/0")
    assert not is_done(tmp_path, "bad")


def test_jobs_that_wait_for_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="double"):
        run_jobs(tmp_path, jobs()[4:], workers=1, say=silent)


def test_an_unfinished_or_damaged_outcome_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="draw/0 is not done"):
        outcome_of(tmp_path, "draw/0")
    run_jobs(tmp_path, jobs()[:1], workers=1, say=silent)
    file = tmp_path / "work" / "draw" / "0" / "done.json"
    file.write_text(file.read_text()[:-5])
    with pytest.raises(InputError, match=r"done\.json is damaged"):
        outcome_of(tmp_path, "draw/0")
