"""What is raised in a site's training is nowhere at the hub: real processes, every byte searched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from common.flower import QUIET
from simulation.rehearsal.federation import ENDED
from simulation.rehearsal.machines import HubMachine, SiteMachine, free_port, wait_for

CANARY = "MRN-CANARY"

WORKER = f"""
import sys
from pathlib import Path
from flwr.clientapp import ClientApp
from client import guard
from client.site import open_site
from client.worker import work
from common.tasks import TaskSource
from common.plan import load
from simulation.bench.idle_site import idle_app

folder = Path(sys.argv[1])
idle = idle_app(folder, load(sys.argv[2]))
app = ClientApp()
app.query("hello")(lambda message, context: idle(message, context))
app.evaluate("model")(lambda message, context: idle(message, context))

@app.train("round")
def train_round(message, context):
    raise Exception("{CANARY} in " + str(folder / "{CANARY}.nii.gz"))

def answer(task):
    came_with = (task.bundle, task.bundle_hash)
    return guard.answer(folder, task.message, task.context, app, bundle=came_with)

source = TaskSource(f"127.0.0.1:{{open_site(folder).runtime_port}}", (folder / "secret").read_bytes())
work(source, answer, refuse=lambda task, code: guard.refuse(folder, task.message, Exception(code)))
"""

PLAN = {
    "name": "canary",
    "model": {"preset": "nano", "start": "scratch"},
    "adaptation": {"patch": 32},
    "rounds": {"count": 1, "quorum": 1, "deadline_s": 60.0},
    "sites": {"a": {}},
}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin") is None, reason="nginx is not installed"
)
def test_words_raised_in_training_reach_no_file_of_the_hub(tmp_path: Path) -> None:
    plan = tmp_path / "canary.toml"
    plan.write_text(tomli_w.dumps(PLAN))
    (tmp_path / "scans").mkdir()
    hub = HubMachine(tmp_path / "hub", port=free_port())
    site = SiteMachine(tmp_path / "a", name="a", data=tmp_path / "scans")
    started: list[subprocess.Popen[bytes]] = []
    try:
        hub.fedglia("hub", "init", str(hub.folder), "--address", hub.address)
        hub.do("hub", "start")
        site.join(hub, plan, policy=("minimum_sites=1",))
        node = [
            str(Path(sys.executable).with_name("fedglia")),
            "site",
            "start",
            "--foreground",
            "--only",
            "node",
        ]
        worker = [sys.executable, "-c", WORKER, str(site.folder), str(plan)]
        for command in ([*node, "--site", str(site.folder)], worker):
            started.append(subprocess.Popen(command, env={**os.environ, **QUIET}))
        hub.do("rounds", "start", str(plan), "--yes", "--name", "canary-1")
        wait_for(lambda: hub.summary("canary-1").get("status") in ENDED, within_s=150, what="the run")
        shown = hub.do("rounds", "status", "canary-1", "--json", status=None)
        status = hub.summary("canary-1")["status"]
    finally:
        for process in started:
            process.kill()
            process.wait()
        hub.do("hub", "stop", status=None)

    assert CANARY in (site.folder / "site.log").read_text()
    assert status == "failed"
    assert any(event.get("code") == "internal" for event in hub.events("canary-1"))
    assert CANARY not in shown
    told = [path for path in hub.folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert told == []
