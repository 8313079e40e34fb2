"""The coordinator's commands, as the shell runs them, without a running hub."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import certificates, cli, processes
from common.plan import load
from server.hub import admissions, running
from server.hub.folder import Hub
from server.run import create, exclusive
from tests.server.hub.conftest import Joins, SuperLink


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    status: int
    out: str
    err: str


Fedglia = Callable[..., Ended]


@pytest.fixture
def fedglia(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fedglia:
    """Runs `fedglia hub ...` in this process."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fedglia", "hub", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return Ended(int(caught.value.code or 0), said.out, said.err)

    return run


def test_a_hub_is_made_and_says_what_sites_compare(fedglia: Fedglia, tmp_path: Path) -> None:
    ended = fedglia("init", tmp_path / "my hub", "--address", "hub.example.org:8443")
    assert ended.status == 0
    shown = certificates.fingerprint((tmp_path / "my hub" / "pki" / "ca.crt").read_bytes())
    assert shown in ended.out
    assert f"next: fedglia hub start --hub '{tmp_path}/my hub'" in ended.out
    again = fedglia("init", tmp_path / "my hub")
    assert again.status == 2
    assert "is a hub already" in again.err


def test_a_hub_that_is_stopped_says_so_and_how_to_start_it(fedglia: Fedglia, hub: Hub) -> None:
    ended = fedglia("status", "--hub", hub.folder)
    assert ended.status == 1
    assert ended.out.startswith("PROBLEM  the hub is stopped: fedglia hub start --hub ")
    found = json.loads(fedglia("status", "--hub", hub.folder, "--json").out)
    assert found["well"] is False
    assert found["services"] == found["sites"] == {}
    assert found["authority"]["fingerprint"] in ended.out
    assert fedglia("stop", "--hub", hub.folder).out == "the hub was not running\n"


def test_sites_are_shown_with_their_keys(
    fedglia: Fedglia, hub: Hub, joins: Joins, superlink: SuperLink
) -> None:
    superlink.up = False
    (hub.folder / "edge").mkdir()
    ended = fedglia("admit", joins("ssa", flwr="1.40.0"), "--hub", hub.folder)
    assert ended.status == 0
    assert "ssa is admitted as soon as the hub is started" in ended.out
    assert "warning: flwr 1.40.0 at the site" in ended.err
    key = ended.out.split()[3]
    assert f"ssa: unknown, key {key}" in fedglia("status", "--hub", hub.folder).out
    assert "its next call is refused" in fedglia("revoke", "ssa", "--hub", hub.folder).out
    site = json.loads(fedglia("status", "--hub", hub.folder, "--json").out)["sites"]["ssa"]
    assert (site["state"], site["key"]) == ("revoked", key)
    assert fedglia("revoke", "nobody", "--hub", hub.folder).status == 2


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "words", "status", "said"),
    [
        ("n\n", [], 1, "not admitted; nothing was changed"),
        ("", [], 1, "not admitted; nothing was changed"),
        ("y\n", [], 0, "ssa is admitted"),
        ("", ["--yes"], 0, "ssa is admitted"),
    ],
)
def test_on_a_terminal_the_key_is_shown_and_asked_about(
    fedglia: Fedglia,
    hub: Hub,
    joins: Joins,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    words: list[str],
    status: int,
    said: str,
) -> None:
    (hub.folder / "edge").mkdir()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    file = joins("ssa")
    ended = fedglia("admit", file, "--hub", hub.folder, *words)
    assert ended.status == status
    key = certificates.key_fingerprint(json.loads(file.read_text())["public_key"])
    assert ended.out.startswith(f"site ssa, key {key}\n")
    assert ("is this the key" in ended.out) == (not words)
    assert said in ended.out
    assert bool(admissions.names(hub)) == (status == 0)


def test_a_start_says_what_it_waits_for(fedglia: Fedglia, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "prepare", lambda hub: [])
    monkeypatch.setattr(processes, "start", lambda *words, wait_s: None)
    monkeypatch.setattr(running, "health_problem", lambda hub: None)
    monkeypatch.setattr(admissions, "reconcile", lambda hub: [])
    ended = fedglia("start", "--hub", hub.folder)
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "starts the hub's processes, and waits until they stay, 60 s at most",
        "waits until the SuperLink answers through the edge, 90 s at most",
        "tells the SuperLink who is admitted",
    ]


def test_a_start_names_the_run_that_was_left_off(
    fedglia: Fedglia, hub: Hub, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedglia("admit", joins("ssa"), "--hub", hub.folder)
    monkeypatch.setattr(running, "start", lambda hub, say: [])
    for name, status in (("left-1", "stopped"), ("done-1", "completed")):
        (hub.runs_folder / name).mkdir()
        (hub.runs_folder / name / "summary.json").write_text(json.dumps({"status": status, "rounds": []}))
    resume = "then: fedglia rounds resume left-1, or another: fedglia rounds start PLAN"
    assert resume in fedglia("start", "--hub", hub.folder).out
    (hub.runs_folder / "left-1" / "summary.json").write_text(
        json.dumps({"status": "stopped", "rounds": [{}]})
    )
    assert "then: fedglia rounds start PLAN" in fedglia("start", "--hub", hub.folder).out


LIGHT = """
import json, sys
from common import cli
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        cli.main()
    except SystemExit as ended:
        print(*words, ended.code or 0, "torch" in sys.modules, sep="|", file=sys.stderr)
"""


def test_what_only_shows_or_stops_does_without_pytorch(hub: Hub) -> None:
    create(hub.runs_folder / "smoke-1", load("smoke"), resume=False)
    asked = {
        ("hub", "status"): 1,
        ("hub", "stop"): 0,
        ("rounds", "start", "smoke"): 1,
        ("rounds", "status", "--json"): 0,
        ("rounds", "watch"): 1,
        ("rounds", "stop"): 2,
        ("rounds", "resume"): 1,
        ("rounds", "report"): 2,
        ("release", "list", str(hub.runs_folder / "smoke-1")): 0,
    }
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(list(asked))],
        env={**os.environ, "FEDGLIA_HUB": str(hub.folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "|" in line]
    assert said == ["|".join([*words, str(status), "False"]) for words, status in asked.items()]


def test_a_certificate_is_renewed(fedglia: Fedglia, hub: Hub) -> None:
    before = (hub.pki / "edge.crt").read_bytes()
    ended = fedglia("renew", "--hub", hub.folder)
    assert ended.status == 0
    assert "used from the next start on" in ended.out
    assert (hub.pki / "edge.crt").read_bytes() != before
    assert certificates.matches(hub.pki, "edge")


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (12, "warning  pki/edge.crt: expires in 11 days; fedglia hub renew"),
        (0, "PROBLEM  pki/edge.crt: has expired, no site can connect"),
    ],
)
def test_an_end_that_is_near_is_said(fedglia: Fedglia, hub: Hub, days: int, said: str) -> None:
    certificates.issue(hub.pki, "edge", hosts=["localhost"], days=days)
    ended = fedglia("status", "--hub", hub.folder)
    assert said in ended.out
    if days == 0:
        start = fedglia("start", "--hub", hub.folder)
        assert start.status == 2
        assert "has expired" in start.err


def test_runs_are_listed(fedglia: Fedglia, hub: Hub) -> None:
    for name, summary in (("demo-1", {"status": "completed", "rounds": [{}, {}]}), ("demo-2", None)):
        (hub.runs_folder / name).mkdir()
        if summary:
            (hub.runs_folder / name / "summary.json").write_text(json.dumps(summary))
    out = fedglia("status", "--hub", hub.folder).out
    assert "demo-1: completed, 2 round(s) closed" in out
    assert "demo-2: not begun, 0 round(s) closed" in out


def test_the_last_run_is_a_problem_where_its_process_died(fedglia: Fedglia, hub: Hub) -> None:
    words = "PROBLEM  run demo-1: was interrupted, its process died: fedglia rounds resume demo-1"
    folder = hub.runs_folder / "demo-1"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "round-0001.safetensors").touch()
    (folder / "summary.json").write_text(json.dumps({"status": "running", "rounds": [{}]}))
    with exclusive(folder / "hub.lock", what="run"):
        at_work = fedglia("status", "--hub", hub.folder).out
    assert "demo-1: running, 1 round(s) closed" in at_work
    assert "was interrupted" not in at_work
    out = fedglia("status", "--hub", hub.folder).out
    assert "demo-1: interrupted, 1 round(s) closed" in out
    assert words in out
    shutil.rmtree(folder / "checkpoints")
    assert "PROBLEM  run demo-1: was interrupted; the models" in fedglia("status", "--hub", hub.folder).out
    os.utime(folder, (1, 1))
    (hub.runs_folder / "demo-2").mkdir()
    assert "was interrupted" not in fedglia("status", "--hub", hub.folder).out


def test_backup_and_restore(fedglia: Fedglia, hub: Hub, tmp_path: Path) -> None:
    ended = fedglia("backup", tmp_path / "b.tar.gz", "--hub", hub.folder)
    assert ended.status == 0
    assert "8 files" in ended.out
    assert fedglia("backup", tmp_path / "b.tar.gz", "--hub", hub.folder).status == 2
    assert fedglia("restore", tmp_path / "b.tar.gz", tmp_path / "again").status == 0
    assert fedglia("restore", tmp_path / "b.tar.gz", tmp_path / "again").status == 2
    assert (tmp_path / "again" / "secret").read_bytes() == (hub.folder / "secret").read_bytes()


def test_a_restored_hub_says_whom_it_lets_in_again(
    fedglia: Fedglia, hub: Hub, joins: Joins, tmp_path: Path
) -> None:
    assert fedglia("admit", joins("ssa"), "--hub", hub.folder).status == 0
    fedglia("backup", tmp_path / "b.tar.gz", "--hub", hub.folder)
    assert fedglia("revoke", "ssa", "--hub", hub.folder).status == 0
    out = fedglia("restore", tmp_path / "b.tar.gz", tmp_path / "again").out
    assert "admitted, as when the backup was made: ssa\n" in out
    assert f"fedglia hub revoke NAME --hub {tmp_path}/again" in out
    assert fedglia("revoke", "ssa", "--hub", tmp_path / "again").status == 0


def test_where_no_hub_is_named(fedglia: Fedglia, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDGLIA_HUB", raising=False)
    for command in ("start", "stop", "status", "renew"):
        ended = fedglia(command)
        assert ended.status == 2
        assert "no hub is named" in ended.err


def test_every_command_says_its_exit_statuses(fedglia: Fedglia) -> None:
    for command in ("start", "stop", "status", "admit", "revoke", "renew", "backup", "restore"):
        assert "Exit status: 0" in " ".join(fedglia(command, "--help").out.split())
