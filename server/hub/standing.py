"""How the hub stands: processes, address, certificates, disk, sites, runs; for people and for machines."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from shlex import quote
from typing import Any

from common import certificates, processes
from common.errors import FedGliaError
from server.desk.reading import is_queued
from server.desk.wording import NO_WAY_ON
from server.hub import admissions, control, running
from server.hub.folder import Hub
from server.run import has_lost_rounds, is_open

CONNECTED = {"online": "connected", "offline": "disconnected", "registered": "never connected"}
"""Flower's word for a site -> ours."""


def standing(hub: Hub) -> dict[str, Any]:
    """Everything that `fedglia hub status --json` prints; its keys are stable, more may be added.

    `well` is whether sites can connect and nothing needs a person now; `problems` and `warnings` say why not.
    Of the runs only the last is a problem where it was interrupted: who starts another has left the older.

    Raises:
        InputError: the authority or the admissions are missing or damaged.
    """
    services = processes.states(hub.folder)
    problems = [
        f"{name}: is not running; see logs/{name}.log" for name, each in services.items() if each.pid is None
    ]
    unreachable = (
        running.health_problem(hub)
        if services
        else f"the hub is stopped: fedglia hub start --hub {quote(str(hub.folder))}"
    )
    if unreachable is not None:
        problems.append(unreachable)
    found = runs(hub)
    problems += [_interrupted(hub, run["name"]) for run in found[-1:] if run["status"] == "interrupted"]
    expiring = running.expiry_warnings(hub)
    problems += [line for line in expiring if "has expired" in line]
    disk = shutil.disk_usage(hub.folder)
    return {
        "schema": 1,
        "well": not problems,
        "problems": problems,
        "warnings": [line for line in expiring if "has expired" not in line] + running.disk_warnings(hub),
        "address": hub.address,
        "services": {name: vars(each) for name, each in services.items()},
        "authority": {
            "fingerprint": certificates.fingerprint((hub.pki / "ca.crt").read_bytes()),
            "expires": certificates.expiry(hub.pki / "ca.crt").isoformat(),
        },
        "certificate": {"expires": certificates.expiry(hub.pki / "edge.crt").isoformat()},
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
        "sites": _sites(hub, reachable=unreachable is None),
        "runs": found,
    }


def runs(hub: Hub) -> list[dict[str, Any]]:
    """Name, status, closed rounds and plan of each run, the one that was touched last at the end."""
    return [_run(path) for path in sorted(hub.runs_folder.glob("*/"), key=_age)]


def left_off(hub: Hub) -> str | None:
    """The run that `fedglia rounds resume` would go on with: the last that ended before it was done."""
    names = [run["name"] for run in runs(hub) if run["status"] in ("stopped", "interrupted", "failed")]
    return next((name for name in reversed(names) if not has_lost_rounds(hub.runs_folder / name)), None)


def _sites(hub: Hub, *, reachable: bool) -> dict[str, Any]:
    statuses: dict[int, str] | None = None
    if reachable:
        with contextlib.suppress(FedGliaError):
            statuses = control.nodes(hub)
    return {
        name: {
            "state": _state(entry, statuses),
            "key": certificates.key_fingerprint(entry.public_key),
            "node_id": None if entry.node_id is None else str(entry.node_id),
            "admitted_at": entry.admitted_at,
            "revoked_at": entry.revoked_at,
        }
        for name, entry in admissions.load(hub).items()
    }


def _state(entry: admissions.Admission, statuses: dict[int, str] | None) -> str:
    if entry.revoked_at is not None:
        return "revoked"
    if statuses is None:
        return "unknown"
    if entry.node_id is None or entry.node_id not in statuses:
        return "admitted, not yet registered"
    return CONNECTED.get(statuses[entry.node_id], statuses[entry.node_id])


def _run(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        summary = json.loads((folder / "summary.json").read_text())
    status = summary.get("status", "not begun")
    if status == "running" and not is_open(folder) and not is_queued(folder):
        status = "interrupted"
    return {
        "name": folder.name,
        "status": status,
        "rounds": len(summary.get("rounds", ())),
        "plan": summary.get("plan", {}).get("name"),
    }


def _interrupted(hub: Hub, name: str) -> str:
    if has_lost_rounds(hub.runs_folder / name):
        return f"run {name}: was interrupted; {NO_WAY_ON}"
    return f"run {name}: was interrupted, its process died: fedglia rounds resume {name}"


def _age(folder: Path) -> float:
    return folder.stat().st_mtime
