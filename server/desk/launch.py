"""From a plan to a run that Flower carries out; stopping it, and going on with it."""

from __future__ import annotations

import difflib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from common.errors import InputError, LockedError, PlanError, RunError
from common.files import write_atomic
from common.plan import Plan, parse
from common.terminal import Say
from server.desk.reading import events_of, read_json, starts, starts_file, times_opened
from server.desk.wording import NO_WAY_ON
from server.hub import control
from server.hub.folder import Hub
from server.run import GIVEN_FILE, RUN_NAME, STOP_FILE, create, has_lost_rounds, is_open

BEGIN_S = 90.0
STOP_S = 60.0
_LOOK_S = 0.25
_ASK_FLOWER_S = 5.0


def effective(plan: Plan, *, sites: Sequence[str] = (), start_file: Path | None = None) -> Plan:
    """The plan as it will be carried out; its hash is another one wherever it differs.

    Args:
        plan: as it was written.
        sites: those that take part; none: all.
        start_file: the first model, where it is a file.

    Raises:
        InputError: a site that the plan does not have, or a model file that cannot be used.
        PlanError: fewer sites than the quorum.
        CheckpointError: the first model is not the plan's, or does not fit it.
    """
    from server.start import file_hash, starting_model

    for site in sites:
        if site not in plan.sites:
            close = difflib.get_close_matches(site, plan.site_names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(plan.site_names)}"
            raise InputError(f"plan {plan.name} has no site '{site[:40]}'; {hint}")
    if sites:
        every = plan.as_dict()
        kept = {name: part for name, part in every["sites"].items() if name in sites}
        plan = parse({**every, "sites": kept}, origin=f"plan {plan.name} with --sites {','.join(sites)}")
    if start_file is not None and not plan.model.start.startswith("sha256:"):
        plan = plan.override({"model.start": f"sha256:{file_hash(start_file)}"})
    starting_model(plan, start_file)
    return plan


def check_admitted(plan: Plan, admitted: Mapping[str, str]) -> None:
    """Refuse a plan that would only wait: fewer of its sites are admitted than its quorum.

    Raises:
        InputError: who is missing, and what to do.
    """
    missing = [site for site in plan.site_names if admitted.get(site) != "admitted"]
    there = len(plan.sites) - len(missing)
    if there < plan.rounds.quorum:
        raise InputError(
            f"{there} of the plan's sites admitted, the quorum is {plan.rounds.quorum}; nothing was started. "
            f"Not admitted: {', '.join(missing)}; for each: fedglia hub admit JOIN_FILE"
        )


def next_name(hub: Hub, plan: Plan) -> str:
    """The plan's name and a number that no run of it has yet."""
    taken = {folder.name for folder in hub.runs_folder.glob(f"{plan.name}-*")}
    number = 1
    while f"{plan.name}-{number}" in taken:
        number += 1
    return f"{plan.name}-{number}"


def make(hub: Hub, plan: Plan, name: str, *, start_file: Path | None = None) -> Path:
    """A run directory for the plan in the hub's folder of runs; nothing is started.

    Raises:
        InputError: the name cannot be a run's, or is taken.
        RunError: the disk is full.
    """
    if not RUN_NAME.fullmatch(name):
        raise InputError(f"--name '{name[:60]}': lower-case letters, digits and '-', at most 64")
    folder = hub.runs_folder / name
    if folder.exists():
        raise InputError(
            f"run {name}: exists already; name another, or go on with it: fedglia rounds resume {name}"
        )
    try:
        create(folder, plan, resume=False)
        if start_file is not None:
            shutil.copyfile(start_file, folder / GIVEN_FILE)
    except (OSError, RunError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"run {name}: cannot be made ({reason}); make room", code="disk") from error
    return folder


def start(hub: Hub, folder: Path, *, say: Say = lambda line: None) -> None:
    """Let Flower carry the run out, and wait until it has begun.

    Args:
        hub: where it will run.
        folder: the run directory.
        say: told what is waited for, a line at a time.

    Raises:
        RunError: the hub is not running, Flower refuses, or its process failed before it began.
    """
    say("hands the run to Flower")
    opened_before = times_opened(events_of(folder))
    number = control.start_run(hub, folder.name)
    known = [*starts(folder), {"flower": number, "at": time.time(), "opened_before": opened_before}]
    kept = starts_file(folder)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(kept, json.dumps({"schema": 1, "starts": known}, indent=1).encode())
    say(f"waits until the hub's process of the run has begun, {BEGIN_S:.0f} s at most")
    end = time.monotonic() + BEGIN_S
    ask_at = time.monotonic() + _ASK_FLOWER_S
    while times_opened(events_of(folder)) <= opened_before:
        if time.monotonic() > ask_at:
            _check_begun(hub, folder, number)
            ask_at = time.monotonic() + _ASK_FLOWER_S
        if time.monotonic() > end:
            raise RunError(
                f"run {folder.name}: Flower has not begun it within {BEGIN_S:.0f} s; look at "
                "logs/exec.log in the hub's folder, and at fedglia rounds status"
            )
        time.sleep(_LOOK_S)


def stop(hub: Hub, folder: Path) -> str:
    """End a run so that it can be gone on with; returns how it ended, in words.

    Raises:
        InputError: nobody works on it.
        RunError: it does not end.
    """
    if not is_open(folder):
        raise InputError(f"run {folder.name}: is not running; see fedglia rounds status {folder.name}")
    (folder / STOP_FILE).touch()
    if _is_over(folder, within_s=STOP_S):
        return "stopped"
    number = starts(folder)[-1]["flower"] if starts(folder) else None
    if number is not None:
        control.stop_run(hub, number)
        if _is_over(folder, within_s=STOP_S):
            return "stopped by ending its process"
    raise RunError(
        f"run {folder.name}: has not ended within {2 * STOP_S:.0f} s; it will at its next wait. "
        "To end it now: fedglia hub stop"
    )


def resume(hub: Hub, folder: Path, plan: Plan, *, say: Say = lambda line: None) -> bool:
    """Go on with a run from its last closed round; False where a process is at work on it already.

    Raises:
        LockedError: that process was asked to stop.
        InputError: it is completed, or the models of its closed rounds are not there.
        RunError: see `start`.
    """
    if is_open(folder):
        if (folder / STOP_FILE).exists():
            raise LockedError(f"run {folder.name}: is being stopped; try again when it has ended")
        return False
    if read_json(folder / "summary.json").get("status") == "completed":
        raise InputError(f"run {folder.name}: is completed; start another: fedglia rounds start PLAN")
    if has_lost_rounds(folder):
        raise InputError(f"run {folder.name}: {NO_WAY_ON}")
    if plan.sha256 != (folder / "plan.sha256").read_text().strip():
        raise PlanError(f"run {folder.name}: its plan.toml is not the one that it began with; put it back")
    if not control.is_up(hub):
        raise RunError("the hub is not running; start it: fedglia hub start", code="hub-down")
    for before in starts(folder)[-1:]:
        say("tells Flower that the earlier process of the run is over")
        with suppress(RunError):  # it has ended there too, unless its process died a moment ago
            control.stop_run(hub, str(before["flower"]))
    create(folder, plan, resume=True)
    start(hub, folder, say=say)
    return True


def _check_begun(hub: Hub, folder: Path, number: str) -> None:
    """Find out from Flower whether its process ended before it wrote a word."""
    (found,) = [run for run in control.list_runs(hub) if str(run.get("run-id")) == number] or [{}]
    status = str(found.get("status", ""))
    if status.startswith("finished"):
        raise RunError(
            f"run {folder.name}: Flower ended it at once ({status}); logs/exec.log in the hub's folder has "
            f"the words. When that is mended: fedglia rounds resume {folder.name}"
        )


def _is_over(folder: Path, *, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while is_open(folder):
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_S)
    return True
