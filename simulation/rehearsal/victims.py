"""Which processes a rehearsal may end, and how: by their ids, found below the supervisors that it started."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common.process_table import born
from simulation.rehearsal.machines import Machine

_PROC = Path("/proc")
_PARENT = 1
"""Place of the parent in /proc/PID/stat, after the name."""


def send(pid: int, number: signal.Signals) -> None:
    """Signal one process; nothing happens where it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def below(pid: int) -> list[int]:
    """Everything that a process started, directly or not, the latest first."""
    children: dict[int, list[int]] = defaultdict(list)
    for child, parent in _parents():
        children[parent].append(child)
    found = [pid]
    for each in found:  # grows as it goes
        found += children[each]
    return found[:0:-1]


def named(pid: int, word: str) -> list[int]:
    """Those below a process whose command line holds a word."""
    return [each for each in below(pid) if word in _command(each)]


def training(site: Machine) -> int | None:
    """The process with which a site's worker answers a message; None while it answers none."""
    worker = site.service_pids().get("worker")
    children = below(worker) if worker else []
    return children[-1] if children else None


def power_off(machine: Machine) -> int:
    """End everything on a machine at once, so that nothing can say goodbye; how many processes that were."""
    supervisor = machine.supervisor_pid()
    send(supervisor, signal.SIGSTOP)  # or it would start again what ends
    ended = below(supervisor)
    for pid in ended:
        send(pid, signal.SIGKILL)
    send(supervisor, signal.SIGKILL)
    return len(ended) + 1


def lives(pid: int) -> bool:
    """Whether a process of that id runs; a zombie does not."""
    return born(pid) is not None


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with suppress(OSError, IndexError):
                stat = (_PROC / entry.name / "stat").read_text(errors="replace")
                yield int(entry.name), int(stat.rpartition(")")[2].split()[_PARENT])


def _command(pid: int) -> str:
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_text(errors="replace")
    return ""
