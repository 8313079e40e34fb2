"""A run's events in words: one line for what is worth saying, none for the rest."""

from __future__ import annotations

import re
from typing import Any

import pytest

from server import stages
from simulation.progress import STAGES, teller

ROUND = {
    "event": "round closed",
    "round": 1,
    "wall_s": 4.0,
    "folded": ["adult-a", "ssa"],
    "subset": False,
    "validation_dice": None,
}


def told(*events: dict[str, Any], rounds: int = 3) -> list[str]:
    """Lines without their seconds, which every line begins with."""
    lines: list[str] = []
    listen = teller(lines.append, rounds=rounds)
    for event in events:
        listen(event)
    assert all(re.match(r"\[ +\d+\.\d s\] ", line) for line in lines)
    return [line.split("] ", 1)[1] for line in lines]


def test_a_round_tells_its_time_and_how_long_is_left() -> None:
    """Two of three rounds are left, at 4 s each; then one, at the mean of 4 s and 2 s."""
    second = {**ROUND, "round": 2, "wall_s": 2.0, "validation_dice": 0.5}

    assert told(ROUND, second) == [
        "round 1/3 closed in 4.0 s: 2 update(s) folded; about 8 s of rounds left",
        "round 2/3 closed in 2.0 s: 2 update(s) folded; received model's validation Dice 0.500; "
        "about 3 s of rounds left",
    ]


def test_a_subset_is_named() -> None:
    line = told({**ROUND, "folded": ["ssa"], "subset": True}, rounds=1)

    assert line == ["round 1/1 closed in 4.0 s: 1 update(s) folded; subset: ssa only"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"event": "site silent", "site": "ssa", "outcome": "late", "code": "deadline"},
            "site ssa: late (deadline)",
        ),
        (
            {"event": "update refused", "site": "ssa", "code": "norm", "detail": "its update is long"},
            "site ssa: its update is long",
        ),
        (
            {"event": "site ready", "site": "ssa", "patients": {"train": 2, "test": 1}},
            "site ssa is ready; patients: 2 train, 1 test",
        ),
        ({"event": "site answered", "site": "ssa", "seconds": 1.25}, "    ssa answered after 1.2 s"),
        ({"event": "run opened", "round": 2, "of": 8}, "run opened at round 2 of 8"),
        (
            {"event": "preparing cohorts", "sites": ["adult-a", "ssa"]},
            "preparing the cohorts of adult-a, ssa",
        ),
    ],
)
def test_what_is_worth_saying(event: dict[str, Any], line: str) -> None:
    assert told(event) == [line]


def test_the_rest_is_silent() -> None:
    assert told({"event": "round opened", "round": 1}, {"event": "an event of tomorrow"}) == []


@pytest.mark.parametrize("stage", stages.ALL, ids=lambda stage: stage.name)
def test_every_stage_has_words(stage: stages.Stage) -> None:
    assert told({"event": "stage opened", "stage": stage.name, "sites": ["ssa"]}) == [
        f"{STAGES[stage.name]}: ssa"
    ]
