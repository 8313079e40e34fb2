"""A record that shows when it was changed: one JSON object a line, each with the hash of the line before.

    NAME.jsonl      {"n": 7, "before": hash of line 6, ..., "hash": hash of this line}
    NAME.head       how many lines there are, and the hash of the last

Found out: a line changed, taken out, put in or moved; lines cut off at the end, or the whole file emptied or
deleted, because the head says how many there were. Not found out: somebody who may write both files, and
makes all hashes anew or puts older copies of both back; there is no secret in it. Whoever must be able to
show that too notes the head's hash elsewhere (it is one line) and gives it to `verify`.

A kill may leave a torn last line, or a last line that the head does not count yet. Both are recognised.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.settings import lock
from common.errors import RunError
from common.files import append_line, canonical, write_atomic

BEGINNING = "0" * 64
"""What the first line holds as the hash of the line before."""

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Head:
    """Where a chain ends: how many lines it has, and the hash of the last."""

    lines: int = 0
    hash: str = BEGINNING


@dataclass(frozen=True)
class Verdict:
    """What a look at a whole chain gave.

    Attributes:
        lines: how many lines are in order, from the first on.
        bad_line: number of the first that is not; None where all are.
        words: what is wrong, or that nothing is.
        head: the end of the part that is in order.
    """

    lines: int
    bad_line: int | None
    words: str
    head: Head


def append(path: Path, facts: Mapping[str, object]) -> Head:
    """Add a line, on the disk before this returns.

    Args:
        path: the record, made with mode 0600 where it is missing; its folder must exist.
        facts: JSON values; `n`, `before` and `hash` are the chain's own keys.

    Raises:
        RunError: code `disk`: it cannot be written; code `ledger`: it does not end where its head says.
        LockedError: another process has been writing it for long.
    """
    with _locked(path):
        before, counted = _end(path)
        if not counted:
            _write_head(path, before)  # else a disk with room for lines alone would leave several uncounted
        line = {**facts, "n": before.lines + 1, "before": before.hash}
        line["hash"] = _hash(line)
        append_line(path, line, durable=True)
        head = Head(before.lines + 1, str(line["hash"]))
        _write_head(path, head)
    return head


def verify(path: Path, *, expected: str | None = None) -> Verdict:
    """Look at every line of a chain; names the first that is not as it was written.

    Args:
        path: the record; one that is missing, and has no head either, is empty and in order.
        expected: a hash that was noted elsewhere; some line must have it.

    Raises:
        RunError: code `disk`: it cannot be read.
        LockedError: another process has been writing it for long.
    """
    try:
        return _verify(path, expected)
    except OSError as error:
        raise RunError(f"{path.name}: cannot be read ({error.strerror})", code="disk") from error


def _verify(path: Path, expected: str | None) -> Verdict:
    last, met = Head(), expected is None
    if path.exists():
        with _locked(path, os.O_RDONLY), path.open("rb") as handle:
            for number, raw in enumerate(handle, start=1):
                if not raw.endswith(b"\n"):
                    break  # torn by a kill; the next line that is added takes its place
                wrong, sealed = _complaint(raw, last)
                if wrong:
                    return Verdict(last.lines, number, f"line {number} {wrong}", last)
                last = Head(number, sealed)
                met = met or last.hash == expected
    wrong = _complaint_of_end(path, last)
    if wrong:
        return Verdict(last.lines, last.lines + 1, wrong, last)
    if not met:
        return Verdict(last.lines, last.lines + 1, "no line has the hash that was noted elsewhere", last)
    return Verdict(last.lines, None, f"{last.lines} lines, each as it was written", last)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that can be read, in order, unverified; none where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as handle:
        for raw in handle:
            line = _parsed(raw)
            if line is not None:
                yield line


def _end(path: Path) -> tuple[Head, bool]:
    """Where to go on, and whether the head counts it: a kill may have kept the head one line behind."""
    last, counted = _last_line(path), _read_head(path) or Head()
    end = Head() if last is None else Head(last["n"], last["hash"])
    if end == counted:
        return end, True
    if last is not None and last["n"] == counted.lines + 1 and last["before"] == counted.hash:
        return end, False
    raise RunError(
        f"{path.name} does not end where {head_file(path).name} says: it was changed or cut. Run `fedglia "
        "site ledger verify`; to begin a new record, move both files away together and keep them",
        code="ledger",
    )


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line; one that is not as it was written agrees with no head. None for none."""
    with path.open("rb") as handle:
        size = start = handle.seek(0, os.SEEK_END)
        lines: list[bytes] = []
        while start > 0 and len(lines) < 3:  # the last complete line has another, or the start, before it
            start = max(0, start - _BLOCK)
            handle.seek(start)
            lines = handle.read(size - start).split(b"\n")
    if len(lines) < 2:
        return None
    line = _parsed(lines[-2])
    whole = line is not None and line["hash"] == _hash(line)
    return line if whole else {"n": -1, "before": "", "hash": "changed"}


def _complaint(raw: bytes, before: Head) -> tuple[str, str]:
    """What is wrong with a line, "" for nothing, and its hash.

    The bytes are looked at as they stand, which costs a third of writing the line anew to compare: what was
    hashed is the line without its hash, and its keys are in order.
    """
    try:
        line = json.loads(raw)
        own = f'"hash":"{line["hash"]}",'.encode()
        n, named = line["n"], line["before"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return "is damaged", ""
    hashed = hashlib.sha256(raw.replace(own, b"", 1)[:-1]).hexdigest()
    if line["hash"] != hashed or list(line) != sorted(line):
        return "was changed after it was written", ""
    if type(n) is not int or n != before.lines + 1 or named != before.hash:
        return "does not follow the line before: lines were taken out, put in or moved", ""
    return "", hashed


def _complaint_of_end(path: Path, last: Head) -> str:
    head = _read_head(path)
    name = head_file(path).name
    if head is None:
        return "" if last.lines <= 1 else f"{name} is gone: lines may have been cut off at the end"
    if head.lines > last.lines:
        return f"{head.lines - last.lines} line(s) were cut off at the end: {name} counts {head.lines}"
    if last.lines > head.lines + 1 or (last.lines == head.lines and last.hash != head.hash):
        return f"{name} belongs to another record: it or the record was put back or changed"
    return ""


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
        canonical(line)  # no NaN and no infinity, which we never write and could not hash
    except (ValueError, RecursionError):
        return None
    kinds = {"n": int, "before": str, "hash": str}
    whole = isinstance(line, dict) and all(isinstance(line.get(key), kinds[key]) for key in kinds)
    return line if whole else None


def _hash(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({key: line[key] for key in line if key != "hash"})).hexdigest()


def head_file(path: Path) -> Path:
    """The file beside a record that says where it ends."""
    return path.with_suffix(".head")


def _read_head(path: Path) -> Head | None:
    try:
        words = json.loads(head_file(path).read_bytes())
        return Head(int(words["lines"]), str(words["hash"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return Head(-1, "unreadable")  # agrees with no record


def _write_head(path: Path, head: Head) -> None:
    write_atomic(head_file(path), canonical({"lines": head.lines, "hash": head.hash}), mode=0o600)


@contextmanager
def _locked(path: Path, how: int = os.O_RDWR | os.O_CREAT) -> Iterator[None]:
    try:
        descriptor = os.open(path, how | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(f"{path.name}: cannot be opened ({error.strerror})", code="disk") from error
    try:
        lock(descriptor, what=path.name)
        yield
    finally:
        os.close(descriptor)
