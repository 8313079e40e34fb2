"""What a run's files and the hub know of it, read together, also while the run is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import plan as plans
from common.errors import InputError, RunError
from server.desk.states import Facts
from server.hub import admissions, control
from server.hub.folder import Hub
from server.run import RUN_NAME, has_lost_rounds, is_open

STARTS = "desk"
"""HUB/desk/RUN.json: each time that a run was started. Not in the run directory, which has one writer."""
QUEUED_S = 180.0
"""So long Flower may take to begin a run; one that nobody works on after that was interrupted."""


def runs(hub: Hub) -> list[str]:
    """The hub's runs by name, the one started last at the end."""
    found = [folder for folder in hub.runs_folder.glob("*/") if (folder / "run.json").is_file()]
    return [folder.name for folder in sorted(found, key=_started)]


def folder_of(hub: Hub, name: str | None) -> Path:
    """The directory of a run of this hub; of the latest where none is named.

    Raises:
        InputError: there is none.
    """
    known = runs(hub)
    if name is None and known:
        return hub.runs_folder / known[-1]
    if name is None:
        raise InputError("this hub has no run yet; start one: fedglia rounds start PLAN")
    if not RUN_NAME.fullmatch(name) or name not in known:
        listed = ", ".join(known[-10:]) or "none yet"
        raise InputError(f"'{name[:60]}' is no run of this hub; there are: {listed}")
    return hub.runs_folder / name


def unfinished(hub: Hub, name: str | None) -> Path:
    """The directory of a run of this hub; where none is named, of the latest that is not completed.

    Raises:
        InputError: there is none.
    """
    known = [hub.runs_folder / each for each in runs(hub)]
    left = [each for each in known if read_json(each / "summary.json").get("status") != "completed"]
    if name is None and known and not left:
        raise InputError("every run of this hub is completed; start another: fedglia rounds start PLAN")
    return folder_of(hub, left[-1].name if name is None and left else name)


def read(hub: Hub, folder: Path, *, nodes: Mapping[str, str] | None = None) -> Facts:
    """Everything that is known of a run now.

    Args:
        hub: whose run it is.
        folder: the run directory.
        nodes: site -> Flower's word for it; asked for with `connections`.

    Raises:
        PlanError: the run's plan.toml cannot be read.
    """
    summary, events = read_json(folder / "summary.json"), events_of(folder)
    is_opened, lost = is_open(folder), has_lost_rounds(folder)
    return Facts(
        name=folder.name,
        plan=plans.load(folder / "plan.toml"),
        events=events,
        records=summary.get("rounds", []) if lost else _records(folder),
        status=str(summary.get("status", "")),
        open=is_opened,
        queued=not is_opened and is_queued(folder),
        interruptions=int(summary.get("interruptions", 0)),
        admissions=admitted(hub),
        nodes=nodes,
        identity=str(read_json(folder / "run.json").get("identity", "")),
        lost=lost,
    )


def admitted(hub: Hub) -> dict[str, str]:
    """Site -> "admitted" or "revoked".

    Raises:
        InputError: the hub's admissions are damaged.
    """
    known = admissions.load(hub)
    return {name: "admitted" if entry.revoked_at is None else "revoked" for name, entry in known.items()}


def connections(hub: Hub) -> dict[str, str] | None:
    """Site -> "online", "offline" or "registered", as Flower says; None where the hub does not answer."""
    try:
        statuses = control.nodes(hub)
    except RunError:
        return None
    known = admissions.load(hub).items()
    return {
        name: statuses.get(entry.node_id, "registered")
        for name, entry in known
        if entry.node_id is not None and entry.revoked_at is None
    }


def starts(folder: Path) -> list[dict[str, Any]]:
    """Each time that a run was started: `flower` (its number there), `at`, `opened_before`."""
    return list(read_json(starts_file(folder)).get("starts", []))


def starts_file(folder: Path) -> Path:
    """Where the starts of the run in `folder`, one of HUB/runs, are kept."""
    return folder.parents[1] / STARTS / f"{folder.name}.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _records(folder: Path) -> list[dict[str, Any]]:
    """Records of the rounds that are closed: those whose checkpoint exists."""
    records = []
    for file in sorted((folder / "rounds").glob("round-*.json")):
        if (folder / "checkpoints" / f"{file.stem}.safetensors").is_file():
            records.append(read_json(file))
    return [record for record in records if record]


def is_queued(folder: Path) -> bool:
    """Whether the desk started it, and Flower has had no time yet to begin."""
    known = starts(folder)
    if not known or time.time() - float(known[-1]["at"]) > QUEUED_S:
        return False
    return times_opened(events_of(folder)) <= int(known[-1]["opened_before"])


def times_opened(events: Iterable[Mapping[str, Any]]) -> int:
    """How often a process of the hub began to work on a run."""
    return sum(event.get("event") == "run opened" for event in events)


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The events of a run; a line that cannot be read is left out."""
    found = []
    with suppress(OSError):
        for line in (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return [event for event in found if isinstance(event, dict)]


def _started(folder: Path) -> float:
    known = starts(folder)
    return float(known[-1]["at"]) if known else (folder / "run.json").stat().st_mtime
