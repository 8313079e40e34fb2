"""A hub that was taken over sends code with a run: real processes, and the site runs none of it.

The site's node sees of the site's folder what its unit shows it, where this machine makes mount namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.node import LAST_POLL
from common.flower import QUIET
from simulation.rehearsal.machines import HubMachine, SiteMachine, free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
PLAN = {
    "name": "honest",
    "model": {"preset": "nano", "start": "scratch"},
    "adaptation": {"patch": 32},
    "rounds": {"count": 1, "quorum": 1, "deadline_s": 30.0},
    "sites": {"a": {}},
}
CODE = """
from pathlib import Path
from flwr.clientapp import ClientApp
Path({canary!r}).write_text("run")
app = ClientApp()
"""


def put_code_into(app: Path, canary: Path) -> None:
    """What somebody at the hub would do: the bundle of runs gets a file, and names it as what sites run."""
    settings = app / "pyproject.toml"
    changed = settings.read_text().replace('"client.app:app"', '"wicked:app"')
    settings.write_text(changed.replace('["pyproject.toml"]', '["pyproject.toml", "wicked.py"]'))
    (app / "wicked.py").write_text(CODE.format(canary=str(canary)))


def node_of(state: Path) -> list[str]:
    """The command of the node of the site STATE/site: under its unit's mounts, where that can be."""
    fedglia = str(Path(sys.executable).with_name("fedglia"))
    node = [fedglia, "site", "start", "--foreground", "--only", "node", "--site"]
    space = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], check=False).returncode != 0:
        return [*node, str(state / "site")]
    unit = ROOT / "deploy" / "systemd" / "fedglia-site-node.service"
    mounts = [sys.executable, "-m", "tests.deploy.under_mounts", str(unit), str(state)]
    return [*space, *mounts, *node, "/var/lib/fedglia/site"]


def audit(site: SiteMachine) -> list[dict[str, Any]]:
    """The refusals in the site's record."""
    file = site.folder / "audit.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [line for line in lines if line["event"] == "refused"]


def told(hub: HubMachine) -> list[dict[str, Any]]:
    """What the hub was told of a refused bundle."""
    return [event for event in hub.events("wicked-1") if event.get("code") == "bundle"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin") is None, reason="nginx is not installed"
)
def test_code_that_a_hub_sends_is_refused_unopened(tmp_path: Path) -> None:
    plan, canary = tmp_path / "honest.toml", tmp_path / "canary"
    plan.write_text(tomli_w.dumps(PLAN))
    (tmp_path / "scans").mkdir()
    (tmp_path / "state").mkdir()
    hub = HubMachine(tmp_path / "hub", port=free_port())
    site = SiteMachine(tmp_path / "state" / "site", name="a", data=tmp_path / "scans")
    worker = [sys.executable, "-P", "-m", "client.worker", str(site.folder)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        hub.fedglia("hub", "init", str(hub.folder), "--address", hub.address)
        hub.do("hub", "start", timeout_s=300)
        site.join(hub, plan, policy=("minimum_sites=1",))
        put_code_into(hub.folder / "app", canary)
        for command in (node_of(site.folder.parent), worker):
            started.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **QUIET}))
        wait_for((site.folder / LAST_POLL).exists, within_s=200, what="the hub to hear the node")
        hub.do("rounds", "start", str(plan), "--yes", "--name", "wicked-1", timeout_s=300)
        wait_for(lambda: bool(told(hub)), within_s=200, what="the site's refusal")
        refused, said = audit(site), told(hub)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
        hub.do("hub", "stop", status=None, timeout_s=300)

    (line,) = refused
    assert (line["code"], line["by"]) == ("bundle", "guard")
    assert {event.get("site") for event in said} == {"a"}
    stored = b"".join(file.read_bytes() for file in hub.folder.glob("state.db*"))
    assert b"wicked.py" in stored  # as a name in the archive: it was in the bundle that the run came with
    assert not list(site.folder.rglob("wicked.py"))
    assert not canary.exists()
