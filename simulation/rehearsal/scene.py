"""What a fault may touch, and what is seen of it: one run of a federation, and the account of its rounds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import RunError
from server.run import is_open
from simulation.rehearsal.disks import Disk
from simulation.rehearsal.link import Link
from simulation.rehearsal.machines import HubMachine, SiteMachine, wait_for
from simulation.rehearsal.victims import lives, training

Event = Mapping[str, Any]
Fact = Callable[[Event], bool]

ROUND_S = 180.0
"""Longest wait for something to happen within a run: four deadlines of the plan."""
WELL_UNDER_WAY_S = 0.5


@dataclass
class Scene:
    """A federation, one run of it, and the site that is hit.

    Attributes:
        links: site -> what lies between it and the hub.
        disks: machine -> its own small disk, where it has one.
        run: name of the run.
        hit: the site that a fault is about.
        things: what was put up for this run alone; taken down after it.
        facts: what an injection wants to know later.
    """

    hub: HubMachine
    sites: dict[str, SiteMachine]
    links: Mapping[str, Link]
    disks: Mapping[str, Disk]
    plan: Path
    run: str
    hit: str
    things: ExitStack = field(default_factory=ExitStack)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> SiteMachine:
        """The site that is hit."""
        return self.sites[self.hit]

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.hub.run_folder(self.run)

    @property
    def others(self) -> frozenset[str]:
        """The sites that are not."""
        return frozenset(self.sites) - {self.hit}

    def events(self) -> list[dict[str, Any]]:
        """The run's events so far."""
        return self.hub.events(self.run)

    def await_event(self, kind: str, *, within_s: float = ROUND_S, **facts: object) -> float:
        """Wait for an event; when it was, seconds since 1970.

        Raises:
            RunError: it did not come.
        """
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found[:] = [event for event in self.events() if is_event(event, kind, **facts)]
            return bool(found)

        wait_for(came, within_s=within_s, what=f"'{kind}' {facts or ''} in run {self.run}")
        return float(found[0]["time"])

    def await_training(self, round_number: int) -> int:
        """Wait until the site that is hit is well under way with a round; the process that trains.

        Raises:
            RunError: it never was.
        """
        self.await_event("round opened", round=round_number)
        wait_for(
            lambda: training(self.site) is not None,
            within_s=ROUND_S,
            what=f"training of {self.hit} in round {round_number}",
            every_s=0.05,
        )
        time.sleep(WELL_UNDER_WAY_S)
        pid = training(self.site)
        if pid is None:
            raise RunError(f"{self.hit}: was done with round {round_number} before it could be hit")
        return pid

    def await_end_of(self, pid: int, *, within_s: float) -> bool:
        """Whether a process ends within the time."""
        with suppress(RunError):
            wait_for(lambda: not lives(pid), within_s=within_s, what=f"the end of process {pid}")
            return True
        return False

    def state(self) -> str:
        """The run's status by its summary; "dead" where it says running and no process writes the run."""
        status = str(self.hub.summary(self.run).get("status", "not begun"))
        if status in ("completed", "stopped", "failed"):
            return status
        return "running" if is_open(self.folder) else "dead"


def is_event(event: Event, kind: str, **facts: object) -> bool:
    """Whether an event is of a kind and says these facts."""
    return event.get("event") == kind and all(event.get(key) == value for key, value in facts.items())


def closed_rounds(run: Path) -> dict[int, str]:
    """Number of each closed round -> SHA-256 of its checkpoint."""
    files = sorted((run / "checkpoints").glob("round-*.safetensors"))
    whole = [path for path in files if path.stem.removeprefix("round-").isdecimal()]
    numbers = {int(path.stem.removeprefix("round-")): path for path in whole}
    return {
        number: hashlib.sha256(path.read_bytes()).hexdigest() for number, path in numbers.items() if number
    }


def rounds_lost(before: Mapping[int, str], after: Mapping[int, str]) -> int:
    """How many rounds that were closed before a fault are missing, or another model, after it."""
    return sum(after.get(number) != digest for number, digest in before.items())


def recovered_s(events: Sequence[Event], *, since: float, sites: frozenset[str]) -> float | None:
    """Seconds from a moment to the next closed round that holds updates of all these sites; None: never.

    Args:
        events: of the run, in order.
        since: seconds since 1970.
        sites: who must be in it.
    """
    for event in events:
        if is_event(event, "round closed") and event["time"] >= since and sites <= set(event["folded"]):
            return round(float(event["time"]) - since, 1)
    return None


def outcomes(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Round -> site -> its outcome in it, with the reason where there is one."""
    return {
        str(record["round"]): {
            site: f"{account['outcome']} ({account['reason']})" if account["reason"] else account["outcome"]
            for site, account in record["sites"].items()
        }
        for record in summary.get("rounds", ())
    }


def asked_again(events: Sequence[Event], site: str) -> int:
    """How often a site was sent the same question once more."""
    return sum(is_event(event, "site asked", site=site, again=True) for event in events)
