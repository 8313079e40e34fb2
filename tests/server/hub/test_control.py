"""Flower's command, as the hub calls it: what is asked, what an answer means, and that every wait ends."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from common.errors import RunError
from server.hub import control
from server.hub.folder import Hub

NODES = {
    "success": True,
    "nodes": [
        {"node-id": "18446744073709551615", "status": "online", "created-at": "2026-01-02 03:04:05Z"},
        {"node-id": "7", "status": "offline", "created-at": "2026-01-02 03:04:06Z"},
        {"node-id": "8", "status": "unregistered", "created-at": "2026-01-02 03:04:07Z"},
    ],
}


class Flwr:
    """A program named `flwr` that writes down how it was called and says what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says(json.dumps({"success": True}))

    def says(self, text: str, *, sleeps_s: float = 0) -> None:
        """Its next answers."""
        (self.folder / "answer").write_text(text)
        program = self.folder / "flwr"
        program.write_text(
            f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done > "{self.folder}/asked"\n'
            f'env > "{self.folder}/environment"\nsleep {sleeps_s}\ncat "{self.folder}/answer"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def asked(self) -> list[str]:
        """The words of the last call."""
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flwr:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(control, "programs", lambda: folder)
    monkeypatch.setattr(control, "is_up", lambda hub: True)
    return Flwr(folder)


def test_a_run_is_started_by_its_name(hub: Hub, flwr: Flwr) -> None:
    flwr.says('{"success": true, "run-id": "16622349941748244786"}')
    assert control.start_run(hub, "demo-1") == "16622349941748244786"
    assert flwr.asked == ["run", str(hub.folder / "app"), "hub", "-c", 'run="demo-1"', "--format", "json"]
    environment = (flwr.folder / "environment").read_text().splitlines()
    assert f"FLWR_HOME={hub.folder / 'flower'}" in environment
    assert "FLWR_DISABLE_UPDATE_CHECK=1" in environment


def test_runs_come_latest_first(hub: Hub, flwr: Flwr) -> None:
    runs = [{"run-id": "1", "pending-at": "2026-01-01"}, {"run-id": "2", "pending-at": "2026-01-02"}]
    flwr.says(json.dumps({"success": True, "runs": runs}))
    assert [run["run-id"] for run in control.list_runs(hub)] == ["2", "1"]
    flwr.says('{"success": true}')  # Flower says no runs where it cannot reach them
    assert control.list_runs(hub) == []


def test_sites_that_were_unregistered_are_not_there(hub: Hub, flwr: Flwr) -> None:
    flwr.says(json.dumps(NODES))
    assert control.nodes(hub) == {2**64 - 1: "online", 7: "offline"}
    assert control.registered_since(hub, "2026-01-02T03:04:06+00:00") == [7]


def test_a_key_is_handed_over_in_a_file(hub: Hub, flwr: Flwr) -> None:
    flwr.says('{"success": true, "node-id": 18446744073709551615}')
    assert control.register(hub, "ecdsa-sha2-nistp384 AAAA", "ssa") == 2**64 - 1
    assert flwr.asked[:2] == ["supernode", "register"]
    assert flwr.asked[3:] == ["hub", "--name", "ssa", "--format", "json"]
    assert not list(hub.folder.glob(".key.*"))


def test_a_key_that_is_known_is_no_error(hub: Hub, flwr: Flwr) -> None:
    flwr.says('{"success": false, "error-message": "noise\\n[code: 21] Public key already in use."}')
    assert control.register(hub, "key", "ssa") is None


def test_what_flower_refuses_is_said_without_the_noise(hub: Hub, flwr: Flwr) -> None:
    flwr.says('{"success": false, "error-message": "Using: hub\\n\\n[code: 24] Node ID not found."}')
    with pytest.raises(RunError, match=r"^flwr supernode: \[code: 24\] Node ID not found\.$"):
        control.unregister(hub, 5)
    flwr.says("Traceback\nboom")
    with pytest.raises(RunError, match=r"^flwr stop: boom$"):
        control.stop_run(hub, "5")


def test_a_hub_that_hangs_is_given_up(hub: Hub, flwr: Flwr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LIMIT_S", 0.2)
    flwr.says("{}", sleeps_s=5)
    with pytest.raises(RunError, match="did not answer within"):
        control.nodes(hub)


def test_a_hub_that_is_down_is_named_with_the_command(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the hub is not running; start it: fedglia hub start --hub") as caught:
        control.list_runs(hub)
    assert caught.value.code == "hub-down"
