"""Each code that a site or the hub gives has a sentence; durations and sizes read as people say them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.policy import Policy, excesses
from common.plan import Plan
from server.desk.wording import RUN_STATES, STATES, WORDS, duration, explain, size
from tests.stub_sites import plan_of

ROOT = Path(__file__).resolve().parents[3]
OF_THE_HUB = {"edge", "flower", "hub-down", "hub-slow", "key-used", "link", "quorum", "run", "stopped"}
"""Codes of errors that the coordinator reads in words; no site sends them."""


def codes() -> set[str]:
    """Codes in the sources that sites and the hub's gate give."""
    found: set[str] = set()
    for room in ("client", "common", "server"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r'code="([a-z0-9-]+)"', path.read_text()))
    return found - OF_THE_HUB


def test_each_code_in_the_sources_has_words() -> None:
    assert codes() - WORDS.keys() == set()


def test_each_cap_has_words() -> None:
    def asked(plan: Plan, policy: Policy) -> set[str]:
        return {excess.code for excess in excesses(policy, plan, bytes_up=10**15)}

    found = asked(plan_of(rounds__count=10**6), Policy(minimum_sites=3))
    assert {"cap-rounds", "cap-steps", "cap-bytes", "minimum-sites"} <= found
    assert found <= WORDS.keys()


def test_the_handbook_names_every_state() -> None:
    page = (ROOT / "docs" / "coordinator-handbook.md").read_text()
    words = page.split("## What the words mean", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| `([a-z ]+)` \|", words, re.MULTILINE)
    assert named == [*RUN_STATES, *STATES]


def test_a_code_that_is_not_known_is_shown_as_it_is() -> None:
    assert explain("brand-new").sentence == "code 'brand-new'"
    assert "site.log" in explain("brand-new").remedy


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (8_000_000, "8.0 MB"), (10**13, "10.0 TB")],
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words
