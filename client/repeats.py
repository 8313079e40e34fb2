"""Refusals that come again and again: a hub that asks without end must not fill this site's disk.

    SITE/state/refusals.json    how often each code was answered to each run, since the hour began

The first twenty equal refusals of an hour are noted one by one, then the hundredth, the thousandth and so on,
each with its number. One that is not noted is answered with the code and the id of the last that was, so no
reply leaves of which the records do not have the very content.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError
from common.files import canonical, write_atomic

FILE = Path("state") / "refusals.json"
EACH = 20
RUNS = 20
"""Runs that are counted by themselves in an hour; a hub may name as many as it likes."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Repeat:
    """A refusal as one of several.

    Attributes:
        times: how many equal ones there were in this hour, with this one.
        correlation: its id; the last noted one's where this one is not noted.
        noted: whether the records take a line about it.
    """

    times: int
    correlation: str
    noted: bool


def count(folder: Path, code: str, run: str | None) -> Repeat:
    """Count a refusal. Where that cannot be written down each is noted. Never raises.

    Args:
        folder: the site's.
        code: what the hub is told.
        run: the run that asked, if it said which.
    """
    since, seen = _read(folder)
    now = time.time()
    if not now - HOUR_S < since <= now:
        since, seen = now, {}
    key = f"{code} {run}"
    if key not in seen and len(seen) >= RUNS:
        key = f"{code} others"
    times, last = seen.get(key, (0, ""))
    times += 1
    noted = times <= EACH or not last or str(times).rstrip("0") == "1"
    correlation = uuid.uuid4().hex[:12] if noted else last
    content = canonical({"since": since, "seen": {**seen, key: (times, correlation)}})
    try:
        (folder / FILE).parent.mkdir(exist_ok=True)
        write_atomic(folder / FILE, content, mode=0o600)
    except (OSError, RunError):
        return Repeat(1, uuid.uuid4().hex[:12], noted=True)
    return Repeat(times, correlation, noted)


def _read(folder: Path) -> tuple[float, dict[str, tuple[int, str]]]:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        words = json.loads((folder / FILE).read_bytes())
        seen = {str(key): (int(times), str(last)) for key, (times, last) in words["seen"].items()}
        return float(words["since"]), seen
    return 0.0, {}
