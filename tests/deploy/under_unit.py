"""Run a command under a systemd unit's rules on system calls, address families and memory, without systemd.

    python under_unit.py UNIT COMMAND...

What it keeps of the unit: SystemCallFilter= with its error, RestrictAddressFamilies=,
MemoryDenyWriteExecute=, NoNewPrivileges=. The groups of system calls are those that `systemd-analyze
syscall-filter` of this machine names. The rest of a unit (mounts, users, memory) needs systemd itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQUAL = 4
_NO_NEW_PRIVILEGES, _SET_MEMORY_RULES, _NO_EXECUTE_GAIN = 38, 65, 1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def settings(unit: Path) -> dict[str, list[str]]:
    """Each key of a unit with its values in order; sections are ignored."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def allowed_calls(unit: Path) -> set[str]:
    """Names of the system calls that a unit allows."""
    allowed: set[str] = set()
    for value in settings(unit)["SystemCallFilter"]:
        names = {name for word in value.removeprefix("~").split() for name in _members(word)}
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed | _members("@default")


def _members(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", word], capture_output=True, text=True, check=True
    ).stdout
    words = [line.strip() for line in shown.splitlines()[1:]]
    return {name for each in words if each and not each.startswith("#") for name in _members(each)}


def restrict(unit: Path) -> None:
    """Put this process, and what it starts, under the unit's rules for good."""
    process = ctypes.CDLL(None, use_errno=True)
    if process.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no new privileges")
    words = settings(unit)
    _load_filter(allowed_calls(unit), families=words["RestrictAddressFamilies"][-1].split())
    if words.get("MemoryDenyWriteExecute") == ["yes"] and process.prctl(
        _SET_MEMORY_RULES, _NO_EXECUTE_GAIN, 0, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "memory: write or execute")


def _load_filter(calls: set[str], *, families: list[str]) -> None:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))
    numbers = {name: library.seccomp_syscall_resolve_name(name.encode()) for name in calls}
    for name, number in numbers.items():
        if number >= 0 and name != "socket":
            library.seccomp_rule_add_array(rules, _ALLOW, number, 0, None)
    for family in families:
        only = (_Comparison * 1)(_Comparison(0, _EQUAL, getattr(socket, family), 0))
        library.seccomp_rule_add_array(rules, _ALLOW, numbers["socket"], 1, only)
    if library.seccomp_load(rules):
        raise OSError("the filter could not be loaded")


if __name__ == "__main__":
    restrict(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
