"""A hub's folder with admitted sites, and a stand-in for Flower that carries runs out in a thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from flwr.app import Context, RecordDict

from common.errors import RunError
from common.files import write_atomic
from server import app as server_app
from server.desk.cli import rounds
from server.hub import control
from server.hub.folder import Hub, open_hub
from server.run import is_open
from tests.deployed import SuperLink, run_here
from tests.stub_sites import SITES, StubSites, plan_of

ENDS_S = 30.0


@dataclass
class Flower:
    """What `server.hub.control` reaches: sites that answer at once, and the runs that it was told to start.

    Attributes:
        up: whether the hub runs.
        begins: whether Flower's process gets as far as the run directory.
        sites: what the sites make of messages.
    """

    hub: Hub
    up: bool = True
    begins: bool = True
    sites: StubSites = field(default_factory=StubSites)
    grids: list[SuperLink] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start_run(self, hub: Hub, name: str) -> str:
        if not self.up:
            raise RunError("the hub is not running", code="hub-down")
        number = str(1000 + len(self.runs))
        self.runs[number] = "finished:failed" if not self.begins else "running"
        if self.begins:
            grid = SuperLink(*SITES, sites=self.sites)
            self.grids.append(grid)
            self.threads.append(threading.Thread(target=self._carry_out, args=(grid, name), daemon=True))
            self.threads[-1].start()
        return number

    def _carry_out(self, grid: SuperLink, name: str) -> None:
        context = Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {"run": name}))
        with grid, suppress(RunError):
            server_app.app(grid, context)

    def wait(self) -> None:
        """Until everything that was started has ended."""
        for thread in self.threads:
            thread.join(ENDS_S)
            assert not thread.is_alive()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = tmp_path / "hub"
    (folder / "runs").mkdir(parents=True)
    (folder / "hub.toml").write_text('address = "localhost:8443"\n[ports]\nedge = 1\nlink = 2\nhealth = 3\n')
    entries = {
        name: {"public_key": "ecdsa", "node_id": 100 + number, "admitted_at": "2026-01-01T00:00:00+00:00"}
        for number, name in enumerate(SITES)
    }
    write_atomic(folder / "admissions.json", json.dumps(entries).encode())
    monkeypatch.setenv("FEDGLIA_HUB", str(folder))
    monkeypatch.setenv(server_app.RUNS_VARIABLE, str(folder / "runs"))
    monkeypatch.delenv(server_app.ENGINE_VARIABLE, raising=False)
    return open_hub(folder)


@pytest.fixture
def flower(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flower]:
    flower = Flower(hub)
    run_here(monkeypatch)
    monkeypatch.setattr(control, "start_run", flower.start_run)
    monkeypatch.setattr(control, "stop_run", lambda hub, number: flower.stopped.append(number))
    monkeypatch.setattr(control, "is_up", lambda hub: flower.up)
    monkeypatch.setattr(
        control,
        "list_runs",
        lambda hub: [{"run-id": key, "status": status} for key, status in flower.runs.items()],
    )
    monkeypatch.setattr(control, "nodes", lambda hub: dict.fromkeys(range(100, 103), "online"))
    yield flower
    for folder in (hub.runs_folder).glob("*/"):
        (folder / "stop").touch()
    flower.wait()


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "stub.toml"
    path.write_text(plan_of().as_toml())
    return path


Desk = Callable[..., Result]


@pytest.fixture
def desk(flower: Flower) -> Desk:
    """`fedglia rounds ...`; raises what a command raises."""

    def run(*words: str, answer: str = "") -> Result:
        return CliRunner().invoke(rounds, [*words], input=answer, catch_exceptions=False)

    return run


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + ENDS_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(folder: Path) -> bool:
    """Whether nobody works on a run that was begun."""
    return (folder / "summary.json").is_file() and not is_open(folder)
