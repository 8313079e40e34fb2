"""What the system says about processes: who lives, since when, in which group. Linux only (`/proc`).

A process id alone names nobody: it is used again. An id with its start time names one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_STATE, _GROUP, _STARTED = 0, 2, 19
"""Places in `/proc/PID/stat` after the name, which may itself hold spaces and brackets."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: a new process must not look for libraries
_DEAD = frozenset("ZXx")


def born(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None: no such process, or a zombie."""
    fields = _fields(pid)
    return int(fields[_STARTED]) if fields else None


def process_namespace() -> int:
    """The number of the namespace in which this process's id means something; a container has its own."""
    return (_PROC / "self" / "ns" / "pid").stat().st_ino


def lives_since(pid: int, birth: int | None) -> bool:
    """Whether a process is the one that was born then; not where no birth is known."""
    return born(pid) == birth is not None


def living(group: int) -> tuple[int, ...]:
    """Process ids in a process group, without zombies."""
    return tuple(pid for pid in _pids() if (fields := _fields(pid)) and int(fields[_GROUP]) == group)


def works_in(pid: int, folder: Path) -> bool:
    """Whether a process's working directory is `folder`; False where that cannot be seen."""
    try:
        return (_PROC / str(pid) / "cwd").samefile(folder)
    except OSError:
        return False


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group; nothing happens where there is none left to hear it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_with(parent: int, number: signal.Signals) -> None:
    """In a new process: ask the system for a signal when the parent ends, whatever ends that.

    Args:
        parent: its process id, asked for before the fork: it may have ended since.
        number: the signal to get.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir(_PROC) if entry.name.isdecimal())


def _fields(pid: int) -> list[str] | None:
    try:
        content = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = content.rpartition(")")[2].split()
    return None if len(fields) <= _STARTED or fields[_STATE] in _DEAD else fields
