"""`make federation`: edge, hub and three sites as processes on this machine, from nothing to the report.

OUT/simulated/        the same plan, simulated: the phantoms that the sites read, and the tensors to equal
OUT/hub/              the coordinator's machine
OUT/site-NAME/        a hospital's machine
OUT/federation.json   what came out
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import plan as plans
from common.checkpoint import load
from common.errors import InputError, RunError
from common.files import write_atomic
from simulation.rehearsal.disks import unmount
from simulation.rehearsal.machines import HubMachine, Machine, SiteMachine, free_port, wait_for

PLAN = Path(__file__).with_name("rehearsal.toml")
MARKER = ".rehearsal"
RUN_S = 300.0
ENDED = ("completed", "failed", "stopped")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Federation:
    """A hub and its sites, running."""

    hub: HubMachine
    sites: dict[str, SiteMachine]
    plan: Path

    def stop(self) -> None:
        """Stop everything that was started, whatever state it is in."""
        with ThreadPoolExecutor() as hands:
            list(hands.map(lambda site: _stop(site, "site"), self.sites.values()))
        _stop(self.hub, "hub")


def _stop(machine: Machine, role: str) -> None:
    with suppress(RunError):
        machine.do(role, "stop", status=None)


def main(out: Path, *, tell: Tell) -> dict[str, Any]:
    """Rehearse the plan in `out`, made anew; returns what federation.json holds.

    Raises:
        InputError: `out` holds something that no rehearsal made.
        RunError: a step failed or did not end; everything was stopped.
    """
    began = time.monotonic()
    make_room(out)
    tell("1  the same plan, simulated: makes the phantoms, and the tensors to equal")
    simulate(out)
    with raised(out, tell=tell) as federation:
        tell("4  rounds start")
        name = "rehearsal-1"
        federation.hub.do("rounds", "start", str(federation.plan), "--yes", "--name", name)
        follow(federation.hub, name, tell=tell)
        tell(federation.hub.do("rounds", "report", name))
        summary = federation.hub.summary(name)
    run = federation.hub.run_folder(name)
    found = {
        "schema": 1,
        "summary": str(run / "summary.json"),
        "report": str(run / "report.html"),
        "status": summary.get("status"),
        "rounds": "training",
        "rounds_closed": len(summary.get("rounds", ())),
        "equal_to_simulate": same_tensors(run, out / "simulated"),
        "round_wall_s": [round(record["wall_s"], 3) for record in summary.get("rounds", ())],
        "round_overhead_s": [round(record["overhead_s"], 3) for record in summary.get("rounds", ())],
        "seconds": round(time.monotonic() - began, 1),
    }
    write_atomic(out / "federation.json", json.dumps(found, indent=1).encode())
    return found


def make_room(out: Path) -> None:
    """An empty folder at `out`; what an earlier rehearsal left there goes.

    Raises:
        InputError: it holds something else.
    """
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise InputError(f"{out.name}: is not empty and no rehearsal's; name another folder")
        for folder in (*out.glob("site-*"), *out.glob("hub"), *out.glob("*/hub")):
            role = "hub" if folder.name == "hub" else "site"
            _stop(HubMachine(folder) if role == "hub" else SiteMachine(folder), role)
        for folder in out.iterdir():
            unmount(folder)
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def simulate(out: Path, *, plan: Path = PLAN) -> None:
    """Run the plan on this machine without any network, in OUT/simulated."""
    HubMachine(out / "hub").fedglia("simulate", str(plan), "--out", str(out / "simulated"), timeout_s=RUN_S)


@contextmanager
def raised(
    out: Path,
    *,
    tell: Tell,
    plan: Path = PLAN,
    through: Callable[[str, str], str] | None = None,
    host: str = "localhost",
    hub_folder: Path | None = None,
    policy: tuple[str, ...] = (),
) -> Iterator[Federation]:
    """A hub and the plan's sites, started from nothing, stopped at the end.

    Args:
        out: holds `simulated`, whose phantoms the sites read.
        tell: hears each step.
        plan: what the sites approve.
        through: site and the hub's address -> the address that the site dials.
        host: the hub's name.
        hub_folder: another than OUT/hub.
        policy: KEY=VALUE of what each site allows.
    """
    hub = HubMachine(hub_folder or out / "hub", port=free_port(), host=host)
    names = plans.load(plan).site_names
    sites = {
        name: SiteMachine(out / f"site-{name}", name=name, data=out / "simulated" / "cohorts" / name)
        for name in names
    }
    federation = Federation(hub, sites, plan)
    try:
        tell(f"2  hub init, hub start  ({hub.address})")
        hub.make()
        hub.do("hub", "start")
        for name, site in sites.items():
            tell(f"3  site init, hub admit, site approve  ({name}), then site start")
            dialled = through(name, hub.address) if through else None
            site.join(hub, plan, through=dialled, policy=policy)
        with ThreadPoolExecutor() as hands:
            list(hands.map(lambda site: site.do("site", "start"), sites.values()))
        yield federation
    finally:
        federation.stop()


def follow(hub: HubMachine, name: str, *, tell: Tell, within_s: float = RUN_S) -> str:
    """Tell a run's events until it has ended; its status.

    Raises:
        RunError: it did not end within the time, or not as "completed".
    """
    told = 0

    def ended() -> bool:
        nonlocal told
        events = hub.events(name)
        for event in events[told:]:
            words = {key: value for key, value in event.items() if key in ("round", "site", "stage", "code")}
            tell(f"   {event['event']}  " + " ".join(f"{key} {value}" for key, value in words.items()))
        told = len(events)
        return hub.summary(name).get("status") in ENDED

    wait_for(ended, within_s=within_s, what=f"run {name}", every_s=0.5)
    status = str(hub.summary(name)["status"])
    if status != "completed":
        raise RunError(f"run {name} ended as {status}; see {name}/events.jsonl")
    return status


def same_tensors(run: Path, other: Path) -> bool:
    """Whether two runs ended with the same model, bit for bit."""
    one, two = (load(folder / "checkpoints" / "last.safetensors").tensors for folder in (run, other))
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
