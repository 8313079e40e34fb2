"""What a site's two processes see of its folder under their units: tried, in mount namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.join import init_site
from tests.deploy.places import DEPLOY, NODE_READS, ROOT, program

LOOK = """
import os
from pathlib import Path
site = Path("/var/lib/fedglia/site")
def writes(path):
    try:
        path.open("ab").close()
    except OSError:
        return False
    return True
for folder in (site, Path("/srv")):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes():
            print("reads", path.relative_to(folder))
            if writes(path):
                print("writes", path.relative_to(folder))
for folder in (site, *(path for path in site.rglob("*") if path.is_dir())):
    if writes(folder / "new"):
        print("makes", (folder / "new").relative_to(site))
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A site that has worked: every folder of it holds something."""
    (tmp_path / "scans").mkdir()
    site = tmp_path / "state" / "site"
    site.parent.mkdir()
    init_site(site, hub="hub.example:8443", name="a", data=tmp_path / "scans")
    (site / "approved").mkdir(exist_ok=True)
    for folder in (path for path in site.iterdir() if path.is_dir()):
        (folder / "something").write_text("of patients")
    for name in ("hub-ca.crt", "audit.jsonl", "egress.jsonl", "site.log"):
        (site / name).write_text("words")
    return site.parent


def told(unit: str, state: Path) -> dict[str, set[str]]:
    """What a look around printed under the unit's mounts."""
    asked = [
        program("unshare"),
        "--mount",
        "--map-root-user",
        sys.executable,
        "-m",
        "tests.deploy.under_mounts",
    ]
    asked += [str(DEPLOY / "systemd" / f"fedglia-site-{unit}.service"), str(state)]
    done = subprocess.run(
        [*asked, sys.executable, "-c", LOOK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare:" in done.stderr:
        pytest.skip("this machine makes no namespaces for us")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return {kind: {name for each, name in lines if each == kind} for kind in ("reads", "writes", "makes")}


def test_the_node_sees_no_scan_no_record_and_can_approve_nothing(state: Path) -> None:
    assert told("node", state) == {
        "reads": NODE_READS | {"run/something"},
        "writes": {"run/something"},
        "makes": {"run/new"},
    }


def test_a_site_that_believes_no_authority_yet_has_a_node_too(state: Path) -> None:
    (state / "site" / "hub-ca.crt").unlink()
    assert told("node", state)["reads"] == NODE_READS - {"hub-ca.crt"} | {"run/something"}


def test_the_worker_sees_scans_and_all_but_the_key(state: Path) -> None:
    seen = told("worker", state)["reads"]
    assert {"fedglia/scans/scan.nii.gz", "cache/something", "secret"} <= seen
    assert "key" not in seen
