"""A small federation that trains for real, and one finished run of it to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.plan import Plan, parse
from server.run import Event
from simulation.federation import Federation, check, simulate

Play = Callable[..., Path]


def tiny_plan(**changes: object) -> Plan:
    """Two sites, two rounds of two steps; `changes` are dotted keys with `__` for the dot."""
    data: Mapping[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "task": {"spacing_mm": 4.0},
        "model": {"start": "scratch"},
        "adaptation": {"local_steps": 2, "adapt_steps": 1, "patch": 32},
        "rounds": {"count": 2, "quorum": 2, "deadline_s": 120.0},
        "evaluation": {"local_only": False},
        "sites": {"adult-a": {"phantom": "adult-a", "cases": 4}, "ssa": {"phantom": "ssa", "cases": 2}},
    }
    return parse(data, origin="tiny").override({key.replace("__", "."): v for key, v in changes.items()})


@pytest.fixture(scope="session")
def play(tiny_cohorts: dict[str, Path]) -> Play:
    """Runs, or resumes, the tiny federation in a folder; returns the folder."""

    def run(
        folder: Path,
        *,
        workers: int = 1,
        listen: Callable[[Event], None] = lambda event: None,
        **changes: object,
    ) -> Path:
        plan = tiny_plan(**changes)
        federation = Federation(plan, folder, folders=tiny_cohorts, workers=workers)
        check(federation)
        simulate(federation, resume=True, listen=listen)
        return folder

    return run


@pytest.fixture(scope="session")
def finished(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, in one process; tests must not change it."""
    return play(tmp_path_factory.mktemp("finished") / "run")
