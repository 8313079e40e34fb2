"""A run's standing is what its events say, played again line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from server.desk.states import Event, Facts, Standing, standing
from server.desk.table import changes, lines
from server.desk.wording import RUN_STATES, STATES, WORDS
from tests.stub_sites import SITES, plan_of

PLAN = plan_of(rounds__count=4)
ADMITTED = dict.fromkeys(SITES, "admitted")
ONLINE = dict.fromkeys(SITES, "online")
ADULT_A, ADULT_B, SSA = SITES


def at(time: float, kind: str, **facts: object) -> Event:
    return {"time": time, "event": kind, **facts}


OPENED = at(0, "run opened", plan="1", round=0, of=4)
READY = [at(1, "site ready", site=site, patients={}) for site in SITES]
ROUND_1 = at(10, "round opened", round=1, sites=list(SITES), deadline_s=100.0)
ASKED = [at(11, "site asked", site=site, message="train.round", again=False) for site in SITES]
MET = [OPENED, *READY, ROUND_1]


def facts(events: Sequence[Event], **others: object) -> Facts:
    known: dict[str, Any] = {"open": True, "admissions": ADMITTED, "nodes": ONLINE, **others}
    return Facts("stub-1", PLAN, events, **known)


def states(found: Standing) -> dict[str, str]:
    assert found.state in RUN_STATES
    assert {row.state for row in found.sites} <= STATES.keys()
    return {row.site: row.state for row in found.sites}


def account(outcome: str = "folded", **numbers: object) -> dict[str, Any]:
    empty = {"reason": None, "train_s": 2.0, "bytes_up": 10, "bytes_down": 20, "loss": 0.5}
    return {"outcome": outcome, **empty, "validation_dice": 0.25, **numbers}


def record(number: int, **sites: Mapping[str, Any]) -> dict[str, Any]:
    accounts = {name: sites.get(name.replace("-", "_"), account()) for name in SITES}
    return {"round": number, "wall_s": 30.0, "sites": accounts}


def test_before_the_run_heard_anything_it_is_who_is_connected() -> None:
    found = standing(
        facts(
            [OPENED],
            admissions={ADULT_A: "admitted", ADULT_B: "admitted", SSA: "revoked"},
            nodes={ADULT_A: "online", ADULT_B: "registered"},
        ),
        now=1,
    )
    assert found.state == "meeting sites"
    assert states(found) == {ADULT_A: "connected", ADULT_B: "admitted", SSA: "revoked"}


def test_a_site_that_nobody_admitted() -> None:
    found = standing(facts([OPENED], admissions={}, nodes={}), now=1)
    assert set(states(found).values()) == {"not admitted"}
    assert "hub admit" in found.sites[0].remedy


def test_a_site_that_is_offline_is_absent() -> None:
    found = standing(facts([OPENED, *READY], nodes={**ONLINE, SSA: "offline"}), now=1)
    assert states(found) == {ADULT_A: "configured", ADULT_B: "configured", SSA: "absent"}


@pytest.mark.parametrize(
    ("event", "expected", "code"),
    [
        (at(1, "site unusable", site=SSA, outcome="refused", code="unapproved"), "refused", "unapproved"),
        (at(1, "site unusable", site=SSA, outcome="answered", code="identity"), "refused", "identity"),
        (at(1, "site unusable", site=SSA, outcome="left out", code="no-domain"), "refused", "no-domain"),
        (at(1, "site unusable", site=SSA, outcome="late", code="deadline"), "late", "deadline"),
        (at(1, "site asked", site=SSA, message="query.hello", again=False), "connected", ""),
    ],
)
def test_what_a_greeting_brought(event: Event, expected: str, code: str) -> None:
    row = standing(facts([OPENED, event]), now=2).sites[-1]
    assert (row.state, row.code) == (expected, code)


@pytest.mark.parametrize(
    ("events", "expected", "code"),
    [
        ([], "configured", ""),
        ([ASKED[2]], "training", ""),
        ([ASKED[2], at(20, "site away", site=SSA)], "absent", "offline"),
        ([ASKED[2], at(20, "site away", site=SSA), at(30, "site back", site=SSA)], "connected", ""),
        ([ASKED[2], at(20, "site away", site=SSA), ASKED[2]], "training", ""),
        ([ASKED[2], at(20, "site answered", site=SSA, round=1)], "answered", ""),
        ([ASKED[2], at(20, "update refused", site=SSA, code="norm")], "refused", "norm"),
        ([ASKED[2], at(20, "site silent", site=SSA, outcome="refused", code="hours")], "refused", "hours"),
        ([ASKED[2], at(99, "site silent", site=SSA, outcome="late", code="deadline")], "late", "deadline"),
        ([at(99, "site silent", site=SSA, outcome="lost", code="offline")], "absent", "offline"),
        ([at(99, "site silent", site=SSA, outcome="lost", code="keeps-failing")], "lost", "keeps-failing"),
    ],
)
def test_a_round_as_it_goes(events: list[Event], expected: str, code: str) -> None:
    found = standing(facts([*MET, *events]), now=40)
    assert (found.state, found.doing, found.deadline_left_s) == ("running", "round 1", 70.0)
    assert (found.sites[-1].state, found.sites[-1].code) == (expected, code)
    assert bool(found.sites[-1].reason) == bool(code)


def test_a_stage_in_which_sites_judge() -> None:
    opened = at(10, "stage opened", stage="federated", sites=[SSA], deadline_s=50.0)
    asked = at(11, "site asked", site=SSA, message="evaluate.model", again=False)
    found = standing(facts([OPENED, *READY, opened, asked]), now=20)
    assert (found.sites[-1].state, found.doing) == ("judging", "judging the global model")


def test_an_estimate_from_closed_rounds() -> None:
    records = [record(1), record(2)]
    closed = at(100, "round closed", round=2)
    found = standing(facts([*MET, closed], records=records), now=100)
    assert (found.round, found.rounds_left_s) == (2, 60.0)
    assert found.deadline_left_s is None
    opened = at(101, "round opened", round=3, sites=list(SITES), deadline_s=100.0)
    assert standing(facts([*MET, closed, opened], records=records), now=101).round == 3


def test_numbers_of_a_site_are_of_its_folded_rounds() -> None:
    late = account("late", reason="deadline", train_s=None, bytes_up=0, loss=None, validation_dice=None)
    found = standing(facts(MET, records=[record(1), record(2, ssa=late)]), now=100)
    row = found.sites[-1]
    assert (row.folded, row.loss, row.validation_dice, row.train_s) == (1, 0.5, 0.25, 2.0)
    assert (row.bytes_up, row.bytes_down, found.bytes_up) == (10, 40, 50)


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
def test_an_ended_run(status: str) -> None:
    events = [*MET, *ASKED, at(50, f"run {status}", detail="round 1: too few")]
    found = standing(facts(events, status=status, open=False), now=60)
    assert (found.state, found.deadline_left_s, found.doing) == (status, None, "")
    assert found.detail == ("round 1: too few" if status == "failed" else "")


def test_a_site_that_was_at_work_when_the_run_ended_is_only_there() -> None:
    answered = at(20, "site answered", site=ADULT_A, round=1)
    events = [*MET, *ASKED, answered, at(50, "run stopped", by="person")]
    found = standing(facts(events, status="stopped", open=False), now=60)
    assert states(found) == {ADULT_A: "answered", ADULT_B: "connected", SSA: "connected"}


def test_a_run_whose_process_died_is_named_so() -> None:
    found = standing(facts([*MET, *ASKED], status="running", open=False), now=60)
    assert found.state == "interrupted"
    assert "fedglia rounds resume stub-1" in "\n".join(lines(found))


def test_a_run_that_flower_has_not_begun() -> None:
    assert standing(facts([], open=False, queued=True), now=0).state == "queued"
    assert standing(facts([], open=False), now=0).state == "interrupted"


def test_a_resumed_run_forgets_what_it_heard() -> None:
    found = standing(facts([*MET, *ASKED, at(60, "run opened")], status="failed"), now=60)
    assert found.state == "meeting sites"
    assert set(states(found).values()) == {"connected"}


def test_a_hub_that_does_not_answer_hides_nothing_that_is_known() -> None:
    found = standing(facts([OPENED, READY[0]], nodes=None), now=1)
    assert states(found) == {ADULT_A: "configured", ADULT_B: "admitted", SSA: "admitted"}
    assert found.sites[-1].remedy == "fedglia hub start"


def test_lines_that_nobody_knows_are_passed_over() -> None:
    strange = [
        at(1, "something new", site=SSA),
        {"event": "site ready"},
        {"time": 1},
        at(1, "site away", site=7),
    ]
    assert standing(facts([*MET, *strange]), now=20).state == "running"


def test_every_state_and_code_has_words() -> None:
    for word in WORDS.values():
        assert word.sentence
        assert not word.sentence.endswith(".")
    assert all(STATES.values())


def test_a_table_names_each_site_its_state_and_what_to_do() -> None:
    refused = at(20, "site silent", site=SSA, outcome="refused", code="unapproved")
    found = standing(facts([*MET, *ASKED, refused], records=[record(1)], interruptions=2), now=40)
    text = "\n".join(lines(found))
    assert "running, round 2 of 4" in text or "running, round 1 of 4" in text
    assert "70 s until the deadline; about 90 s of rounds left" in text
    assert "gone on with 2 time(s)" in text
    assert "its hospital has not approved this plan" in text
    assert "ssa: send it the plan: fedglia site approve PLAN" in text
    widths = {line.index("training") for line in text.splitlines() if line.startswith("adult")}
    assert len(widths) == 1


def test_changes_are_told_once() -> None:
    first = standing(facts([*MET, *ASKED]), now=20)
    assert len(list(changes(None, first))) == 1 + len(SITES)
    assert list(changes(first, replace(first, deadline_left_s=1.0))) == []
    answered = standing(facts([*MET, *ASKED, at(20, "site answered", site=SSA)]), now=20)
    assert list(changes(first, answered)) == ["ssa: answered"]
