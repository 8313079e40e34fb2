"""The table of faults: what each row promises, and that what it needs is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from common import plan as plans
from server.run import RUN_NAME
from simulation.rehearsal import faults
from simulation.rehearsal.chaos import PLAN, slug
from simulation.rehearsal.faults import DISK_SITE, FAULTS, FOLDED, LATE, LOST, REFUSED, Fault

ROWS = [pytest.param(fault, id=slug(fault.name)) for fault in FAULTS]


def test_the_kinds_that_were_asked_for_are_there() -> None:
    names = " | ".join(fault.name for fault in FAULTS)
    asked = (
        *("site's node", "site's worker", "site's machine", "SuperLink", "ServerApp", "superexec", "edge"),
        *("hub's machine", "link cut", "link slow", "20 % of connections reset", "straggler", "joins late"),
        *("certificate rotated", "disk full at a site", "disk full at the hub", "revoked", "CONNECT proxy"),
    )
    assert [kind for kind in asked if kind not in names] == []
    assert len(FAULTS) >= len(asked)


def test_every_fault_has_a_name_of_its_own_that_a_run_can_have() -> None:
    names = [slug(fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert all(RUN_NAME.fullmatch(f"{number:02d}-{name}") for number, name in enumerate(names))


@pytest.mark.parametrize("fault", ROWS)
def test_a_row_is_about_a_site_of_the_plan_and_outcomes_that_there_are(fault: Fault) -> None:
    plan = plans.load(PLAN)
    assert fault.hit in plan.site_names
    assert fault.outcomes
    assert fault.outcomes <= {FOLDED, LOST, LATE, REFUSED}
    assert fault.disk in ("", "hub", DISK_SITE)
    assert plan.rounds.deadline_s < fault.within_s <= 4 * plan.rounds.deadline_s


def test_what_cannot_be_undone_comes_last() -> None:
    lasting = [fault.returns for fault in FAULTS]
    assert lasting == sorted(lasting, reverse=True)


def test_a_run_survives_without_the_site_that_is_hit() -> None:
    plan = plans.load(PLAN)
    assert plan.rounds.quorum < len(plan.sites)
    assert plan.rounds.count >= 3  # one before the fault, one with it, one after it


@pytest.mark.parametrize("fault", ROWS)
def test_every_wait_of_an_injection_has_an_end(fault: Fault) -> None:
    source = inspect.getsource(fault.inject) + inspect.getsource(fault.moment)
    assert "while True" not in source
    assert all("within_s=" in call for call in re.findall(r"wait_for\((.*?)\n    \)", source, re.DOTALL))


def test_processes_are_ended_by_id_alone() -> None:
    for name in ("faults", "victims", "trial", "scene"):
        text = (Path(faults.__file__).with_name(f"{name}.py")).read_text()
        assert not re.search(r"pkill|killall|killpg", text), name
