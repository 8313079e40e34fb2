"""How this site stands, at a glance: read from its own files, nothing is asked over the network."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from client import audit
from client.node import LAST_POLL
from client.services import NAMES
from client.site import Site, open_site
from common import processes

FRESH_S = 30.0
"""A node looks every 0.25 to 3 s, and while it is busy; one that was not heard for so long is cut off."""
SHOWN = 5


@dataclass(frozen=True)
class Standing:
    """How a site stands.

    Attributes:
        state: `well`: it runs and the hub answers; `not connected`: it runs, the hub has not answered for
            half a minute; `stopped`: it does not run.
        heard_s: seconds since the hub last answered; None: never.
        services: name -> pid, start, restarts and last exit of each process; empty where none is supervised.
        approved: plans that may run, by name and hash.
        refused: the last refusals, the newest first.
        disk_free_gb: in the site folder.
    """

    site: str
    state: Literal["well", "not connected", "stopped"]
    hub: str
    heard_s: float | None
    services: dict[str, dict[str, Any]]
    approved: list[dict[str, str]]
    refused: list[dict[str, Any]]
    withdrawn: int
    disk_free_gb: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for machines."""
        return asdict(self)


def look(folder: Path) -> Standing:
    """How the site in `folder` stands now.

    Raises:
        SiteError: site.toml cannot be used.
    """
    site = open_site(folder)
    found = {name: asdict(state) for name, state in processes.states(folder).items()}
    heard = heard_s(folder)
    return Standing(
        site=site.name,
        state=_state(found, heard),
        hub=site.hub,
        heard_s=None if heard is None else round(heard, 1),
        services=found,
        approved=_approved(site),
        refused=audit.refusals(folder, last=SHOWN),
        withdrawn=len(site.withdrawn),
        disk_free_gb=round(shutil.disk_usage(folder).free / 1e9, 1),
    )


def lines(found: Standing) -> Iterator[str]:
    """A standing in words."""
    heard = "never answered" if found.heard_s is None else f"last answered {spoken(found.heard_s)} ago"
    yield f"site        {found.site}, hub {found.hub}: {heard}"
    for name in NAMES:
        yield f"{name:<11} {_service_words(found.services.get(name), heard_s=found.heard_s)}"
    approved = ", ".join(f"{plan['plan']} ({plan['sha256'][:12]})" for plan in found.approved)
    yield f"approved    {approved or 'no plan yet: fedglia site approve PLAN'}"
    if found.withdrawn:
        yield f"withdrawn   {found.withdrawn} patient(s)"
    yield f"disk        {found.disk_free_gb:g} GB free"
    for line in found.refused:
        yield f"refused     {moment(line.get('time'))}  {line.get('code', '?')}: {line.get('words', '')}"
    if found.state != "well":
        yield "what to do  fedglia site " + ("start" if found.state == "stopped" else "check")


def heard_s(folder: Path) -> float | None:
    """Seconds since the hub last answered this site's node; None if it never did."""
    try:
        told = json.loads((folder / LAST_POLL).read_text())
        return max(time.time() - float(told["time"]), 0.0) if told["ok"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def spoken(seconds: float) -> str:
    """A time span as people say it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(when: object) -> str:
    """A time of a log as local time."""
    if not isinstance(when, int | float):
        return str(when or "")
    return f"{datetime.fromtimestamp(when):%Y-%m-%d %H:%M:%S}"


def _state(
    services: dict[str, dict[str, Any]], heard: float | None
) -> Literal["well", "not connected", "stopped"]:
    fresh = heard is not None and heard < FRESH_S
    runs = all(services.get(name, {}).get("pid") for name in NAMES)
    if fresh and (runs or not services):  # no supervisor: containers or units run the two processes
        return "well"
    return "not connected" if services else "stopped"


def _service_words(state: dict[str, Any] | None, *, heard_s: float | None) -> str:
    if state is None:
        fresh = heard_s is not None and heard_s < FRESH_S
        return "runs without a supervisor of ours" if fresh else "does not run"
    running = f"runs since {moment(state['started_at'])}" if state.get("pid") else "is being started again"
    again = f", started again {state['restarts']} time(s)" if state.get("restarts") else ""
    return running + again


def _approved(site: Site) -> list[dict[str, str]]:
    policy = site.policy
    return [approval.model_dump() for approval in policy.approved] if policy else []
