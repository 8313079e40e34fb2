"""The pieces of a study, carried out in worker processes; what is done once is never done again.

    OUT/work/<job>/done.json     rows and facts of a finished job; written last
    OUT/work/<job>/...           what it leaves for others: model.safetensors, slices.npz, a run directory

A job is a function of its arguments and of the jobs that it needs, and of nothing else: how many workers
there are and where a study was interrupted changes no number. Each worker computes with one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from common.errors import FedGliaError, InputError, RunError
from common.files import write_atomic
from simulation.study.results import Row
from simulation.workers import Worker, end_worker, start_worker

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a job found.

    Attributes:
        rows: its part of results.csv.
        facts: anything else that a report shows, as JSON knows it: curves, separability.
    """

    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workplace:
    """What a job may use of the disk.

    Attributes:
        out: the study's folder.
        name: the job's.
    """

    out: Path
    name: str

    @property
    def folder(self) -> Path:
        """The job's own folder; holds what an interrupted attempt left."""
        return self.of(self.name)

    def of(self, job: str) -> Path:
        """The folder of another job, one that this one needs."""
        return self.out / "work" / job


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: unique; a relative path such as `fold-1/dann`.
        do: a function at the top of a module: (workplace, **arguments) -> Outcome.
        arguments: what can be sent to another process.
        needs: jobs that must be done before.
        cost: expected time relative to the other jobs, above 0, for the time left.
    """

    name: str
    do: Callable[..., Outcome]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    cost: float = 1.0


def run_jobs(out: Path, jobs: Sequence[Job], *, workers: int, say: Say) -> None:
    """Carry out what is not done yet, earlier jobs first, `workers` at a time.

    Raises:
        FedGliaError: a job could not be done; those that were finished stay done.
    """
    done = {job.name for job in jobs if is_done(out, job.name)}
    todo = [job for job in jobs if job.name not in done]
    clock = _Clock([job.cost for job in todo], workers=min(workers, max(len(todo), 1)))
    if done:
        say(f"{len(done)} of {len(jobs)} jobs are done already")
    with _crew(min(workers, len(todo))) as idle:
        busy: dict[Any, tuple[Worker, Job]] = {}
        while todo or busy:
            for job in _ready(todo, done, len(idle)):
                todo.remove(job)
                worker = idle.pop()
                worker.pipe.send((out, job))
                say(f"{job.name} begins")
                busy[worker.pipe] = worker, job
            if not busy:
                raise RunError(f"jobs wait for others that do not exist: {', '.join(j.name for j in todo)}")
            for pipe in wait(list(busy)):
                worker, job = busy.pop(pipe)
                seconds = _outcome(worker, job)
                idle.append(worker)
                done.add(job.name)
                say(clock.line(job, seconds, done=len(done), of=len(jobs)))


def is_done(out: Path, name: str) -> bool:
    """Whether a job is finished."""
    return (out / "work" / name / "done.json").is_file()


def outcome_of(out: Path, name: str) -> Outcome:
    """What a finished job found.

    Raises:
        InputError: it is not finished, or its file is damaged.
    """
    file = out / "work" / name / "done.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Outcome([Row(**row) for row in content["rows"]], content["facts"])
    except FileNotFoundError:
        raise InputError(f"{out.name}: job {name} is not done; go on with --resume") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out.name}: {name}/done.json is damaged ({type(error).__name__}); delete it and go on with "
            "--resume"
        ) from None


@dataclass
class _Clock:
    """Time left, from what the jobs done so far took for their cost."""

    costs: list[float]
    workers: int
    spent_s: float = 0.0
    spent_cost: float = 0.0

    def line(self, job: Job, seconds: float, *, done: int, of: int) -> str:
        self.spent_s += seconds
        self.spent_cost += job.cost
        pace_s = self.spent_s / max(self.spent_cost, 1e-9)
        left_s = (sum(self.costs) - self.spent_cost) * pace_s / self.workers
        left = f"about {_duration(left_s)} left" if done < of else "all done"
        return f"[{done}/{of}] {job.name}: {_duration(seconds)}; {left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _ready(todo: Sequence[Job], done: set[str], most: int) -> list[Job]:
    return [job for job in todo if done.issuperset(job.needs)][:most]


@contextmanager
def _crew(count: int) -> Iterator[list[Worker]]:
    """Workers that are gone when the block is left, whatever they are doing."""
    workers = [start_worker(_load, module="simulation.study.kinds") for _ in range(count)]
    try:
        yield list(workers)
    finally:
        for worker in workers:
            end_worker(worker)


def _load() -> Callable[[tuple[Path, Job]], tuple[float, FedGliaError | None]]:
    """What a worker process does with every job."""
    return _carry_out


def _carry_out(question: tuple[Path, Job]) -> tuple[float, FedGliaError | None]:
    out, job = question
    place = Workplace(out, job.name)
    began = time.monotonic()
    torch.set_num_threads(1)  # an earlier job may have left another number
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        found = job.do(place, **job.arguments)
        content = {"rows": [asdict(row) for row in found.rows], "facts": found.facts}
        write_atomic(place.folder / "done.json", json.dumps(content, allow_nan=False).encode())
    except FedGliaError as error:
        return 0.0, error
    except OSError as error:
        return 0.0, RunError(f"{error.strerror or type(error).__name__}; make room or mend it", code="disk")
    except Exception as error:
        import logging
        import traceback

        logging.getLogger(__name__).error("%s", traceback.format_exc())
        return 0.0, RunError(f"{type(error).__name__}: {error}", code="internal")
    return time.monotonic() - began, None


def _outcome(worker: Worker, job: Job) -> float:
    try:
        seconds, error = worker.pipe.recv()
    except (EOFError, OSError):
        raise RunError(
            f"job {job.name}: its process ended; was there too little memory? Go on with --resume, and "
            "--jobs 1"
        ) from None
    if error is not None:
        raise type(error)(f"job {job.name}: {error}", code=error.code)
    return float(seconds)
