"""Who asks for work hears of it at once, nothing is lost with who asked, and no wait lasts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse, PullAppMessagesResponse
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers as link_handlers
from flwr.supernode.nodestate import NodeState
from flwr.supernode.servicer.runtime import runtime_handlers as node_handlers

from common import doorbell
from common.doorbell import Doorbell, hold_link, hold_worker, is_on_its_way, lacks_messages, says_come_again
from server.hub import edge
from tests.local_node import node_state, put_message

SOON_S = 1.0
"""Well under `HELD_S`, also on a busy machine."""


def timed(call: Callable[[], Any], *, ring: Callable[[], object] = lambda: None) -> tuple[Any, float]:
    """What a call gives, and the seconds that it takes; `ring` is done 0.2 s after it began."""
    began = time.monotonic()
    timer = threading.Timer(0.2, ring)
    timer.daemon = True
    timer.start()
    return call(), time.monotonic() - began


def nothing() -> None:
    """What rings by itself."""


class TestDoorbell:
    def test_a_wait_ends_when_it_rings(self) -> None:
        bell = Doorbell(1)
        _, seconds = timed(lambda: bell.wait(time.monotonic()), ring=bell.rung_by(nothing))
        assert 0.2 <= seconds < SOON_S

    def test_a_ring_before_the_question_is_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "HELD_S", 0.2)
        bell = Doorbell(1)
        bell.rung_by(nothing)()
        _, seconds = timed(lambda: bell.wait(time.monotonic()))
        assert seconds >= 0.2

    def test_who_waits_is_told_when_it_has_settled(self) -> None:
        bell, asked_at = Doorbell(1, settled_s=0.3), time.monotonic()
        bell.rung_by(nothing)()
        _, seconds = timed(lambda: bell.wait(asked_at))
        assert 0.25 <= seconds < SOON_S

    def test_a_wait_ends_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "HELD_S", 0.2)
        _, seconds = timed(lambda: Doorbell(1).wait_for(lambda: False))
        assert 0.2 <= seconds < SOON_S

    def test_who_finds_no_place_does_not_wait(self) -> None:
        bell = Doorbell(1)
        here = threading.Thread(target=bell.wait_for, args=(lambda: False,), daemon=True)
        here.start()
        while bell._waiting == 0:
            time.sleep(0.005)
        _, seconds = timed(lambda: bell.wait_for(lambda: False))
        assert seconds < SOON_S
        assert here.is_alive()

    def test_a_place_is_free_again_whatever_happens(self) -> None:
        def broken() -> bool:
            raise RuntimeError("gone")

        bell = Doorbell(1)
        with pytest.raises(RuntimeError):
            bell.wait_for(broken)
        assert bell._waiting == 0

    def test_an_answer_that_was_held_is_the_empty_one(self) -> None:
        """A message that came meanwhile stays for who asks again: who asked may be gone."""
        bell, there = Doorbell(1), list[str]()
        look = bell.holds(lambda: list(there), lambda answer: not answer, lambda given: given)
        given, seconds = timed(look, ring=bell.rung_by(lambda: there.append("message")))
        assert given == []
        assert 0.2 <= seconds < SOON_S
        assert look() == ["message"]

    def test_after_the_wait_comes_what_is_to_come(self) -> None:
        bell = Doorbell(1)
        asks = bell.holds(lambda word: "", lambda answer: not answer, lambda given, word: word)
        given, _ = timed(lambda: asks("part"), ring=bell.rung_by(nothing))
        assert given == "part"


def test_answers_are_judged_as_flower_makes_them() -> None:
    assert lacks_messages(PullAppMessagesResponse())
    assert is_on_its_way(PullObjectResponse(object_found=True, object_available=False))
    assert not is_on_its_way(PullObjectResponse(object_found=True, object_available=True))
    assert not is_on_its_way(PullObjectResponse(object_found=False)), "it will never come"


def stubbed(monkeypatch: pytest.MonkeyPatch, module: object, **answers: object) -> list[str]:
    """Put handlers in Flower's place that note when they are called."""
    called: list[str] = []

    def handler(name: str, answer: object) -> Callable[..., object]:
        def handle(*_: object, **__: object) -> object:
            called.append(name)
            return answer

        return handle

    for name, answer in answers.items():
        monkeypatch.setattr(module, name, handler(name, answer))
    return called


def test_a_superlink_tells_a_site_of_a_part_and_a_run_of_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    none, coming = PullAppMessagesResponse(), PullObjectResponse(object_found=True)
    quiet = PullMessagesResponse()
    stubbed(monkeypatch, fleet_handlers, pull_messages=quiet, push_messages=None, push_object=None)
    asked = stubbed(monkeypatch, link_handlers, pull_messages=none, push_object=None, pull_object=coming)
    hold_link()
    sites: Any = fleet_handlers
    runs: Any = link_handlers
    for ring, question in (
        (runs.push_object, sites.pull_messages),
        (sites.push_messages, runs.pull_messages),
        (sites.push_object, runs.pull_object),
    ):
        _, seconds = timed(question, ring=ring)
        assert 0.2 <= seconds < SOON_S
    assert sorted(asked) == ["pull_messages", "pull_object", "pull_object", "push_object"]
    assert says_come_again(quiet), "the node is told"


def test_a_node_of_a_hub_that_holds_nothing_back_is_told_nothing() -> None:
    assert not says_come_again(PullMessagesResponse())


def test_the_edge_lets_more_calls_through_than_a_superlink_holds_back() -> None:
    let = re.search(r"limit_conn connections (\d+);", edge._CONFIGURATION)
    assert let is not None
    assert int(let[1]) >= 2 * doorbell.QUESTIONS
    assert doorbell.QUESTIONS + doorbell.LOOKS + doorbell.PARTS <= 40 - 10, "threads of a Flower server"


def acquire(state: NodeState) -> AcquireTaskResponse:
    return node_handlers.acquire_task(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]), state)


class TestWorker:
    @pytest.fixture(autouse=True)
    def _as_shipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(node_handlers, "acquire_task", node_handlers.acquire_task)

    def test_it_is_told_of_a_task_and_takes_it_by_asking_again(self) -> None:
        bell = hold_worker(lambda: False)
        factory = node_state()

        def receive() -> None:
            put_message(factory)
            bell.ring()

        given, seconds = timed(lambda: acquire(factory.state()), ring=receive)
        assert not given.HasField("task")
        assert 0.2 <= seconds < SOON_S
        given, seconds = timed(lambda: acquire(factory.state()))
        assert given.HasField("task")
        assert seconds < SOON_S

    def test_a_message_that_is_coming_in_is_no_task_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "HELD_S", 0.2)
        coming = [True]
        hold_worker(lambda: coming[0])
        factory = node_state()
        put_message(factory)
        assert not acquire(factory.state()).HasField("task")
        coming[0] = False
        assert acquire(factory.state()).HasField("task")

    def test_an_earlier_task_does_not_wait_for_a_message_that_is_coming_in(self) -> None:
        hold_worker(lambda: True)
        factory = node_state()
        put_message(factory)
        put_message(factory)
        assert acquire(factory.state()).HasField("task")
