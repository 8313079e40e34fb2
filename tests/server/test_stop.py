"""A deployed run is stopped by a file in its directory, and goes on from there as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from common.checkpoint import load
from common.errors import RunError, StoppedError
from server import app as hub
from server.run import Event, Run, create
from server.summary import write_summary
from simulation.grid import LocalGrid
from tests.deployed import SuperLink, run_here
from tests.stub_sites import SITES, StubSites, node_configs, plan_of

PLAN = plan_of(rounds__count=3)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(hub.RUNS_VARIABLE, str(tmp_path))
    monkeypatch.delenv(hub.ENGINE_VARIABLE, raising=False)
    run_here(monkeypatch)
    return tmp_path


@contextmanager
def heard(*listeners: Any) -> Iterator[None]:  # noqa: ANN401 - each takes an event
    hub.listeners.extend(listeners)
    try:
        yield
    finally:
        for listener in listeners:
            hub.listeners.remove(listener)


def carry_out(folder: Path, grid: Grid) -> None:
    """What Flower's process does with a run of that name."""
    hub.app(grid, Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {"run": folder.name})))


def deployed(folder: Path) -> None:
    with SuperLink(*SITES) as grid:
        carry_out(folder, grid)


def tensors(folder: Path) -> dict[str, Tensor]:
    return dict(load(folder / "checkpoints" / "last.safetensors").tensors)


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def kinds(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def simulated(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same plan in one process."""
    folder = runs / "simulated"
    create(folder, PLAN, resume=False)
    monkeypatch.setenv(hub.RUN_VARIABLE, str(folder))
    with LocalGrid(node_configs(), StubSites()) as grid:
        hub.app(grid, Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {})))
    return folder


def test_a_deployed_run_gives_what_a_simulation_gives(runs: Path, simulated: Path) -> None:
    create(runs / "run", PLAN, resume=False)
    deployed(runs / "run")
    assert same(tensors(runs / "run"), tensors(simulated))
    assert (summary(runs / "run")["status"], summary(runs / "run")["engine"]) == ("completed", "deployed")
    assert summary(runs / "run")["interruptions"] == 0


def test_a_stopped_run_goes_on_as_if_nothing_had_been(runs: Path, simulated: Path) -> None:
    folder = runs / "run"
    create(folder, PLAN, resume=False)

    def stop_in_round_2(event: Event) -> None:
        if event["event"] == "round opened" and event["round"] == 2:
            (folder / "stop").touch()

    with heard(stop_in_round_2), pytest.raises(StoppedError):
        deployed(folder)
    assert (summary(folder)["status"], len(summary(folder)["rounds"])) == ("stopped", 1)
    assert kinds(folder)[-1] == "run stopped"
    assert not (folder / "spool").exists()

    with pytest.raises(StoppedError):  # nobody resumed it
        deployed(folder)
    create(folder, PLAN, resume=True)
    assert not (folder / "stop").exists()
    deployed(folder)
    assert same(tensors(folder), tensors(simulated))
    assert (summary(folder)["status"], summary(folder)["interruptions"]) == ("completed", 2)


def test_a_full_disk_fails_the_run_which_can_be_resumed(
    runs: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "run"
    create(folder, PLAN, resume=False)
    full = RunError("round-0002.json: cannot be written (No space left on device); make room", code="disk")

    def no_room(*_: object, **__: object) -> None:
        raise full

    def fill_in_round_2(event: Event) -> None:
        if event["event"] == "round opened" and event["round"] == 2:
            monkeypatch.setattr(Run, "close_round", no_room)

    close_round = Run.close_round
    with heard(fill_in_round_2), pytest.raises(RunError, match="No space left"):
        deployed(folder)
    assert summary(folder)["status"] == "failed"
    monkeypatch.setattr(Run, "close_round", close_round)
    create(folder, PLAN, resume=True)
    deployed(folder)
    assert same(tensors(folder), tensors(simulated))


def test_a_disk_too_full_for_the_summary_does_not_hide_why(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "run"
    create(folder, PLAN, resume=False)

    def no_room(*_: object, **__: object) -> None:
        raise RunError("summary.json: cannot be written", code="disk")

    def fill(event: Event) -> None:
        if event["event"] == "round opened":
            monkeypatch.setattr(hub, "write_summary", no_room)

    with heard(fill), pytest.raises(RunError, match="cannot be written"):
        deployed(folder)
    monkeypatch.setattr(hub, "write_summary", write_summary)
    assert summary(folder)["status"] == "running"


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_stops_a_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, signal: type[BaseException]
) -> None:
    """Flower turns SIGTERM into the end of its process."""
    folder = runs / "run"
    create(folder, PLAN, resume=False)

    def send(event: Event) -> None:
        if event["event"] == "round opened":
            raise signal

    with heard(send), pytest.raises(signal):
        deployed(folder)
    assert summary(folder)["status"] == "stopped"
    assert kinds(folder)[-1] == "run stopped"
