"""A status that does not lie: after a stop, a crash, and with a clock that was set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import Context, Message

from client import audit, chain, egress, services
from client.node import LAST_POLL, stamper
from client.policy import Policy
from client.repeats import EACH
from client.spending import Cost, reserve
from client.status import FRESH_S, SHOWN, Standing, headline, heard_s, is_heard, lines, look, why
from client.trust import CA_FILE
from common.process_table import process_namespace
from tests.client.hospital import RUN, START, Hospital, app_of, hospital, plan_of, replied


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    made = hospital(tmp_path / "ssa")
    (made.folder / "run").mkdir()
    return made


def stamp(site: Hospital, *, ago_s: float = 1.0, clock_set_by_s: float = 0.0, **changes: object) -> None:
    """What a node wrote when it was heard, and by how much the clock was set since."""
    told = {
        "time": time.time() - ago_s - clock_set_by_s,
        "ok": True,
        "pid": os.getpid(),
        "pids": process_namespace(),
        "boot_s": time.clock_gettime(time.CLOCK_BOOTTIME) - ago_s,
    }
    (site.folder / LAST_POLL).write_text(json.dumps({**told, **changes}))


def ended() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_node_writes_is_what_is_read(site: Hospital) -> None:
    stamper(site.folder)()

    assert is_heard(site.folder)
    assert look(site.folder).state == "well"


def test_a_node_that_crashed_a_moment_ago_is_not_well(site: Hospital) -> None:
    stamp(site, pid=ended())

    assert look(site.folder).state == "stopped"
    assert not is_heard(site.folder)
    assert heard_s(site.folder) == pytest.approx(1.0, abs=1.0)


def test_a_node_of_another_container_is_believed_by_its_stamp_alone(site: Hospital) -> None:
    stamp(site, pid=ended(), pids=1)
    assert look(site.folder).state == "well"

    stamp(site, ago_s=FRESH_S + 5, pids=1)
    assert look(site.folder).state == "stopped"


@pytest.mark.parametrize("set_by_s", [-3600.0, 0.0, -40.0])
def test_a_clock_that_was_set_back_makes_no_stamp_young(site: Hospital, set_by_s: float) -> None:
    stamp(site, ago_s=30.0, clock_set_by_s=set_by_s)

    assert heard_s(site.folder) in (None, pytest.approx(30.0, abs=2.0))
    assert look(site.folder).state == "stopped"


def test_after_the_machine_started_anew_the_stamp_is_old(site: Hospital) -> None:
    stamp(site, ago_s=600.0, boot_s=time.clock_gettime(time.CLOCK_BOOTTIME) + 1e6)

    assert heard_s(site.folder) == pytest.approx(600.0, abs=2.0)


@pytest.mark.parametrize("text", ["", "[]", '{"time": "x"}', '{"time": 1, "ok": true, "boot_s": null}'])
def test_a_damaged_stamp_is_none(site: Hospital, text: str) -> None:
    (site.folder / LAST_POLL).write_text(text)

    assert heard_s(site.folder) is None
    assert not is_heard(site.folder)


def test_a_stop_takes_the_stamp_along(site: Hospital) -> None:
    stamp(site)
    services.stop(site.folder)

    assert look(site.folder).state == "stopped"
    assert heard_s(site.folder) is None


def test_what_a_message_may_take_is_shown_apart_from_what_was_spent(site: Hospital) -> None:
    """The app runs in the worker's own process here, as where it is `resident`."""
    found: list[Standing] = []

    def run(message: Message, context: Context) -> Message:
        found.append(look(site.folder))
        return replied(message)

    for number in (1, 2):
        site.ask(site.message(round_number=number, ttl=50.0), app_of(run))
    first, second = (standing.at_work for standing in found)
    assert first is not None
    assert second is not None
    assert (second["run"], second["plan"], second["round"]) == (RUN, site.plan.name, 2)
    assert first["before"] == {"seconds": 0.0, "steps": 0, "bytes_up": 0}
    assert second["before"] == {
        **{"seconds": pytest.approx(0.0, abs=5.0), "steps": 2, "bytes_up": site.egress()[0]["bytes"]}
    }
    assert second["reserved"]["seconds"] == pytest.approx(50.0, abs=5.0)
    assert second["reserved"]["bytes_up"] > 0
    (told,) = [line for line in lines(found[1]) if line.startswith("before it ")]
    assert f"{site.egress()[0]['bytes']:,} bytes" in told
    assert look(site.folder).at_work is None


def test_what_a_killed_process_reserved_is_no_work(site: Hospital) -> None:
    account = site.folder / "state" / RUN
    reserve(account, Policy(), Cost(60.0, 1, 10), plan="5c" * 32, start=START, round_number=1)
    written = json.loads((account / "spent.json").read_text())
    assert look(site.folder).at_work is not None

    for pids, until_s, at_work in ((None, 60.0, False), (1, 60.0, True), (1, -60.0, False)):
        told = {**written["reserved"], "pid": ended(), "since": time.time() - 60.0 + until_s}
        told["pids"] = pids or told["pids"]
        (account / "spent.json").write_text(json.dumps({**written, "reserved": told}))
        assert (look(site.folder).at_work is not None) == at_work


def test_old_refusals_are_counted_and_not_shown(site: Hospital) -> None:
    def refused(code: str, *, days_ago: float) -> None:
        when = datetime.now(UTC) - timedelta(days=days_ago)
        facts = {"event": "refused", "code": code, "words": "no"}
        chain.append(site.folder / audit.FILE, {"time": f"{when:%Y-%m-%dT%H:%M:%SZ}", **facts})

    for number in range(3):
        refused(f"old-{number}", days_ago=7.1)
    refused("hours", days_ago=6.9)
    found = look(site.folder)
    assert [line["code"] for line in found.refused] == ["hours"]
    assert (found.refused_more, found.refused_older) == (0, 3)
    assert "old-" not in "\n".join(lines(found))
    assert any(
        "0 more of the last 7 days and 3 before; all of them are in audit.jsonl" in x for x in lines(found)
    )

    for number in range(SHOWN):
        refused(f"new-{number}", days_ago=1.0)
    found = look(site.folder)
    assert [line["code"] for line in found.refused] == [f"new-{number}" for number in (4, 3, 2, 1, 0)]
    assert (found.refused_more, found.refused_older) == (1, 3)


def test_what_came_from_outside_steers_no_terminal(site: Hospital) -> None:
    """Records of an earlier version, and logs of programs that are not ours, may hold anything."""
    (site.folder / "logs").mkdir()
    (site.folder / "logs" / "node.log").write_text("an error \x1b]0;owned\x07 of the hub \u202e\n")
    audit.note(site.folder, "refused", {"code": "plan", "times": 100, "words": "\x1b[2J\u202e" + "k" * 9000})
    shown = "\n".join([*lines(look(site.folder)), why(site.folder, "node")])

    assert shown.replace("\n", "").isprintable()
    assert "plan (100 times): " in shown
    assert len(shown) < 2000


@pytest.mark.parametrize("file", ["egress.jsonl", "audit.jsonl"])
def test_a_site_whose_record_was_changed_is_not_well(site: Hospital, file: str) -> None:
    stamp(site)
    for number in (1, 2):
        chain.append(site.folder / file, {"event": "approved", "bytes": number})
    record = site.folder / file
    record.write_text(record.read_text().replace('"bytes":1', '"bytes":9'))
    found = look(site.folder)

    assert found.state == "record changed"
    assert list(found.records) == [file]
    assert any(line.startswith(f"records     {file}: line ") for line in lines(found))
    assert list(lines(found))[-1] == "what to do  fedglia site check"


def test_a_site_that_is_well_and_refuses_says_so_until_it_answers(site: Hospital) -> None:
    stamp(site)
    other = replace(site, plan=plan_of(seed=7))
    assert headline(look(site.folder)) == "well"
    site.ask(site.message())
    for _ in range(2):
        other.ask(other.message(run="ef" * 16))
    found = look(site.folder)

    assert (found.state, found.refusing and found.refusing["messages"]) == ("well", 2)
    assert headline(found) == "well, but refused 2 message(s) since the last accepted one: unapproved"
    site.ask(site.message())
    assert look(site.folder).refusing is None
    assert headline(look(site.folder)) == "well"


def test_repeats_that_were_not_noted_count_and_old_refusals_are_not_current(site: Hospital) -> None:
    line = {"records": ["refusal"], "code": "hours", "run": "ab"}
    for times in [None] * EACH + [100, 1000]:
        egress.record(site.folder, line | ({"times": times} if times else {}))
    found = look(site.folder).refusing
    assert found is not None
    assert (found["messages"], found["code"]) == (1000, "hours")

    (site.folder / "egress.jsonl").unlink()
    (site.folder / "egress.head").unlink()
    when = datetime.now(UTC) - timedelta(days=7.1)
    chain.append(site.folder / "egress.jsonl", {**line, "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"})
    assert look(site.folder).refusing is None


def test_a_site_that_never_met_its_hub_is_to_be_checked_and_not_started(site: Hospital) -> None:
    assert list(lines(look(site.folder)))[-1] == "what to do  fedglia site check"

    (site.folder / CA_FILE).write_text("")
    assert list(lines(look(site.folder)))[-1] == "what to do  fedglia site start"
