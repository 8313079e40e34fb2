"""Flower's HTTP clients in our hands: what an answer may be, and what is said to the hub."""

from __future__ import annotations

import gzip
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from common import fleet
from common.doorbell import say_come_again

NODE = 7

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def listening(answer: Answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A machine that answers each request in one way; gives its address, and the headers it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append({name.lower(): value for name, value in self.headers.items()})
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def client(address: str, *, on_yes: fleet.Told = fleet.nobody) -> FleetHttpClient:
    kind = fleet.successor(None, lambda node_id: None, on_yes=on_yes)
    return kind.from_server_address(address, True, None, interceptors=[])


def test_nobody_can_be_sent_elsewhere_with_an_update() -> None:
    with (
        listening(says(200)) as (elsewhere, received),
        listening(says(307, Location=f"http://{elsewhere}/internal")) as (hub, _),
        pytest.raises(httpx.HTTPStatusError),
    ):
        client(hub).PushObject(PushObjectRequest(object_content=b"THE-UPDATE"))
    assert received == []


def test_flowers_own_client_would_follow() -> None:
    """The contract: when this fails, Flower follows no more, and `wary` may let go of it."""
    with (
        listening(says(200)) as (elsewhere, received),
        listening(says(307, Location=f"http://{elsewhere}/internal")) as (hub, _),
    ):
        flowers = FleetHttpClient.from_server_address(hub, True, None, interceptors=[])
        flowers.PushObject(PushObjectRequest(object_content=b"THE-UPDATE"))
    assert len(received) == 1


def test_what_is_compressed_is_not_decoded_and_was_not_asked_for() -> None:
    bomb = gzip.compress(bytes(64 << 20), 1)
    with (
        listening(says(200, bomb, content_encoding="gzip")) as (hub, seen),
        pytest.raises(httpx.DecodingError, match="compressed"),
    ):
        client(hub).PullMessages(PullMessagesRequest())
    assert seen[0]["accept-encoding"] == "identity"


def test_an_answer_has_a_greatest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "ANSWER_BYTES", 1000)
    with (
        listening(says(200, bytes(1001))) as (hub, _),
        pytest.raises(httpx.DecodingError, match="longer than 1000 bytes"),
    ):
        client(hub).PullMessages(PullMessagesRequest())


def test_an_answer_for_which_there_is_no_memory_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(response: httpx.Response) -> httpx.Response:
        raise MemoryError

    monkeypatch.setattr(fleet, "_whole", full)
    with listening(says(200)) as (hub, _), pytest.raises(MemoryError):
        client(hub).PullMessages(PullMessagesRequest())
    assert "MemoryError: what the hub sends does not fit" in caplog.text


def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "ANSWER_S", -1.0)
    with listening(says(200, b"one byte after the other")) as (hub, _), pytest.raises(httpx.ReadTimeout):
        client(hub).PullMessages(PullMessagesRequest())


@pytest.mark.parametrize(("status", "heard"), [(200, 1), (503, 0), (307, 0)])
def test_a_yes_is_told_and_nothing_else(status: int, heard: int) -> None:
    told: list[int] = []
    answer = says(status, Location="http://127.0.0.1:9/")
    with listening(answer) as (hub, _), suppress(httpx.HTTPStatusError):
        client(hub, on_yes=lambda: told.append(1)).PullMessages(PullMessagesRequest())
    assert len(told) == heard


def test_how_long_the_work_took_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Flower would tell it: the request that it makes names the time."""
    assert "clientapp_runtime_list=[clientapp_runtime]" in inspect.getsource(fleet_http_connection)
    sent: list[PushMessagesRequest] = []

    def push(client: FleetHttpClient, request: PushMessagesRequest) -> PushMessagesResponse:
        sent.append(request)
        return PushMessagesResponse()

    monkeypatch.setattr(FleetHttpClient, "PushMessages", push)
    client("127.0.0.1:9").PushMessages(PushMessagesRequest(clientapp_runtime_list=[12.5]))
    assert list(sent[0].clientapp_runtime_list) == [0.0]


def pulling(
    monkeypatch: pytest.MonkeyPatch, patience: fleet.Patience, *, ttl: float | None, held: bool = False
) -> None:
    """A look for messages that finds one with so many seconds to live, or none."""
    given = PullMessagesResponse()
    if held:
        say_come_again(given)
    if ttl is not None:
        metadata = given.messages_list.add().metadata
        metadata.created_at, metadata.ttl = time.time(), ttl
    monkeypatch.setattr(FleetHttpClient, "PullMessages", lambda client, request: given)
    kind = fleet.successor(None, lambda node_id: None, patience=patience)
    kind.from_server_address("127.0.0.1:9", True, None, interceptors=[]).PullMessages(PullMessagesRequest())


@pytest.mark.parametrize(
    ("ttl", "waits_s"),
    [(30.0, 90.0), (-1000.0, 60.0), (1e9, 86_460.0), (math.nan, 60.0), (None, math.inf)],
    ids=["until the deadline", "overdue when it came", "a day at most", "no number", "nothing came"],
)
def test_a_node_waits_as_long_as_the_last_message_lives(
    monkeypatch: pytest.MonkeyPatch, ttl: float | None, waits_s: float
) -> None:
    patience = fleet.Patience()
    pulling(monkeypatch, patience, ttl=ttl)
    assert patience.end - time.monotonic() == pytest.approx(waits_s, abs=10)
    assert not patience.is_over()


def test_a_node_knows_whether_it_was_held_and_whether_a_message_is_coming_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience = fleet.Patience()
    pulling(monkeypatch, patience, ttl=None, held=True)
    assert (patience.was_held, patience.is_receiving) == (True, False)
    pulling(monkeypatch, patience, ttl=None)
    assert (patience.was_held, patience.is_receiving) == (False, False)
    pulling(monkeypatch, patience, ttl=30.0)
    assert (patience.was_held, patience.is_receiving) == (False, True)


def joining(
    monkeypatch: pytest.MonkeyPatch, predecessor: int | None, *, goodbye_status: int = 200
) -> tuple[list[str], Any]:
    """What a node says to the hub while it joins, and a way to let it join."""
    said: list[str] = []

    def deactivate(client: FleetHttpClient, request: DeactivateNodeRequest) -> None:
        said.append(f"goodbye {request.node_id}")
        if goodbye_status != 200:
            asked = httpx.Request("POST", "https://hub.test")
            raise httpx.HTTPStatusError("", request=asked, response=httpx.Response(goodbye_status))

    def activate(client: FleetHttpClient, request: ActivateNodeRequest) -> ActivateNodeResponse:
        said.append("here I am")
        return ActivateNodeResponse(node_id=NODE)

    monkeypatch.setattr(FleetHttpClient, "DeactivateNode", deactivate)
    monkeypatch.setattr(FleetHttpClient, "ActivateNode", activate)
    kind = fleet.successor(predecessor, lambda node_id: said.append(f"I am {node_id}"))
    client = object.__new__(kind)
    return said, lambda: client.ActivateNode(ActivateNodeRequest())


def test_the_client_that_flower_uses_for_the_hub_can_be_replaced() -> None:
    assert vars(fleet_http_connection)["FleetHttpClient"] is FleetHttpClient
    assert "FleetHttpClient.from_server_address(" in inspect.getsource(fleet_http_connection)


def test_a_first_node_says_no_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    said, join = joining(monkeypatch, None)
    join()
    assert said == ["here I am", f"I am {NODE}"]


@pytest.mark.parametrize("status", [200, 412])
def test_a_node_says_goodbye_for_the_one_before_it(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    said, join = joining(monkeypatch, 5, goodbye_status=status)
    join()
    assert said == ["goodbye 5", "here I am", f"I am {NODE}"]


def test_a_node_does_not_join_before_the_hub_has_heard_the_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    said, join = joining(monkeypatch, 5, goodbye_status=503)
    with pytest.raises(httpx.HTTPStatusError):
        join()
    assert said == ["goodbye 5"]
