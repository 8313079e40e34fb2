"""Who a node is: by the name under which its key was admitted, never by what it says of itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Context, RecordDict

from common import wire
from common.errors import InputError, QuorumError
from common.instruction import Instruction
from server import app as hub
from server import roster as roster_module
from server.roster import Roster, greet_newcomers, meet
from server.run import Run, create, opened
from simulation.grid import LocalGrid
from tests.deployed import SuperLink
from tests.stub_sites import SITES, StubSites, node_configs, plan_of

PLAN = plan_of()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    create(tmp_path / "run", PLAN, resume=False)
    with opened(tmp_path / "run") as run:
        yield run


def greet(run: Run, names: Mapping[str, str]) -> tuple[Roster, SuperLink]:
    """The roster after one greeting of the three stub sites, which are registered by these names."""
    roster = Roster()
    with SuperLink(*SITES) as grid:
        for site, registered in names.items():
            grid.registered[site] = registered
        greet_newcomers(grid.link(), run, words_of(run), roster, deadline_s=30)
    return roster, grid


def words_of(run: Run) -> Instruction:
    return Instruction(run.identity, run.plan.as_toml(), 0, "0" * 64, False)


def unusable(run: Run) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    return [(line["site"], line["code"]) for line in lines if line["event"] == "site unusable"]


def test_a_site_is_who_its_key_was_admitted_as(run: Run) -> None:
    roster, grid = greet(run, {})
    assert roster.nodes == {site: grid.sites[site].node for site in SITES}


def test_an_account_before_the_name_does_not_matter(run: Run) -> None:
    roster, _ = greet(run, {site: f"@hub/{site}" for site in SITES})
    assert tuple(roster.nodes) == SITES


def test_a_site_that_says_another_name_is_refused(run: Run) -> None:
    roster, _ = greet(run, {SITES[0]: SITES[1], SITES[1]: SITES[0]})
    assert list(roster.nodes) == [SITES[2]]
    assert sorted(unusable(run)) == [(SITES[0], "identity"), (SITES[1], "identity")]


def test_a_site_that_the_plan_does_not_name_is_not_asked(run: Run) -> None:
    roster, grid = greet(run, {SITES[2]: "elsewhere"})
    assert list(roster.nodes) == [SITES[0], SITES[1]]
    assert grid.sites[SITES[2]].received == []


def test_a_site_that_was_admitted_anew_replaces_its_old_node(run: Run) -> None:
    roster = Roster()
    with SuperLink(*SITES) as grid:
        line = grid.link()
        greet_newcomers(line, run, words_of(run), roster, deadline_s=30)
        old = grid.sites["ssa"].node
        grid.move("ssa", 999)
        greet_newcomers(line, run, words_of(run), roster, deadline_s=30)
    assert (old, roster.nodes["ssa"]) == (102, 999)


def test_a_site_that_refused_is_asked_again_later(run: Run) -> None:
    """A hospital approves a plan after the hub asked first; until then it is left in peace."""
    refuses = StubSites({"ssa": "refuses"}, kinds=(wire.HELLO,))
    roster = Roster()
    with SuperLink(*SITES, sites=refuses) as grid:
        line = grid.link()
        for _ in range(3):
            greet_newcomers(line, run, words_of(run), roster, deadline_s=30)
        assert grid.sites["ssa"].received == [wire.HELLO]
        assert unusable(run) == [("ssa", "plan")]
        grid.answer_with(StubSites())
        roster.turned_away = dict.fromkeys(roster.turned_away, time.monotonic())
        greet_newcomers(line, run, words_of(run), roster, deadline_s=30)
    assert tuple(roster.nodes) == SITES


def test_a_site_that_does_not_answer_holds_up_fewer_rounds_each_time(run: Run) -> None:
    roster = Roster()
    with SuperLink(*SITES) as grid:
        grid.sites["ssa"].work_s = 60.0
        line = grid.link()
        waits = []
        for _ in range(4):
            roster.turned_away = {}
            greet_newcomers(line, run, words_of(run), roster, deadline_s=0.3)
            waits.append(roster.turned_away[grid.sites["ssa"].node] - time.monotonic())
    assert [round(wait / 30) for wait in waits] == [1, 2, 4, 8]


def test_a_hub_without_a_quorum_waits_for_who_comes_late(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "LINK_LOOK_S", 0.05)
    roster = Roster()
    with SuperLink(*SITES) as grid:
        for site in SITES[1:]:
            grid.sites[site].cut(unnoticed_s=0.0)
        later = threading.Timer(0.5, grid.sites["ssa"].come_back)
        later.start()
        meet(grid.link(), run, words_of(run), roster, deadline_s=0.1)
    assert list(roster.nodes) == [SITES[0], "ssa"]


def test_a_site_at_work_on_what_nobody_waits_for_is_met_when_it_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a stop and a resume: its quorum needs it, and it answers nobody until it is free."""
    monkeypatch.setattr(roster_module, "LINK_LOOK_S", 0.05)
    monkeypatch.setattr(roster_module, "LINK_GREETING_S", 0.2)
    roster = Roster()
    with SuperLink(*SITES) as grid:
        for site in SITES[1:]:
            grid.sites[site].work_s = 1.0

        def be_free() -> None:
            for site in SITES[1:]:
                grid.sites[site].work_s = 0.0

        later = threading.Timer(0.7, be_free)
        later.start()
        meet(grid.link(), run, words_of(run), roster, deadline_s=0.2)
    assert len(roster.nodes) >= 2


def test_a_hub_whose_sites_never_come_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "LINK_LOOK_S", 0.05)
    create(tmp_path / "run", plan_of(rounds__deadline_s=1.0), resume=False)
    with opened(tmp_path / "run") as run, SuperLink(*SITES) as grid:
        for site in SITES[1:]:
            grid.sites[site].cut(unnoticed_s=0.0)
        with pytest.raises(QuorumError, match=r"1 of 3 sites are usable.*missing: adult-b, ssa"):
            meet(grid.link(), run, words_of(run), Roster(), deadline_s=0.1)


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
