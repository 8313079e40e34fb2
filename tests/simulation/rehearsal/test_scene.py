"""The account of a run's rounds: what was lost, when it recovered, what became of each site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from simulation.rehearsal.machines import HubMachine
from simulation.rehearsal.scene import (
    Scene,
    asked_again,
    closed_rounds,
    outcomes,
    recovered_s,
    rounds_lost,
)

SITES = frozenset({"a", "b"})
CLOSED = st.dictionaries(st.integers(1, 6), st.sampled_from(["one", "two"]))


def closed(number: int, at: float, *folded: str) -> dict[str, Any]:
    return {"event": "round closed", "round": number, "time": at, "folded": list(folded)}


def checkpoint(run: Path, name: str, content: bytes) -> None:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / name).write_bytes(content)


def test_closed_rounds_are_those_with_a_checkpoint_of_their_own(tmp_path: Path) -> None:
    for name in ("round-0000.safetensors", "round-0001.safetensors", "round-0002.safetensors"):
        checkpoint(tmp_path, name, name.encode())
    for name in ("round-0002.server.safetensors", "last.safetensors", ".round-0003.safetensors.x.tmp"):
        checkpoint(tmp_path, name, b"")
    found = closed_rounds(tmp_path)
    assert sorted(found) == [1, 2]
    assert found[1] != found[2]
    assert closed_rounds(tmp_path / "none") == {}


def test_a_round_that_is_missing_or_another_afterwards_is_lost() -> None:
    before = {1: "one", 2: "two", 3: "three"}
    assert rounds_lost(before, before) == 0
    assert rounds_lost(before, {**before, 4: "four"}) == 0
    assert rounds_lost(before, {1: "one", 2: "other"}) == 2


@given(before=CLOSED, after=CLOSED)
def test_no_more_rounds_are_lost_than_were_closed(before: dict[int, str], after: dict[int, str]) -> None:
    lost = rounds_lost(before, after)
    assert 0 <= lost <= len(before)
    assert (lost == 0) == (before.items() <= after.items())


def test_a_run_has_recovered_when_a_round_after_the_fault_holds_every_site() -> None:
    events = [closed(1, 10.0, "a", "b"), closed(2, 25.0, "a"), closed(3, 31.26, "b", "a")]
    assert recovered_s(events, since=20.0, sites=SITES) == 11.3
    assert recovered_s(events, since=20.0, sites=frozenset({"a"})) == 5.0
    assert recovered_s(events, since=9.0, sites=SITES) == 1.0
    assert recovered_s(events, since=40.0, sites=SITES) is None
    assert recovered_s([], since=0.0, sites=SITES) is None


def test_outcomes_name_each_site_in_each_round_with_the_reason() -> None:
    folded = {"outcome": "folded", "reason": None}
    late = {"outcome": "late", "reason": "deadline"}
    summary = {"rounds": [{"round": 2, "sites": {"a": folded, "b": late}}]}
    assert outcomes(summary) == {"2": {"a": "folded", "b": "late (deadline)"}}
    assert outcomes({}) == {}


def test_questions_that_were_sent_once_more_are_counted_for_the_site() -> None:
    asked = {"event": "site asked", "site": "a", "again": True}
    assert asked_again([asked, {**asked, "again": False}, {**asked, "site": "b"}], "a") == 1


def test_a_run_that_nobody_writes_is_dead_whatever_its_summary_says(tmp_path: Path) -> None:
    scene = Scene(HubMachine(tmp_path), {}, {}, {}, Path("plan.toml"), run="run", hit="a")
    assert scene.state() == "dead"
    scene.folder.mkdir(parents=True)
    for status, state in (("running", "dead"), ("failed", "failed"), ("completed", "completed")):
        (scene.folder / "summary.json").write_text(json.dumps({"status": status}))
        assert scene.state() == state
