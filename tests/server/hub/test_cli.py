"""The coordinator's commands, as the shell runs them, without a running hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import certificates, cli
from server.hub.folder import Hub
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
