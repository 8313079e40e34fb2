"""Who a node is: by the name under which its key was admitted, never by what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Context, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from common.errors import InputError
from common.instruction import Instruction
from server import app as hub
from server.roster import Roster, greet_newcomers
from server.run import Run, create, opened
from simulation.grid import LocalGrid
from tests.stub_sites import SITES, StubSites, node_configs, plan_of

PLAN = plan_of()


class Admitted(LocalGrid):
    """A grid whose nodes were admitted under a name, as a deployed hub's are."""

    names: Mapping[int, str]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=self.names[node]) for node in self.get_node_ids()]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    create(tmp_path / "run", PLAN, resume=False)
    with opened(tmp_path / "run") as run:
        yield run


def greet(run: Run, names: Mapping[int, str]) -> Roster:
    """The roster after one greeting of the three stub sites, which are registered by these names."""
    roster = Roster()
    words = Instruction(run.identity, run.plan.as_toml(), 0, "0" * 64, False)
    grid = Admitted(node_configs(), StubSites())
    grid.names = names
    with grid:
        greet_newcomers(grid, run, words, roster, deadline_s=30)
    return roster


def unusable(run: Run) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    return [(line["site"], line["code"]) for line in lines if line["event"] == "site unusable"]


def test_a_site_is_who_its_key_was_admitted_as(run: Run) -> None:
    names = dict(zip(node_configs(), SITES, strict=True))
    roster = greet(run, names)
    assert roster.nodes == {site: node for node, site in names.items()}


def test_an_account_before_the_name_does_not_matter(run: Run) -> None:
    roster = greet(run, {node: f"@hub/{site}" for node, site in zip(node_configs(), SITES, strict=True)})
    assert tuple(roster.nodes) == SITES


def test_a_site_that_says_another_name_is_refused(run: Run) -> None:
    first, second, third = node_configs()
    roster = greet(run, {first: SITES[1], second: SITES[0], third: SITES[2]})
    assert list(roster.nodes) == [SITES[2]]
    assert sorted(unusable(run)) == [(SITES[0], "identity"), (SITES[1], "identity")]


def test_a_site_that_the_plan_does_not_name_is_not_asked(run: Run) -> None:
    first, second, third = node_configs()
    roster = greet(run, {first: SITES[0], second: SITES[1], third: "elsewhere"})
    assert list(roster.nodes) == [SITES[0], SITES[1]]
    assert roster.strangers == set()


@pytest.mark.parametrize("name", ["../run", "/etc", "run/../run", "other", "Run", "a" * 99])
def test_a_run_outside_the_hubs_folder_cannot_be_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "runs" / "run", PLAN, resume=False)
    monkeypatch.setenv(hub.RUNS_VARIABLE, str(tmp_path / "runs"))
    context = Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {"run": name}))
    with (
        LocalGrid(node_configs(), StubSites()) as grid,
        pytest.raises(InputError, match="no run of this hub"),
    ):
        hub.app(grid, context)
    assert not (tmp_path / "runs" / "run" / "events.jsonl").exists()


def test_a_run_of_the_hub_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "runs" / "stub-1", PLAN, resume=False)
    monkeypatch.setenv(hub.RUNS_VARIABLE, str(tmp_path / "runs"))
    seen: list[Path] = []
    monkeypatch.setattr(hub, "carry_out", lambda grid, run, roster: seen.append(run.folder))
    context = Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {"run": "stub-1"}))
    with LocalGrid(node_configs(), StubSites()) as grid:
        hub.app(grid, context)
    assert seen == [tmp_path / "runs" / "stub-1"]
