"""Logs of services: one file for each, appended to by the service itself, with a limit in bytes and in days.

    FOLDER/logs/NAME.log      what NAME writes now
    FOLDER/logs/NAME.log.1    what it wrote before, .4 is the oldest

A service keeps its log open, so the file is copied and emptied, never moved. What is written between
the copy and the emptying is lost: a line or two at most.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import FedGliaError
from common.terminal import printable

MAX_BYTES = 5 << 20
KEPT = 4
LINE = "%(asctime)s %(levelname)s %(message)s"
TIME = "%Y-%m-%d %H:%M:%S%z"
"""How a log for people says when: local time with its offset, as it says what: one line."""
_DAY_S = 86_400
_TAIL_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 18
_OLD = re.compile(r"(?P<name>[\w-]+)\.log\.(?P<age>\d+)(\.tmp)?")
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def log_file(folder: Path, name: str) -> Path:
    """Where service `name` of `folder` writes."""
    return folder / "logs" / f"{name}.log"


def open_log(folder: Path, name: str) -> int:
    """A descriptor that appends to a service's log; only the owner may read the file.

    Raises:
        OSError: the disk is full, or the folder is missing or cannot be written.
    """
    return os.open(log_file(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def rotate(folder: Path, name: str) -> None:
    """Put a log that has outgrown `MAX_BYTES` aside and empty it; the oldest is removed first, to make room.

    Raises:
        OSError: the disk is full; the log is as it was, some older ones may be gone.
    """
    log = log_file(folder, name)
    size = log.stat().st_size if log.exists() else 0
    if size <= MAX_BYTES:
        return
    _age(log)
    draft = Path(f"{log}.1.tmp")
    try:
        _copy_end(log, draft)
        draft.replace(f"{log}.1")
    finally:
        draft.unlink(missing_ok=True)
    os.truncate(log, 0)


def tail(folder: Path, name: str, lines: int) -> str:
    """The last lines of a service's log, of the one before where the present one has too few; "" if none.

    Bytes that are no text and control characters (colours, cursor movements) are left out.
    """
    log = log_file(folder, name)
    found = _end(log).splitlines()
    if len(found) < lines:
        found = _end(Path(f"{log}.1")).splitlines() + found
    return "\n".join(found[-lines:]) if lines > 0 else ""


def sweep(folder: Path, *, older_than_days: float, keep: int) -> tuple[str, ...]:
    """Remove old logs, those past an age and those past a number; may be called while services run.

    Args:
        folder: the folder of `supervise`; its `logs` may be missing.
        older_than_days: an old log that was last written before this goes. The log that a service writes now
            is emptied if nothing was written to it for so long.
        keep: how many old logs of each service stay at most, the newest first.

    Returns:
        Names of the files that were removed or emptied.
    """
    gone = []
    for path in sorted((folder / "logs").glob("*.log*")):
        with contextlib.suppress(FileNotFoundError):
            written = path.stat()
            expired = written.st_mtime < time.time() - older_than_days * _DAY_S
            old = _OLD.fullmatch(path.name)
            if old and (expired or int(old["age"]) > keep):
                path.unlink()
                gone.append(path.name)
            elif path.suffix == ".log" and expired and written.st_size:
                os.truncate(path, 0)
                gone.append(path.name)
    return tuple(gone)


def run_program(main: Callable[[], None]) -> None:
    """Be a service's program: what it cannot work with is one line of its log, not a traceback.

    It ends with the status that a command would end with; its supervisor backs off and tries again.
    """
    try:
        main()
    except FedGliaError as error:
        words = printable(str(error)).replace("\n", " ")
        sys.stderr.write(f"{time.strftime(TIME)} error: {words}\n")
        sys.exit(error.exit_status)


def _age(log: Path) -> None:
    """Make `.1` free: each old log up to the first gap becomes one older; the oldest is written over."""
    last = next((age for age in range(1, KEPT) if not Path(f"{log}.{age}").exists()), KEPT)
    for age in range(last - 1, 0, -1):
        Path(f"{log}.{age}").replace(f"{log}.{age + 1}")


def _copy_end(source: Path, target: Path) -> None:
    """Copy the last `MAX_BYTES`, however much there is, and what is written meanwhile, if not much more."""
    with source.open("rb") as reader, target.open("wb") as writer:
        os.fchmod(writer.fileno(), 0o600)
        reader.seek(max(0, os.fstat(reader.fileno()).st_size - MAX_BYTES))
        left = 2 * MAX_BYTES
        while left > 0 and (block := reader.read(min(left, _BLOCK_BYTES))):
            writer.write(block)
            left -= len(block)


def _end(log: Path) -> str:
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL_BYTES))
            content = handle.read(_TAIL_BYTES)
    except FileNotFoundError:
        return ""
    return _UNPRINTABLE.sub("", content.decode(errors="replace"))
