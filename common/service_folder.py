"""What lies in a folder whose services are supervised: the lock, and the record of who runs.

    FOLDER/run/supervisor.lock   held by the one supervisor; the system releases it if that is killed
    FOLDER/run/services.json     who runs: {"supervisor": pid, "services": {NAME: {"pid", ...}}}
    FOLDER/logs/NAME.log         what each service says; supervisor.log is the supervisor's own

Beside each process id stands `born`, when that process started: a pair that names one process only.
"""

from __future__ import annotations

import contextlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from common.locks import is_locked, locked

_LOCK_S = 1.0  # `is_held` holds it too, for a moment
_KEYS = {"pid", "born", "started_at", "restarts", "last_exit"}


def make_folders(folder: Path) -> None:
    """Make what a supervisor writes to: `run` and `logs`, for the owner alone."""
    for part in ("run", "logs"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)


def is_held(folder: Path) -> bool:
    """Whether a supervisor holds the lock of `folder`.

    Raises:
        OSError: the lock belongs to somebody else, and cannot be looked at.
    """
    return is_locked(_lock_file(folder))


def read_record(folder: Path) -> dict[str, Any]:
    """What run/services.json says, true or not; empty where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(record_file(folder).read_bytes())
        if isinstance(found, dict) and isinstance(services := found.get("services"), dict):
            return {**found, "services": {name: it for name, it in services.items() if _is_whole(it)}}
    return {}


def _is_whole(entry: object) -> bool:
    """Whether a service's part of the record can be read; anybody may have written in it."""
    if not isinstance(entry, dict) or not entry.keys() >= _KEYS:
        return False
    spared = entry.get("spared", [])
    ids = [entry["pid"], *spared] if isinstance(spared, list) else [""]
    return all(isinstance(each, int | None) for each in ids)


def _lock_file(folder: Path) -> Path:
    return folder / "run" / "supervisor.lock"


def record_file(folder: Path) -> Path:
    """Where a supervisor says who runs."""
    return folder / "run" / "services.json"


def alone(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder's lock for as long as a block runs.

    Raises:
        LockedError: another supervisor holds it.
    """
    refusal = f"{folder.name}: its services run already under another supervisor; stop that first"
    return locked(_lock_file(folder), wait_s=_LOCK_S, refusal=refusal)
