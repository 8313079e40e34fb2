"""What a check says: how bad it is, what it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True)
class Said:
    """One thing that a check found out; `mend` is a command, or what to ask whom, and empty for a PASS."""

    level: Level
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Finding:
    """What was said under the check's code, which is short and stable; see the site handbook for each."""

    level: Level
    code: str
    text: str
    mend: str


def passed(text: str) -> Said:
    """It is in order."""
    return Said("PASS", text)


def warned(text: str, mend: str) -> Said:
    """The site works, and this should be known."""
    return Said("WARN", text, mend)


def failed(text: str, mend: str) -> Said:
    """The site does not work like this."""
    return Said("FAIL", text, mend)
