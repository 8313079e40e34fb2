"""A status that does not lie: after a stop, a crash, and with a clock that was set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client import audit, services
from client.node import LAST_POLL, process_namespace, stamper
from client.status import FRESH_S, heard_s, is_heard, lines, look, why
from tests.client.hospital import Hospital, hospital


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


def test_what_came_from_outside_steers_no_terminal(site: Hospital) -> None:
    """Records of an earlier version, and logs of programs that are not ours, may hold anything."""
    (site.folder / "logs").mkdir()
    (site.folder / "logs" / "node.log").write_text("an error \x1b]0;owned\x07 of the hub \u202e\n")
    audit.note(site.folder, "refused", {"code": "plan", "times": 100, "words": "\x1b[2J\u202e" + "k" * 9000})
    shown = "\n".join([*lines(look(site.folder)), why(site.folder, "node")])

    assert shown.replace("\n", "").isprintable()
    assert "plan (100 times): " in shown
    assert len(shown) < 2000
