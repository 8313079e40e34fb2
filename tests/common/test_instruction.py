"""A plan that a hub sends is read in a bounded time, whatever it is made of."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PlanError
from common.instruction import MAX_PLAN_BYTES, Instruction
from common.plan import Plan, parse

DEEP = ".".join("a" * 3000)


def plan_in(text: str) -> Plan:
    return Instruction("ab" * 16, text, 0, "cd" * 32, new_head=False).plan


@pytest.mark.parametrize(
    "text",
    [
        f"{DEEP} = 1",
        f"[{DEEP}]\n{DEEP} = 1",
        f"x = {{{DEEP} = 1}}",
        " . ".join('"a"' for _ in range(3000)) + " = 1",
        f'x = [""" " """, {{{DEEP} = 1}}, ""]',
        f"x = [''' ' ''', {{{DEEP} = 1}}, '']",
        f'x = "\\"" # "\n{DEEP} = 1',
        f"# '''\n{DEEP} = 1",
    ],
    ids=lambda text: text[:12],
)
def test_a_deep_key_is_refused_before_it_is_read(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(PlanError, match="dots"):
        plan_in(text)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 30_000,
        "x = " + "9" * 60_000,
        '"""\n' + '\\"""\n' * 10_000,
        "k = 1\n" * 10_000,
        "".join(f"k{number} = 1\n" for number in range(6000)),
        "x" * 60_000,
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_plan_is_refused_soon_and_in_few_words(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(PlanError) as raised:
        plan_in(text)
    assert time.perf_counter() - began < 5.0
    assert len(str(raised.value)) < 2500


def test_a_long_plan_is_refused_unread() -> None:
    with pytest.raises(PlanError, match="bytes long"):
        plan_in("#" * (MAX_PLAN_BYTES + 1))


@given(st.text(max_size=200))
def test_whatever_a_plan_says_of_itself_it_is_read_as_it_was_written(about: str) -> None:
    about = about.encode(errors="ignore").decode() + " a.b.c.d.e.f.g.h.i.j"
    plan = parse({"name": "x", "about": about, "rounds": {"quorum": 1}, "sites": {"a": {}}}, origin="x")

    assert plan_in(plan.as_toml()) == plan


def test_a_plan_of_many_sites_is_read() -> None:
    plan = parse({"name": "x", "sites": {f"site-{number}": {} for number in range(800)}}, origin="x")

    assert plan_in(plan.as_toml()) == plan
