"""How this site stands, at a glance: read from its own files, nothing is asked over the network."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from client import accounts, audit, records
from client.node import LAST_POLL
from client.services import NAMES
from client.site import Site, open_site
from client.spending import FILE as SPENT
from client.spending import spent
from client.trust import CA_FILE
from common import processes
from common.errors import RunError
from common.process_table import born, process_namespace

FRESH_S = 15.0
"""A node looks every 0.25 to 3 s, and while it is busy; one that was not heard for so long is cut off."""
KNOWN = (
    ("code: 2004", "the hub does not let it in: not admitted, or it runs elsewhere too, until 20 s ago"),
    ("401", "the hub does not accept its signature: see the clock in `fedglia site check`"),
    ("CERTIFICATE_VERIFY_FAILED", "the hub's certificate is not believed: see `fedglia site check`"),
    ("address already in use", "its port is taken: set another runtime_port in site.toml"),
    ("No space left", "the disk is full"),
    ("MemoryError", "there is not memory enough"),
)
"""What a process's log says when it ends, and what that means here."""
_TELLS = re.compile(r"error|exit code|exception|killed", re.IGNORECASE)
_LINES = 60
State = Literal["well", "not connected", "stopped", "record changed"]
SHOWN, SHOWN_DAYS = 5, 7
"""Refusals that a glance shows: so many at most, and none that is older."""


@dataclass(frozen=True)
class Standing:
    """How a site stands.

    Attributes:
        state: `well`: it runs and the hub answers; `not connected`: it runs, the hub has not answered for
            15 s; `stopped`: it does not run; `record changed`: whether it runs or not, nothing may leave.
        heard_s: seconds since the hub last answered; None: never.
        services: name -> pid, start, restarts and last exit of each process; empty where none is supervised.
        at_work: run, plan and last round of the message that is worked on, for how long it has been, what is
            `reserved` for it at most, and what the run spent `before` it; None where none is.
        approved: plans that may run, by name and hash.
        refused: the last refusals of a week, the newest first; `refused_more` of that week are not among
            them, and `refused_older` came before. audit.jsonl has them all.
        disk_free_gb: in the site folder.
        refusing: what was refused within a week, with no message answered since; None where the last was.
        never_met: the hub's authority is not pinned: no start got so far.
        records: file -> what is wrong, of each record that was changed.
    """

    site: str
    state: State
    hub: str
    heard_s: float | None
    services: dict[str, dict[str, Any]]
    at_work: dict[str, Any] | None
    approved: list[dict[str, str]]
    refused: list[dict[str, Any]]
    refused_more: int
    refused_older: int
    withdrawn: int
    disk_free_gb: float
    refusing: dict[str, Any] | None
    never_met: bool
    records: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for machines."""
        return asdict(self)


def look(folder: Path) -> Standing:
    """How the site in `folder` stands now.

    Raises:
        SiteError: site.toml cannot be used.
        RunError: a record cannot be opened.
    """
    site, changed = open_site(folder), records.damaged(folder)
    found = {name: asdict(state) for name, state in processes.states(folder).items()}
    heard = heard_s(folder)
    refused = audit.refusals(folder, days=SHOWN_DAYS)
    return Standing(
        site=site.name,
        state="record changed" if changed else _state(found, fresh=is_heard(folder)),
        hub=site.hub,
        heard_s=None if heard is None else round(heard, 1),
        services=found,
        at_work=at_work(site),
        approved=_approved(site),
        refused=list(refused.recent[:SHOWN]),
        refused_more=len(refused.recent[SHOWN:]),
        refused_older=refused.older,
        withdrawn=len(site.withdrawn),
        disk_free_gb=round(shutil.disk_usage(folder).free / 1e9, 1),
        refusing=_refusing(folder),
        never_met=not (folder / CA_FILE).exists(),
        records=changed,
    )


def headline(found: Standing) -> str:
    """The state, and what is refused at present."""
    if found.refusing is None:
        return found.state
    number, code = found.refusing["messages"], audit.words(found.refusing["code"], longest=32)
    return f"{found.state}, but refused {number} message(s) since the last accepted one: {code}"


def lines(found: Standing) -> Iterator[str]:
    """A standing in words."""
    heard = "never answered" if found.heard_s is None else f"last answered {spoken(found.heard_s)} ago"
    yield f"site        {found.site}, hub {found.hub}: {heard}"
    for name in NAMES:
        yield f"{name:<11} {_service_words(found.services.get(name), well=found.state == 'well')}"
    if found.at_work:
        yield from _work_words(found.at_work)
    approved = ", ".join(f"{plan['plan']} ({plan['sha256'][:12]})" for plan in found.approved)
    yield f"approved    {approved or 'no plan yet: fedglia site approve PLAN'}"
    if found.withdrawn:
        yield f"withdrawn   {found.withdrawn} patient(s)"
    yield f"disk        {found.disk_free_gb:g} GB free"
    for file, wrong in found.records.items():
        yield f"records     {file}: {wrong}. Nothing leaves until it is whole again"
    yield from _refused_words(found)
    if found.state != "well":
        starts = found.state == "stopped" and not found.never_met
        yield "what to do  fedglia site " + ("start" if starts else "check")


def heard_s(folder: Path) -> float | None:
    """Seconds since the hub last answered this site's node; None if it never did."""
    told = _stamp(folder)
    return None if told is None else told.heard_s


def is_heard(folder: Path) -> bool:
    """Whether the hub answered lately, and the node that heard it has not ended since."""
    told = _stamp(folder)
    return told is not None and told.lives and told.heard_s < FRESH_S


@dataclass(frozen=True)
class _Stamp:
    """What the node wrote when the hub last answered it; `lives`: as far as this process can see."""

    heard_s: float
    lives: bool


def _stamp(folder: Path) -> _Stamp | None:
    """A clock that was set back makes no stamp young: the time since the machine started counts too."""
    try:
        told = json.loads((folder / LAST_POLL).read_text())
        ago_s = time.time() - float(told["time"])
        if "boot_s" in told:
            ago_s = max(ago_s, time.clock_gettime(time.CLOCK_BOOTTIME) - float(told["boot_s"]))
        seen = told.get("pids") == process_namespace()  # else the id is of another container's process
        lives = not seen or born(int(told["pid"])) is not None
        return _Stamp(max(ago_s, 0.0), lives) if told["ok"] and ago_s > -FRESH_S else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def at_work(site: Site) -> dict[str, Any] | None:
    """What the worker works on, `fork` or `resident`, here or in another container: it reserved for it."""
    for account in (site.folder / "state").glob(f"*/{SPENT}"):
        try:
            sums = spent(account.parent)
        except RunError:
            continue
        if sums is None or sums.reserved is None or not sums.reserved.at_work:
            continue
        names = {plan.sha256: plan.plan for plan in (site.policy.approved if site.policy else ())}
        held = sums.reserved
        return {
            "run": account.parent.name,
            "plan": names.get(sums.plan, sums.plan[:12]),
            "round": max(sums.rounds, default=0),
            "seconds": round(max(0.0, time.time() - held.since), 1),
            "reserved": {"seconds": round(held.seconds, 1), "steps": held.steps, "bytes_up": held.bytes_up},
            "before": {
                "seconds": round(max(0.0, sums.seconds - held.seconds), 1),
                "steps": max(0, sums.steps - held.steps),
                "bytes_up": max(0, sums.bytes_up - held.bytes_up),
            },
        }
    return None


def why(folder: Path, name: str) -> str:
    """What a process said last that tells why it ended, in our words where we know them."""
    lines = processes.tail(folder, name, _LINES).splitlines()
    known = [words for line in lines for mark, words in KNOWN if mark in line]
    if known:
        return known[-1]
    telling = [line for line in lines if _TELLS.search(line)] or lines
    return audit.words(telling[-1].strip(), longest=200) if telling else "it said nothing"


def spoken(seconds: float) -> str:
    """A time span as people say it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(when: object) -> str:
    """Seconds since 1970, or a time as records write it, as local time; anything else as it is."""
    found = datetime.fromtimestamp(when) if isinstance(when, int | float) else audit.moment(when)
    return f"{found.astimezone():%Y-%m-%d %H:%M:%S}" if found else str(when or "")


def _state(services: dict[str, dict[str, Any]], *, fresh: bool) -> State:
    runs = all(services.get(name, {}).get("pid") for name in NAMES)
    if fresh and (runs or not services):  # no supervisor: containers or units run the two processes
        return "well"
    return "not connected" if services else "stopped"


def _refusing(folder: Path) -> dict[str, Any] | None:
    found = accounts.streak(folder)
    when = audit.moment(found.time) if found else None
    recent = when is not None and datetime.now(UTC) - when < timedelta(days=SHOWN_DAYS)
    return asdict(found) if found and recent else None


def _refused_words(found: Standing) -> Iterator[str]:
    for line in found.refused:
        times = f" ({line['times']} times)" if line.get("times") else ""
        words = audit.words(f"{line.get('code', '?')}{times}: {line.get('words', '')}")
        yield f"refused     {audit.words(moment(line.get('time')), longest=32)}  {words}"
    if found.refused_more or found.refused_older:
        yield (
            f"refused     not shown: {found.refused_more} more of the last {SHOWN_DAYS} days and "
            f"{found.refused_older} before; all of them are in {audit.FILE} in the site's folder"
        )


def _work_words(work: Mapping[str, Any]) -> Iterator[str]:
    held, before = work["reserved"], work["before"]
    yield (
        f"at work     run {work['run'][:12]}, plan {work['plan']}, round {work['round']}, for "
        f"{spoken(work['seconds'])}; this message may take {spoken(held['seconds'])} and send "
        f"{held['bytes_up']:,} bytes at most"
    )
    yield (
        f"before it   this run took {spoken(before['seconds'])} of work and sent {before['bytes_up']:,} "
        "bytes (a message that was killed counts at its most)"
    )


def _service_words(state: dict[str, Any] | None, *, well: bool) -> str:
    if state is None:
        return "runs without a supervisor of ours" if well else "does not run"
    running = f"runs since {moment(state['started_at'])}" if state.get("pid") else "is being started again"
    again = f", started again {state['restarts']} time(s)" if state.get("restarts") else ""
    return running + again


def _approved(site: Site) -> list[dict[str, str]]:
    policy = site.policy
    return [approval.model_dump() for approval in policy.approved] if policy else []
