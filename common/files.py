"""Files that survive a kill and a full disk: the one atomic write, and logs of one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import RunError

_BLOCK = 1 << 16


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces, the same bytes for the same value; NaN and Inf are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_atomic(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Put `content` at `path` so that a reader, a kill or a full disk only ever sees the old or the new file.

    The folder must exist. A draft is removed when writing fails; after a kill one named
    `.<name>.<random>.tmp` may stay, which `sweep_drafts` removes.

    Args:
        path: the file.
        content: all of it.
        mode: rights of the new file before the process's umask; 0o600 for keys and secrets, from the first
            byte on.

    Raises:
        RunError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path.name}: cannot be written ({error.strerror}); the previous file, if any, is untouched: "
            "make room or check the folder's rights",
            code="disk",
        ) from error
    finally:
        # After the replace there is no draft; a failure to remove one must not hide the first error.
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def sweep_drafts(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Remove drafts that a killed `write_atomic` left.

    A draft that is a folder (a release half made) is left to whoever makes it anew.

    Args:
        folder: whose drafts; those below it stay.
        older_than_s: since they were last written. 0 is only for the one process that writes this folder:
            it removes what another is writing.
    """
    for draft in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if not draft.is_dir() and time.time() - draft.stat().st_mtime >= older_than_s:
                draft.unlink()


def append_line(path: Path, line: Mapping[str, object], *, durable: bool = False) -> None:
    """Append one JSON object as a line; a torn last line that a kill left is cut off first.

    Args:
        path: the log; made if missing, its folder must exist.
        line: JSON values.
        durable: wait until the line is on the disk (a ledger); else the system writes it when it likes.

    Raises:
        RunError: the disk is full, or the file cannot be written.
    """
    content = canonical(line) + b"\n"
    try:
        with path.open("a+b") as handle:
            end = _cut_torn_tail(handle.fileno())
            handle.write(content)
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        if durable and end == 0:
            sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path.name}: cannot be written ({error.strerror}); make room", code="disk"
        ) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a log, in order; a torn last line is left out, a missing file has none.

    Raises:
        RunError: a line before the last is not a JSON object; the message names its number.
    """
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if not raw.endswith(b"\n"):
                return
            yield _parse_line(path, number, raw)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: the folder cannot be read, or the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse_line(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(raw)
        if isinstance(value, dict):
            return value
    raise RunError(f"{path.name}: line {number} is damaged; restore the file from a copy")


def _cut_torn_tail(descriptor: int) -> int:
    end = os.fstat(descriptor).st_size
    stop = end
    while stop > 0:
        start = max(0, stop - _BLOCK)
        newline = os.pread(descriptor, stop - start, start).rfind(b"\n")
        if newline >= 0:
            stop = start + newline + 1
            break
        stop = start
    if stop < end:
        os.ftruncate(descriptor, stop)
    return stop
