"""The node's memory of itself: what lets a site that was killed back in at once."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client import node

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_a_node_remembers_by_which_number_the_hub_knows_it(folder: Path) -> None:
    assert node.predecessor(folder) is None
    number = 2**64 - 5
    node.remember(folder, number)
    assert node.predecessor(folder) == number


def test_a_folder_that_was_copied_to_another_machine_pushes_nobody_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.remember(folder, 7)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert node.predecessor(folder) is None


@pytest.mark.parametrize("content", ["", "[]", "7", json.dumps({"node_id": "seven", "machine": "x"})])
def test_a_damaged_memory_is_none(folder: Path, content: str) -> None:
    (folder / node.NODE).write_text(content)
    assert node.predecessor(folder) is None


def test_a_disk_that_takes_nothing_does_not_end_the_node(tmp_path: Path) -> None:
    node.remember(tmp_path / "missing", 7)
    node.stamper(tmp_path / "missing")()


def stamped(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / node.LAST_POLL).read_text()))


def test_a_stamp_says_when_the_hub_answered_and_whom(folder: Path) -> None:
    node.stamper(folder)()
    told = stamped(folder)
    assert told["ok"] is True
    assert told["pid"] == os.getpid()
    assert told["time"] == pytest.approx(time.time(), abs=30)
    assert told["boot_s"] == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=30)


def test_a_clock_that_is_set_back_silences_no_stamp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "STAMP_S", 0.0)
    stamp = node.stamper(folder)
    stamp()
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before - 3600)
    stamp()
    assert stamped(folder)["time"] == before - 3600


def test_a_node_takes_its_own_stamp_along_when_it_ends(folder: Path) -> None:
    node.stamper(folder)()
    node.unstamp(folder)
    assert not (folder / node.LAST_POLL).exists()
    node.unstamp(folder)


def test_the_stamp_of_another_process_stays(folder: Path) -> None:
    (folder / node.LAST_POLL).write_text(json.dumps({"time": 1.0, "ok": True, "pid": os.getpid() + 1}))
    node.unstamp(folder)
    assert (folder / node.LAST_POLL).exists()


def test_a_node_takes_no_memory_beyond_its_limit(folder: Path) -> None:
    """A hub that sends more than fits costs the node a message, and the machine nothing."""
    script = f"""
import resource
from pathlib import Path
from client import node
node.arguments = lambda folder: []
def supernode(*words, **more):
    try:
        bytearray(node.NODE_BYTES)
    except MemoryError:
        return 75
node.supernode = supernode
node.main(Path({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=120, check=False).returncode == 75
