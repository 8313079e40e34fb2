"""Flower, as the hub asks it: its command and its SuperLink; what answers mean, and that every wait ends."""

from __future__ import annotations

import json
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import ListNodesResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.superlink.routers.control.router import router

from common.errors import RunError
from server.hub import control
from server.hub.folder import Hub
from server.hub.making import make_hub

NODES = [
    NodeInfo(node_id=2**64 - 1, status="online", registered_at="2026-01-02T03:04:05.900000+00:00"),
    NodeInfo(node_id=7, status="offline", registered_at="2026-01-02T03:04:06.200000+00:00"),
    NodeInfo(node_id=8, status="unregistered", registered_at="2026-01-02T03:04:07.000000+00:00"),
]

Answer = Callable[[str], tuple[int, bytes]]


@contextmanager
def link_of(hub: Hub, answer: Answer) -> Iterator[Hub]:
    """The hub with something at its link's port that shows its certificate and answers each path."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, content = answer(self.path)
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(hub.pki / "link.crt", hub.pki / "link.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield replace(hub, ports=hub.ports.model_copy(update={"link": server.server_address[1]}))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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


def test_sites_that_were_unregistered_are_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # what is on this machine is asked directly
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, ListNodesResponse(nodes_info=NODES).SerializeToString()

    with link_of(hub, answer) as running:
        assert control.nodes(running) == {2**64 - 1: "online", 7: "offline"}
        assert control.registered_since(running, "2026-01-02T03:04:06+00:00") == [7]
    assert set(asked) == {"/v1/control/list-nodes"}


def test_flowers_superlink_lists_its_nodes_where_it_is_asked() -> None:
    """The contract: another Flower fails here."""
    (found,) = [route for route in router.routes if getattr(route, "path", "") == control._LIST_NODES]
    assert getattr(found, "methods", None) == {"POST"}


@pytest.mark.parametrize(("status", "content"), [(500, b""), (200, b"\xff\xff")])
def test_a_link_that_says_something_else_is_no_answer(hub: Hub, status: int, content: bytes) -> None:
    with (
        link_of(hub, lambda path: (status, content)) as running,
        pytest.raises(RunError, match="does not say who is registered"),
    ):
        control.nodes(running)


def test_another_in_the_links_place_is_not_believed(hub: Hub, tmp_path: Path) -> None:
    other = make_hub(tmp_path / "other", address="localhost:8443")
    answer = ListNodesResponse(nodes_info=NODES).SerializeToString()
    with (
        link_of(other, lambda path: (200, answer)) as running,
        pytest.raises(RunError, match="does not say who is registered"),
    ):
        control.nodes(replace(running, folder=hub.folder))


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
        control.list_runs(hub)

    def hangs(path: str) -> tuple[int, bytes]:
        time.sleep(0.5)
        return 200, b""

    with link_of(hub, hangs) as running, pytest.raises(RunError, match="did not answer within"):
        control.nodes(running)


def test_a_hub_that_is_down_is_named_with_the_command(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the hub is not running; start it: fedglia hub start --hub") as caught:
        control.list_runs(hub)
    assert caught.value.code == "hub-down"
