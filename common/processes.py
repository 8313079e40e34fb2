"""Services in the background: started, stopped and looked at from another process than their supervisor.

services.json is believed only while the lock is held and the process ids in it belong to processes that
started when it says. A process id that is used again is never taken for ours, and gets no signal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import LockedError, RunError
from common.process_table import lives_since
from common.service_folder import is_held, make_folders, read_record
from common.service_logs import open_log, sweep, tail
from common.supervisor import LOG, NOT_STARTED, Service, supervise

__all__ = ["Service", "ServiceState", "start", "states", "stop", "supervise", "sweep", "tail"]

_LOOK_S = 0.05
_STEADY_S = 0.3
_LINES = 8
_STILL = "is still stopping; if systemd or a container keeps it running, stop it there"
_UNKNOWN = (
    "is held by a supervisor that services.json does not name: if the disk is full, make room and try again; "
    "if it runs in a container, stop it there"
)


@dataclass(frozen=True)
class ServiceState:
    """One service as its supervisor last recorded it.

    Attributes:
        pid: its process, None while it waits to be started again.
        started_at: when it was last started, seconds since 1970; None if never.
        restarts: how often it was started again since its supervisor started.
        last_exit: status of the last time it ended, -9 if signal 9 ended it, 127 if its command could not be
            started; None if it never ended.
    """

    pid: int | None
    started_at: float | None
    restarts: int
    last_exit: int | None


def start(folder: Path, command: Sequence[str], *, wait_s: float) -> None:
    """Start a supervisor in the background, and wait until each of its services has a process that stays.

    Args:
        folder: what it supervises.
        command: a command that calls `supervise` for this folder. It runs in the folder, in a session of its
            own; what it says goes to logs/supervisor.log. Paths in it are absolute.
        wait_s: how long to wait at most. What a killed supervisor left is ended first, which may take 20 s.

    Raises:
        LockedError: a supervisor runs already.
        RunError: it ended, or a service does not stay; the last lines of the log are in the message. A
            supervisor that has not ended goes on trying.
    """
    folder = folder.resolve()
    if is_held(folder):
        raise LockedError(f"{folder.name}: its services run already; stop them first")
    process = _begin(folder, command)
    # Reaps it, in a caller that lives on; the thread that starts a supervisor need not outlive it.
    threading.Thread(target=process.wait, daemon=True).start()
    _await(folder, process, wait_s)


def stop(folder: Path, *, wait_s: float) -> bool:
    """Ask the supervisor of `folder` to stop its services, and wait until it has ended; False if none runs.

    Raises:
        RunError: it did not end in time, does not say who it is, or belongs to another user.
    """
    folder = folder.resolve()
    end = time.monotonic() + wait_s
    ran, asked = False, None
    while is_held(folder) or (asked is not None and lives_since(*asked)):
        ran = True
        asked = asked or _ask_to_stop(folder)  # it holds the lock before it has said who it is
        if time.monotonic() > end:
            raise RunError(f"{folder.name}: {_STILL if asked else _UNKNOWN} (waited {wait_s:g} s)")
        time.sleep(_LOOK_S)
    return ran


def states(folder: Path) -> dict[str, ServiceState]:
    """The services of `folder` by name, in their order; empty if no supervisor runs.

    What a supervisor left that was killed, or was running when the machine went down, counts for nothing.
    """
    folder = folder.resolve()
    record = read_record(folder)
    if not is_held(folder) or _supervisor(record) is None:
        return {}
    return {name: _state(entry) for name, entry in record["services"].items()}


def _supervisor(record: Mapping[str, Any]) -> int | None:
    """The supervisor's process id, if the process of that id is the one that wrote the record."""
    pid = record.get("supervisor")
    return pid if pid and lives_since(pid, record.get("born")) else None


def _state(entry: Mapping[str, Any]) -> ServiceState:
    pid = entry["pid"]
    lives = pid is not None and lives_since(pid, entry["born"])
    return ServiceState(pid if lives else None, entry["started_at"], entry["restarts"], entry["last_exit"])


def _ask_to_stop(folder: Path) -> tuple[int, int] | None:
    """The supervisor that was asked, by process id and birth; None where it has not said who it is."""
    record = read_record(folder)
    pid = _supervisor(record)
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return None
    except PermissionError:
        raise RunError(
            f"{folder.name}: its services belong to another user; stop them as that user"
        ) from None
    return pid, int(record["born"])


def _begin(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        make_folders(folder)
        output = open_log(folder, LOG)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                start_new_session=True,
            )
        finally:
            os.close(output)
    except OSError as error:
        raise RunError(
            f"{folder.name}: its services could not be started ({error.strerror}: {error.filename}); "
            "make room, or check the folder's rights"
        ) from error


def _await(folder: Path, process: subprocess.Popen[bytes], wait_s: float) -> None:
    """Wait until the same processes are seen for `_STEADY_S`."""
    end = time.monotonic() + wait_s
    seen: tuple[int | None, ...] = ()
    since = 0.0
    while True:
        if process.poll() is not None:
            raise RunError(f"{folder.name}: its services could not be started:\n{tail(folder, LOG, _LINES)}")
        found = states(folder)
        pids = tuple(state.pid for state in found.values())
        now = time.monotonic()
        if pids != seen:
            seen, since = pids, now
        if pids and None not in pids and now - since >= _STEADY_S:
            return
        if now > end:
            raise RunError(f"{folder.name}: {_why_not(folder, found)}")
        time.sleep(_LOOK_S)


def _why_not(folder: Path, found: Mapping[str, ServiceState]) -> str:
    """Which service does not stay, and what it said."""
    if not found:
        return f"its supervisor does not say how its services are:\n{tail(folder, LOG, _LINES)}"
    name = min(found, key=lambda name: (found[name].pid is not None, -found[name].restarts))
    state = found[name]
    said = tail(folder, LOG if state.last_exit == NOT_STARTED else name, _LINES)
    return (
        f"{name} does not stay (status {state.last_exit}, started again {state.restarts} times); "
        f"it is tried again until it does, or until it is stopped. Its log ends:\n{said}"
    )
