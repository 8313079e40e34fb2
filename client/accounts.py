"""What left, as people and machines read it: sums of each run, or each reply of one.

A message names its run by a random id and its plan, never by the name that the coordinator gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client import audit, chain
from client.repeats import EACH
from common.errors import InputError
from common.messages import REFUSAL

FILE = "egress.jsonl"

_SHOWN_OF_AN_ID = 12


@dataclass(frozen=True)
class Sent:
    """What one run was sent: replies, refusals among them, bytes, the last round, first and last time."""

    replies: int = 0
    refusals: int = 0
    nbytes: int = 0
    last_round: int = 0
    plan: str | None = None
    first: str = ""
    last: str = ""


def summary(folder: Path) -> dict[str, Sent]:
    """Run -> what it was sent, in the order of their first reply; `?` stands for messages of no known run."""
    runs: dict[str, Sent] = {}
    for line in chain.read(folder / FILE):
        run = str(line.get("run") or "?")
        sent = runs.get(run, Sent(first=str(line.get("time", ""))))
        runs[run] = Sent(
            replies=sent.replies + 1,
            refusals=sent.refusals + (REFUSAL in line.get("records", ())),
            nbytes=sent.nbytes + int(line.get("bytes", 0)),
            last_round=max(sent.last_round, int(line.get("round") or 0)),
            plan=line.get("plan") or sent.plan,
            first=sent.first,
            last=str(line.get("time", "")),
        )
    return runs


@dataclass(frozen=True)
class Streak:
    """Messages that were refused since the last one that was not.

    Attributes:
        messages: how many; of those that were not noted one by one, as many as the last `times` tells.
        code: of the last.
        time: of the last, as records write it.
    """

    messages: int
    code: str
    time: str


def streak(folder: Path) -> Streak | None:
    """What is refused at present; None where the last message was answered, or there was none."""
    found: Streak | None = None
    told: dict[tuple[str, str], int] = {}
    for line in chain.read(folder / FILE):
        if REFUSAL not in line.get("records", ()):
            found, told = None, {}
            continue
        key = str(line.get("run")), str(line.get("code"))
        times = line.get("times")
        more = max(times - told.get(key, EACH), 1) if isinstance(times, int) else 1
        if isinstance(times, int):
            told[key] = times
        before = found.messages if found else 0
        found = Streak(before + more, str(line.get("code")), str(line.get("time")))
    return found


def runs(folder: Path) -> list[dict[str, Any]]:
    """The sums of each run that was sent anything, in the order of their first reply, and its plan's name."""
    names = audit.plan_names(folder)
    return [
        {"run": run, **asdict(sent), "plan_name": names.get(str(sent.plan))}
        for run, sent in summary(folder).items()
    ]


def replies(folder: Path, run: str) -> list[dict[str, Any]]:
    """Each reply of a run, by its id or the first digits of it, as it was recorded.

    Raises:
        InputError: nothing was recorded of such a run; the message lists those that are known.
    """
    found = [line for line in chain.read(folder / FILE) if str(line.get("run") or "?").startswith(run)]
    if not found:
        raise InputError("\n".join(_unknown(run, runs(folder))))
    return found


def line(row: Mapping[str, Any]) -> str:
    """A row of either kind, for a terminal."""
    if "replies" in row:
        run, plan = (str(row[key] or "not known")[:_SHOWN_OF_AN_ID] for key in ("run", "plan"))
        return (
            f"{run:<{_SHOWN_OF_AN_ID}}  {row['first']} to {row['last']}  plan {row['plan_name'] or plan}  "
            f"{row['replies']} replies, {row['refusals']} of them refusals, {row['nbytes']:,} bytes, "
            f"last round {row['last_round']}"
        )
    held = ", ".join(row.get("records", ()))
    return (
        f"{row.get('time')}  {row.get('type')} round {row.get('round')}  {row.get('bytes', 0):,} bytes "
        f"({held})  sha256 {str(row.get('sha256'))[:16]}"
    )


def _unknown(run: str, known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"no run whose id begins with '{run[:64]}' is known at this site"
    yield (
        "A message carries the run's random id and its plan, not the name that the coordinator gave it: ask "
        "the coordinator for the id (`fedglia rounds status NAME` shows it), or find it by date and plan:"
    )
    yield from (line(row) for row in known)
    if not known:
        yield "none: nothing has left yet"
