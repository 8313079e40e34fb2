"""What was decided at this site, refusals first: SITE/audit.jsonl, a chain like that of what left.

It stays for years where logs do not, so it holds codes, hashes and the guard's own words, and no patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from client import chain
from common.terminal import printable

FILE = "audit.jsonl"

Event = Literal["refused", "approved", "approval revoked", "withdrawn", "model received"]


def note(folder: Path, event: Event, facts: Mapping[str, object]) -> None:
    """Add a line to a site's audit record.

    Raises:
        RunError: it cannot be written, or was changed.
    """
    chain.append(folder / FILE, {"time": now(), "event": event, **facts})


def refusals(folder: Path, *, last: int) -> list[dict[str, Any]]:
    """The last refusals, newest first: `time`, `code`, `id`, `by`, `type`, `run`, `round`, `words`."""
    found = [line for line in chain.read(folder / FILE) if line.get("event") == "refused"]
    return found[: -last - 1 : -1]


def plan_names(folder: Path) -> dict[str, str]:
    """Hash -> name of each plan that was ever approved here."""
    lines = chain.read(folder / FILE)
    return {str(line.get("plan")): str(line.get("name")) for line in lines if line.get("event") == "approved"}


def now() -> str:
    """The time as records write it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(text: str, *, longest: int = 64) -> str:
    """Text from outside, as it may be written into a record and shown on a terminal."""
    return re.sub(r"[^\w .,:;()'+%/-]", "?", text)[:longest]


def words(text: str, *, longest: int = 500) -> str:
    """Words that may quote what came from outside, on one line, without what steers a terminal."""
    shown = printable(text, longest=longest).replace("\n", " ")
    return shown if len(text) <= longest else shown[:-4] + " ..."
