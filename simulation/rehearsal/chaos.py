"""`make chaos`: one federation that stays up, and one fault after the other against it.

OUT/chaos.json        a row for each fault
OUT/runs/NN-NAME/     events and summary of its run, kept when the hub's small disk goes
The rest of OUT is as in `federation`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.files import write_atomic
from simulation.rehearsal.disks import Disk, small_disk
from simulation.rehearsal.faults import DISK_SITE, FAULTS, Fault
from simulation.rehearsal.federation import Federation, Tell, make_room, raised, simulate
from simulation.rehearsal.link import Link
from simulation.rehearsal.scene import Scene
from simulation.rehearsal.trial import Row, calm, not_run, put_to_trial

PLAN = Path(__file__).with_name("chaos.toml")
HOST = "hub.fedglia.test"
"""The hub's name, which resolves nowhere; sites dial their links, or the proxy that knows it."""
DISK_BYTES = 2 << 30
POLICY = ("max_runs=100", "max_memory_gb=4.0")


@dataclass
class Links:
    """What lies between each site and the hub."""

    stack: ExitStack
    by_site: dict[str, Link] = field(default_factory=dict)

    def through(self, site: str, address: str) -> str:
        """Put a link between a site and the hub; what the site dials."""
        link = Link(("127.0.0.1", int(address.rpartition(":")[2])), seed=len(self.by_site))
        link.start()
        self.stack.callback(link.stop)
        self.by_site[site] = link
        return f"localhost:{link.port}"


def main(out: Path, *, tell: Tell, only: Sequence[str] = ()) -> list[Row]:
    """Try every fault, or those whose name holds one of `only`, in `out`, made anew; what chaos.json holds.

    Raises:
        InputError: no fault is called so, or `out` holds something that no rehearsal made.
        RunError: the federation could not be raised; everything was stopped.
    """
    faults = chosen(only)
    make_room(out)
    tell("1  the same plan, simulated: makes the phantoms, and the tensors to equal")
    simulate(out, plan=PLAN)
    rows: list[Row] = []
    with standing(out, tell=tell) as (federation, links, disks):
        tell(f"4  {len(faults)} faults, each against a run of its own")
        for number, fault in enumerate(faults, start=1):
            name = f"{number:02d}-{slug(fault.name)}"
            scene = Scene(
                federation.hub, federation.sites, links.by_site, disks, PLAN, run=name, hit=fault.hit
            )
            row = put_to_trial(scene, fault, reference=out / "simulated")
            keep(scene.folder, out / "runs" / name)
            rows.append(row)
            write_atomic(out / "chaos.json", json.dumps(rows, indent=1).encode())
            tell(line(row))
            if number < len(faults):
                rows += _calmed(scene, faults[number:], tell=tell, revoked=revoked(faults[:number]))
            if len(rows) > number:
                break
    write_atomic(out / "chaos.json", json.dumps(rows, indent=1).encode())
    return rows


def _calmed(scene: Scene, rest: Sequence[Fault], *, tell: Tell, revoked: frozenset[str]) -> list[Row]:
    """Make the federation whole again; where that fails, the rows of the faults that are not tried."""
    try:
        calm(scene, revoked=revoked)
    except RunError as error:
        rows = [not_run(fault, f"the federation was not whole again ({error})") for fault in rest]
        for row in rows:
            row["ok"] = False
            tell(line(row))
        return rows
    return []


@contextmanager
def standing(out: Path, *, tell: Tell) -> Iterator[tuple[Federation, Links, dict[str, Disk]]]:
    """A federation whose links and disks obey; stopped, mended and unmounted at the end."""
    with ExitStack() as stack:
        names = {"hub": out / "hub-disk", DISK_SITE: out / f"site-{DISK_SITE}"}
        made = {
            name: stack.enter_context(small_disk(path, size_bytes=DISK_BYTES)) for name, path in names.items()
        }
        links = Links(stack)
        federation = stack.enter_context(
            raised(
                out,
                tell=tell,
                plan=PLAN,
                through=links.through,
                host=HOST,
                hub_folder=out / "hub-disk" / "hub",
                policy=POLICY,
            )
        )
        yield federation, links, {name: disk for name, disk in made.items() if disk is not None}


def chosen(only: Sequence[str]) -> tuple[Fault, ...]:
    """The faults whose names hold one of the words; all of them for none.

    Raises:
        InputError: a word that no fault's name holds.
    """
    for word in only:
        if not any(word in fault.name for fault in FAULTS):
            raise InputError(f"no fault is called '{word}'; there are: {'; '.join(f.name for f in FAULTS)}")
    return tuple(fault for fault in FAULTS if not only or any(word in fault.name for word in only))


def revoked(done: Sequence[Fault]) -> frozenset[str]:
    """The sites that no longer come back."""
    return frozenset(fault.hit for fault in done if not fault.returns)


def slug(name: str) -> str:
    """A fault's name as a run may be called."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50]


def keep(run: Path, to: Path) -> None:
    """Copy what tells a run's story."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("events.jsonl", "summary.json"):
        with suppress(OSError):
            shutil.copyfile(run / name, to / name)


def line(row: Row) -> str:
    """A row as one line for people."""
    mark = {True: "ok", False: "FAILED", None: "not run"}[row["ok"]]
    words = [row["what_happened"]]
    if row["recovered_s"] is not None:
        words.append(f"recovered after {row['recovered_s']:.0f} s")
    if row.get("resumed_by"):
        words.append(f"resumed by the {row['resumed_by']}")
    if "sites" in row:
        words.append(f"{row['rounds_lost']} rounds lost")
    words += row.get("wrong", ())
    return f"{mark:<7} {row['fault']:<40} {'; '.join(word for word in words if word)}"


def tally(rows: Sequence[Row]) -> str:
    """How many faults were survived, failed and not run, and the rounds lost."""
    count: dict[Any, int] = {state: sum(row["ok"] is state for row in rows) for state in (True, False, None)}
    lost = sum(row["rounds_lost"] for row in rows)
    return f"{count[True]} survived, {count[False]} failed, {count[None]} not run; {lost} closed rounds lost"
