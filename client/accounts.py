"""What left, as people and machines read it: sums of each run, or each reply of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client import chain, egress


def runs(folder: Path) -> list[dict[str, Any]]:
    """The sums of each run that was sent anything, in the order of their first reply."""
    return [{"run": run, **asdict(sent)} for run, sent in egress.summary(folder).items()]


def replies(folder: Path, run: str) -> list[dict[str, Any]]:
    """Each reply of a run, by its id or the first digits of it, as it was recorded."""
    return [line for line in chain.read(folder / egress.FILE) if str(line.get("run") or "?").startswith(run)]


def line(row: Mapping[str, Any]) -> str:
    """A row of either kind, for a terminal."""
    if "replies" in row:
        return (
            f"{row['run'][:12]:<12}  {row['first']} to {row['last']}  {row['replies']} replies, "
            f"{row['refusals']} of them refusals, {row['nbytes']:,} bytes, last round {row['last_round']}"
        )
    held = ", ".join(row.get("records", ()))
    return (
        f"{row.get('time')}  {row.get('type')} round {row.get('round')}  {row.get('bytes', 0):,} bytes "
        f"({held})  sha256 {str(row.get('sha256'))[:16]}"
    )
