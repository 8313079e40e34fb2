"""The contract with Flower's private names: another Flower must fail here, not in a hospital."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import signal
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import flwr
import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common import constant as constant_of_flower
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore import app_utils, constant, heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.retry import RetryInvoker, http_retry
from flwr.supercore.retry.http_retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from common import fleet, flower, wire
from common.tasks import TaskSource
from tests.local_node import SECRET, LocalNode, node_state, put_message, serving

ROOT = Path(__file__).resolve().parents[2]


def test_the_flower_installed_is_the_one_that_was_read() -> None:
    assert flwr.__version__ == "1.41.0"


def test_the_bundle_holds_settings_alone_and_is_the_same_bytes_each_time() -> None:
    content = flower.bundle()
    assert sorted(zipfile.ZipFile(io.BytesIO(content)).namelist()) == [".info/CONTENT", "pyproject.toml"]
    flower.bundle.cache_clear()
    assert flower.bundle() == content


def test_the_bundle_names_the_apps_that_the_package_names() -> None:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert tomllib.loads(flower.APP)["tool"]["flwr"]["app"] == own


def test_flowers_loop_still_sleeps_where_pauses_are_put() -> None:
    source = inspect.getsource(start_client_internal)
    assert source.count("time.sleep(3)") == 1
    assert source.count("time.sleep(0.5)") == 2
    assert source.count("time.") == 3 + source.count("total time.")


def test_flowers_heartbeat_waits_ever_longer_for_a_hub_that_is_away() -> None:
    """With that, a site whose link is back counts as offline for another twenty seconds."""
    assert inspect.getsource(heartbeat.HeartbeatSender).count("exponential(max_delay=20)") == 1


def test_quicken_shortens_the_back_off_that_flower_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (constant.PULL_INITIAL_BACKOFF, constant.PULL_BACKOFF_CAP) == (1, 10)
    assert constant_of_flower.MAX_RETRY_DELAY == 20
    monkeypatch.setattr(http_retry, "MAX_RETRY_DELAY", 20)  # another test may have quickened this process
    defaults = {"initial_backoff": 1, "backoff_cap": 10}
    functions: tuple[Any, ...] = (
        inflatable_utils.pull_objects,
        inflatable_utils.pull_and_inflate_object_from_tree,
    )
    for function in functions:
        monkeypatch.setattr(function, "__kwdefaults__", {**function.__kwdefaults__, **defaults})
    flower.quicken()
    for function in functions:
        now = function.__kwdefaults__
        assert (now["initial_backoff"], now["backoff_cap"]) == (0.05, 2.0)
    waits = http_retry.make_simple_http_retry_invoker().wait_gen_factory()
    assert [next(waits) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_a_serverapp_outlives_its_executor_and_hears_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        flower.outlive_executor()
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
        monkeypatch.setattr(os, "getppid", lambda: 1)  # the executor is gone
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_flower_still_takes_the_end_of_an_executor_for_a_ctrl_c() -> None:
    assert "signal.raise_signal(signal.SIGINT)" in inspect.getsource(app_utils.start_parent_process_monitor)


def test_a_name_that_is_gone_is_a_loud_failure() -> None:
    with pytest.raises(AssertionError, match="another Flower"):
        flower._replace(flower, "no_such_name", 1)


def test_pauses_are_short_after_a_message_and_flowers_own_later(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    patience = fleet.Patience()
    pauses = flower._Pauses(patience)
    pauses.sleep(3)
    pauses.sleep(0.5)
    pauses.last_message -= flower.EAGER_FOR_S + 1
    pauses.sleep(3)
    patience.was_held = True
    pauses.sleep(3)
    assert slept == [flower.EAGER_PAUSE_S, 0.04, 3, 0.02]


def await_reply(factory: NodeStateFactory) -> None:
    """Flower's wait for a reply."""
    state, store = factory.state(), factory.objectstore_factory.store()
    start_client_internal._push_messages(
        state, store, send=lambda *parts: (set(), ""), push_object=lambda *parts: None
    )


@pytest.mark.parametrize("task_type", ["flwr-clientapp", "flwr-agentapp"])
def test_a_node_waits_for_no_reply_that_will_never_come(
    monkeypatch: pytest.MonkeyPatch, task_type: str
) -> None:
    """A worker that died between two calls, and a run of a kind that no worker takes."""
    factory = node_state()
    put_message(factory, task_type=task_type)
    (task,) = factory.state().get_tasks()
    assert factory.state().claim_task(task.task_id)
    assert factory.state().activate_task(task.task_id)
    monkeypatch.setattr(fleet, "REPLY_S", 0.2)
    patience = fleet.Patience()
    monkeypatch.setattr(start_client_internal, "time", flower._Pauses(patience))
    patience.begin(0.0)
    began = time.monotonic()
    with pytest.raises(flower.Unanswered):
        await_reply(factory)
    assert 0.2 <= time.monotonic() - began < 10


def test_a_node_that_waited_in_vain_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits_in_vain() -> None:
        raise flower.Unanswered

    module = importlib.import_module("flwr.supernode.cli.flower_supernode")
    monkeypatch.setattr(module, "flower_supernode", waits_in_vain)
    monkeypatch.setattr(flower, "_replace", lambda *words: None)
    monkeypatch.setattr(flower, "quicken", lambda: None)
    monkeypatch.setattr(flower, "hold_worker", lambda is_receiving: None)
    monkeypatch.setattr(sys, "argv", [])
    assert flower.supernode([], on_heard=fleet.nobody) == flower.LOOP_ENDED


# A look for replies, through Flower's own grid


@dataclass
class Told:
    """Stands in for a grid's client: two replies, whose parts are there or are not.

    Attributes:
        asked: names of the calls, in order.
        parts: what can be pulled; another part is not there, and never will be.
    """

    replies: list[Message]
    parts: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    _retry_invoker: RetryInvoker = field(default_factory=make_simple_http_retry_invoker)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.asked.append("look")
        wanted = [each for each in self.replies if each.metadata.reply_to_message_id in request.message_ids]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(each)) for each in wanted],
            message_object_trees=[get_object_tree(each) for each in wanted],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        content = self.parts.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=True, object_content=content or b""
        )

    def ConfirmMessageReceived(self, request: object) -> None:
        self.asked.append("confirm")


@pytest.fixture
def told() -> Told:
    identity = cast(Any, TaskIdentity)
    identity.task_id, identity.run_id, identity.node_id = 1, 5, 1
    replies = []
    for word in ("first", "second"):
        question = Message(RecordDict(), dst_node_id=7, message_type="query")
        question.metadata.__dict__["_message_id"] = word
        reply = Message(RecordDict({"facts": wire.pack_metrics({"to": word})}), reply_to=question)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        replies.append(reply)
    parts = {key: part.deflate() for each in replies for key, part in get_all_nested_objects(each).items()}
    return Told(replies, parts)


def grid_with(told: Told) -> Grid:
    grid = HttpGrid(token="t")
    grid.set_run(Run.create_empty(5))
    grid.__dict__["_client"] = told
    return grid


def test_one_look_asks_about_all_and_each_reply_is_fetched_by_itself(told: Told) -> None:
    found = flower.look(grid_with(told), ["first", "second", "third"])
    assert told.asked == ["look"]
    assert set(found) == {"first", "second"}
    for word in ("second", "first"):
        reply = found[word]()
        assert reply is not None
        assert wire.read_metrics(reply.content, "facts") == {"to": word}
    assert told.asked == ["look", "confirm", "confirm"]


def test_a_reply_whose_parts_are_gone_is_an_error_and_harms_no_other(told: Told) -> None:
    gone, there = told.replies
    del told.parts[gone.metadata.message_id]
    found = flower.look(grid_with(told), ["first", "second"])
    lost, whole = found["first"](), found["second"]()
    assert lost is not None
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert whole is not None
    assert whole.metadata.message_id == there.metadata.message_id


def test_a_look_is_not_repeated_against_a_superlink_that_is_away() -> None:
    """Flower would ask until it is back, and calls its nodes offline; that deletes their replies."""
    grid = grid_with(Told([], {}))
    grid.__dict__["_client"] = RuntimeHttpClient.from_server_address(
        "127.0.0.1:9", True, None, interceptors=[], retry_invoker=make_simple_http_retry_invoker()
    )
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        flower.look(grid, ["first"])
    assert time.monotonic() - began < 5


# The SuperNode's local API, as Flower ships it, and our source of tasks


@pytest.fixture
def node() -> Iterator[LocalNode]:
    """Flower's own local server of a SuperNode, on a free port."""
    with serving() as found:
        yield found


def test_a_message_is_taken_with_its_bundle_and_answered(node: LocalNode) -> None:
    factory, address = node
    source = TaskSource(address, SECRET)
    assert source.take() is None
    put_message(factory)
    task = source.take()
    assert task is not None
    assert wire.read_metrics(task.message.content, "facts") == {"number": 1}
    assert task.bundle == flower.bundle()
    assert task.bundle_hash == flower.bundle_sha256()
    assert task.is_wanted()
    task.answer(Message(wire.pack_refusal("canary", correlation="0" * 12), reply_to=task.message))
    (reply,) = factory.state().get_messages_legacy(is_reply=True)
    assert reply.metadata.reply_to_message_id == task.message.metadata.message_id
    assert not task.is_wanted()
    assert source.take() is None


def test_without_the_secret_no_message_is_given_away(node: LocalNode) -> None:
    factory, address = node
    put_message(factory)
    with pytest.raises(ConnectionError, match="gives no task"):
        TaskSource(address, b"x" * 48).take()


@pytest.mark.parametrize(
    "garbled", [b"Message  3\x00abc", b"Message  0\x00", b"RecordDict  2\x00{}", b"Array  4\x00null"]
)
def test_a_message_that_is_none_can_be_answered_all_the_same(node: LocalNode, garbled: bytes) -> None:
    factory, address = node
    put_message(factory, garbled=garbled)
    task = TaskSource(address, SECRET).take()
    assert task is not None
    assert task.unreadable
    assert len(task.message.content) == 0
    task.answer(Message(wire.pack_refusal("malformed", correlation="0" * 12), reply_to=task.message))
    (reply,) = factory.state().get_messages_legacy(is_reply=True)
    assert reply.metadata.reply_to_message_id == task.message.metadata.message_id


def test_what_cannot_even_be_answered_is_a_connection_error(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, address = node
    put_message(factory)
    monkeypatch.setattr(RuntimeHttpClient, "PullMessages", lambda client, request: PullAppMessagesResponse())
    with pytest.raises(ConnectionError, match="gives no task"):
        TaskSource(address, SECRET).take()


def test_a_supernode_that_is_not_there_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError):
        TaskSource("127.0.0.1:9", SECRET).take()


def reply_in_parts(factory: NodeStateFactory, address: str) -> tuple[Message, Any]:
    """A reply of which the worker has announced everything and handed over nothing; a way to give it up."""
    put_message(factory)
    state, store = factory.state(), factory.objectstore_factory.store()
    (message,) = state.get_messages_legacy(is_reply=False)
    reply = Message(RecordDict({"facts": wire.pack_metrics({"number": 2})}), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    state.store_message(reply)
    store.preregister(reply.metadata.run_id, get_object_tree(reply))
    return reply, get_all_nested_objects(reply)


def sent_by(factory: NodeStateFactory) -> list[Message]:
    """What Flower's loop would send to the hub now."""
    sent: list[Message] = []

    def send(message: Message, tree: object, seconds: float) -> tuple[set[str], str]:
        sent.append(message)
        return set(), ""

    push = flower.whole_replies(start_client_internal._push_messages)
    store = factory.objectstore_factory.store()
    push(state=factory.state(), object_store=store, send=send, push_object=lambda *parts: None)
    return sent


def test_flower_still_sends_replies_by_the_names_that_are_given() -> None:
    source = " ".join(inspect.getsource(start_client_internal).split())
    assert "_push_messages( state=state, object_store=store, send=send," in source
    assert source.count("get_messages_legacy(is_reply=True)") == 1


def test_a_reply_is_sent_once_the_worker_has_handed_over_the_whole_of_it(
    node: LocalNode,
) -> None:
    factory, address = node
    reply, parts = reply_in_parts(factory, address)
    store = factory.objectstore_factory.store()

    def hand_over() -> None:
        for key, part in parts.items():
            time.sleep(0.05)
            store.put(key, part.deflate())

    worker = threading.Thread(target=hand_over)
    began = time.monotonic()
    worker.start()
    assert [each.metadata.message_id for each in sent_by(factory)] == [reply.metadata.message_id]
    assert time.monotonic() - began >= 0.05 * len(parts)
    worker.join()


def test_a_worker_that_died_over_its_reply_leaves_an_error_and_no_node_that_waits_for_ever(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "HANDED_OVER_S", 0.1)
    factory, address = node
    reply_in_parts(factory, address)
    (sent,) = sent_by(factory)
    assert sent.error.code == ErrorCode.CLIENT_APP_CRASHED


def test_the_process_that_answers_has_a_connection_of_its_own(node: LocalNode) -> None:
    factory, address = node
    put_message(factory)
    task = TaskSource(address, SECRET).take()
    assert task is not None
    task.client.close()  # as good as in use by another process
    task.answer(Message(wire.pack_refusal("canary", correlation="0" * 12), reply_to=task.message))
    assert len(factory.state().get_messages_legacy(is_reply=True)) == 1
