"""What was decided at this site, refusals first: SITE/audit.jsonl, a chain like that of what left.

It stays for years where logs do not, so it holds codes, hashes and the guard's own words, and no patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from client import chain
from common.terminal import printable

FILE = "audit.jsonl"
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Event = Literal["refused", "approved", "approval revoked", "withdrawn", "model received"]


def note(folder: Path, event: Event, facts: Mapping[str, object]) -> None:
    """Add a line to a site's audit record.

    Raises:
        RunError: it cannot be written, or was changed.
    """
    chain.append(folder / FILE, {"time": now(), "event": event, **facts})


@dataclass(frozen=True)
class Refusals:
    """Lines about refusals: the recent ones, newest first, and how many there are before them.

    A line has `time`, `code`, `id`, `by`, `type`, `run`, `round`, `words`.
    """

    recent: tuple[dict[str, Any], ...]
    older: int


def refusals(folder: Path, *, days: float) -> Refusals:
    """What was refused; recent is what was within so many days, and what has no readable time."""
    begin = datetime.now(UTC) - timedelta(days=days)
    found = [line for line in chain.read(folder / FILE) if line.get("event") == "refused"]
    recent = [line for line in found if (moment(line.get("time")) or begin) >= begin]
    return Refusals(tuple(reversed(recent)), len(found) - len(recent))


def plan_names(folder: Path) -> dict[str, str]:
    """Hash -> name of each plan that was ever approved here."""
    lines = chain.read(folder / FILE)
    return {str(line.get("plan")): str(line.get("name")) for line in lines if line.get("event") == "approved"}


def now() -> str:
    """The time as records write it: UTC, to the second."""
    return datetime.now(UTC).strftime(_TIME)


def moment(text: object) -> datetime | None:
    """A time as records write it; None for anything else."""
    try:
        return datetime.strptime(str(text), _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def plain(text: str, *, longest: int = 64) -> str:
    """Text from outside, as it may be written into a record and shown on a terminal."""
    return re.sub(r"[^\w .,:;()'+%/-]", "?", text)[:longest]


def words(text: str, *, longest: int = 500) -> str:
    """Words that may quote what came from outside, on one line, without what steers a terminal."""
    shown = printable(text, longest=longest).replace("\n", " ")
    return shown if len(text) <= longest else shown[:-4] + " ..."
