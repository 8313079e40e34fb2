"""A run's standing as lines for a terminal, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.desk.states import Row, Standing
from server.desk.wording import NO_WAY_ON, RUN_STATES, duration, size

_HEADER = ("site", "state", "rounds", "loss", "val. Dice", "up", "down", "why")


def lines(found: Standing) -> Iterator[str]:
    """Everything about a run: how it stands, then a row for each site, then what to do."""
    yield f"run {found.run}, plan {found.plan['name']} {found.plan['sha256'][:12]}: {headline(found)}"
    times = _times(found)
    if times:
        yield times
    parts = [f"{size(found.bytes_up)} up, {size(found.bytes_down)} down in closed rounds"]
    if found.identity:
        parts.append(f"sites know this run as {found.identity[:12]}")
    if found.interruptions:
        parts.append(f"gone on with {found.interruptions} time(s)")
    yield "; ".join(parts)
    yield ""
    yield from columns([_HEADER, *(_cells(row) for row in found.sites)])
    todo = list(remedies(found))
    if todo:
        yield ""
        yield from todo


def headline(found: Standing) -> str:
    """The run's state in words."""
    done = f"{found.round} of {found.rounds} rounds"
    if found.state == "running":
        place = f"round {found.round} of {found.rounds}"
        return f"running, {place}" if found.doing.startswith("round") else f"running, {found.doing}, {place}"
    if found.state == "meeting sites":
        return f"meeting the sites; {found.quorum} of them are needed"
    if not found.resumable and found.state not in ("queued", "completed"):
        return f"{found.state} after {done}: {NO_WAY_ON}"
    if found.state == "interrupted":
        return f"interrupted after {done}: fedglia rounds resume {found.run}"
    return f"{found.state} after {done}: {RUN_STATES[found.state]}"


def remedies(found: Standing) -> Iterator[str]:
    """What somebody should do, the run first."""
    if found.detail:
        yield f"why: {found.detail}"
    if found.resumable and found.state in ("failed", "stopped"):
        yield f"to go on: fedglia rounds resume {found.run}"
    for row in found.sites:
        if row.remedy:
            yield f"{row.site}: {row.remedy}"


def changes(before: Standing | None, after: Standing) -> Iterator[str]:
    """What became different, one line each; everything where there was nothing before."""
    if before is None or (before.state, before.doing) != (after.state, after.doing):
        yield headline(after)
    old = {} if before is None else {row.site: (row.state, row.code) for row in before.sites}
    for row in after.sites:
        if old.get(row.site) != (row.state, row.code):
            yield f"{row.site}: {row.state}{f', {row.reason}' if row.reason else ''}"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells, the columns one below the other."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.site,
        row.state,
        str(row.folded),
        _number(row.loss),
        _number(row.validation_dice),
        size(row.bytes_up),
        size(row.bytes_down),
        row.reason,
    )


def _times(found: Standing) -> str:
    parts = []
    if found.deadline_left_s is not None:
        parts.append(f"{duration(found.deadline_left_s)} until the deadline")
    if found.rounds_left_s is not None:
        parts.append(f"about {duration(found.rounds_left_s)} of rounds left")
    return "; ".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
