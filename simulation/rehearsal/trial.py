"""One fault against one run: started, hit at its moment, followed to its end, judged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import FedGliaError, RunError
from simulation.rehearsal.faults import Fault
from simulation.rehearsal.federation import same_tensors
from simulation.rehearsal.link import Weather
from simulation.rehearsal.machines import Machine, wait_for
from simulation.rehearsal.scene import (
    Scene,
    asked_again,
    closed_rounds,
    outcomes,
    recovered_s,
    rounds_lost,
)
from simulation.rehearsal.victims import lives

END_S = 360.0
"""From the injection to the end of the run, at most, with or without a person."""
SURELY_DEAD_S = 3.0
RESUME_S = 90.0
CALM_S = 90.0

Row = dict[str, Any]


def put_to_trial(scene: Scene, fault: Fault, *, reference: Path) -> Row:
    """Run the plan with one fault, and say what became of it; raises nothing that a fault may cause.

    Args:
        scene: the federation, all of it running.
        fault: the row.
        reference: a run of the same plan that nothing disturbed.
    """
    if fault.disk and fault.disk not in scene.disks:
        return not_run(fault, "needs root and a mount, for a small disk")
    began = time.monotonic()
    row: Row = {"fault": fault.name, "what_happened": "", "recovered_s": None, "rounds_lost": 0}
    wrong: list[str] = []
    before: dict[int, str] = {}
    hit_at = time.time()
    with scene.things:
        try:
            fault.prepare(scene)
            scene.hub.do("rounds", "start", str(scene.plan), "--yes", "--name", scene.run)
            fault.moment(scene)
            before, hit_at = closed_rounds(scene.folder), time.time()
            row["what_happened"] = fault.inject(scene)
        except FedGliaError as error:
            wrong.append(str(error))
        row["resumed_by"] = to_its_end(scene, wrong)
        with suppress(OSError, ValueError):
            wrong += complaints(scene, fault, row["resumed_by"], reference)
    sites = frozenset(scene.sites) if fault.returns else scene.others
    found = recovered_s(scene.events(), since=hit_at, sites=sites)
    lost = rounds_lost(before, closed_rounds(scene.folder))
    wrong += judged(fault, found, lost)
    row |= {
        "recovered_s": found,
        "rounds_lost": lost,
        "closed_before": sorted(before),
        "sites": outcomes(scene.hub.summary(scene.run)),
        "asked_again": asked_again(scene.events(), scene.hit),
        "status": scene.state(),
        "run_s": round(time.monotonic() - began, 1),
        "wrong": wrong,
        "ok": not wrong,
    }
    return row


def not_run(fault: Fault, why: str) -> Row:
    """The row of a fault that this machine cannot have."""
    return {
        "fault": fault.name,
        "what_happened": f"not run: {why}",
        "recovered_s": None,
        "rounds_lost": 0,
        "resumed_by": None,
        "ok": None,
    }


def judged(fault: Fault, found_s: float | None, lost: int) -> Iterator[str]:
    """What is wrong with how a run recovered."""
    if lost:
        yield f"{lost} closed round(s) lost"
    if found_s is None:
        yield "no later round held every site" if fault.returns else "no later round held the other sites"
    elif found_s > fault.within_s:
        yield f"recovered after {found_s:.0f} s, {fault.within_s:.0f} s are allowed"


def complaints(scene: Scene, fault: Fault, resumed_by: str | None, reference: Path) -> Iterator[str]:
    """What does not hold at the end of a run."""
    if scene.state() != "completed":
        yield f"the run ended as {scene.state()}"
        return
    if resumed_by and not fault.person:
        yield "the run did not go on by itself"
    if fault.person and not resumed_by:
        yield "the run went on without a person, which was not expected"
    records = {record["round"]: record for record in scene.hub.summary(scene.run)["rounds"]}
    outcome = records[2]["sites"][scene.hit]["outcome"]
    if outcome not in fault.outcomes:
        yield f"round 2: {scene.hit} is {outcome}, not {' or '.join(sorted(fault.outcomes))}"
    undisturbed = all(set(record["folded"]) == set(scene.sites) for record in records.values())
    if undisturbed and not same_tensors(scene.folder, reference):
        yield "every site was folded in every round, and the model is another than without the fault"
    yield from fault.also(scene)


def to_its_end(scene: Scene, wrong: list[str]) -> str | None:
    """Follow the run until it has completed, as a coordinator would; who resumed it, None for nobody.

    Args:
        scene: the run.
        wrong: takes what went wrong on the way.
    """
    if not (scene.folder / "run.json").is_file():
        return None  # it was never made
    resumed: str | None = None
    end = time.monotonic() + END_S
    dead_since: float | None = None
    while (state := scene.state()) != "completed" and time.monotonic() < end:
        now = time.monotonic()
        dead_since = None if state == "running" else dead_since or now
        if dead_since is not None and now - dead_since > SURELY_DEAD_S:
            if resumed:
                break
            resumed = resume(scene, wrong)
            dead_since = None
        time.sleep(0.3)
    if scene.state() == "running":
        wrong.append(f"the run did not end in {END_S:.0f} s")
        with suppress(RunError):
            scene.hub.do("rounds", "stop", scene.run, status=None)
    return resumed


def resume(scene: Scene, wrong: list[str]) -> str | None:
    """`fedglia rounds resume`, tried until it is done, as a person would."""
    last: list[str] = []

    def done() -> bool:
        try:
            scene.hub.do("rounds", "resume", scene.run)
        except RunError as error:
            last[:] = [str(error)]
            return False
        return True

    try:
        wait_for(done, within_s=RESUME_S, what="rounds resume", every_s=2.0)
        wait_for(lambda: scene.state() == "running", within_s=RESUME_S, what="the resumed run")
    except RunError as error:
        wrong.append(f"{error}; {last[-1][-300:] if last else ''}")
        return None
    return "coordinator"


def calm(scene: Scene, *, revoked: frozenset[str]) -> None:
    """After a fault: everything runs and is connected again.

    Raises:
        RunError: it is not, and the next fault would meet a broken federation.
    """
    for link in scene.links.values():
        link.weather = Weather()
        link.mend()
    for disk in scene.disks.values():
        disk.make_room()
    for role, machine in (("hub", scene.hub), *(("site", site) for site in scene.sites.values())):
        if not is_up(machine):
            machine.do(role, "start")
    wanted = frozenset(scene.sites) - revoked
    wait_for(
        lambda: wanted <= connected(scene),
        within_s=CALM_S,
        what=f"connection of {', '.join(sorted(wanted))}",
        every_s=1.0,
    )


def is_up(machine: Machine) -> bool:
    """Whether a machine's supervisor runs."""
    try:
        return lives(machine.supervisor_pid())
    except (OSError, ValueError, KeyError):
        return False


def connected(scene: Scene) -> frozenset[str]:
    """The sites that the hub calls connected."""
    try:
        found: Mapping[str, Any] = json.loads(scene.hub.do("hub", "status", "--json", status=None))
    except (ValueError, RunError):
        return frozenset()
    return frozenset(name for name, site in found.get("sites", {}).items() if site["state"] == "connected")
