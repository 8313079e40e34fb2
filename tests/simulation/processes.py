"""Looking at processes from outside, for tests that kill them; needs /proc."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def exists(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z"


def wait_until_gone(pids: list[int]) -> list[int]:
    """Those of `pids` that still run after ten seconds."""
    end = time.monotonic() + 10
    while any(map(exists, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if exists(pid)]


def left_of_group(leader: int) -> list[int]:
    """Processes of a process group that still run after ten seconds."""
    return wait_until_gone([pid for pid in _all() if (_stat(pid) or [""] * 3)[2] == str(leader)])


def _all() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _stat(pid: int) -> list[str] | None:
    """State, parent, group, ...: the fields after the name, which may itself hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
