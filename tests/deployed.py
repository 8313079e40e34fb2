"""A SuperLink and its sites as threads, which behave as Flower 1.41 was read and seen to behave.

Fetching a reply blocks while it is uploaded, and everything blocks while the SuperLink is away; a look
for the reply of an offline node deletes question and reply; a node works on one message after the other;
a node that dies forgets what it was at, and has another `last_activated_at` when it is back.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from common.envelope import seal, unseal
from server import app as hub
from server.link import Link
from simulation.grid import HUB_NODE, assume_identity
from tests.stub_sites import SITES, StubSites

Reply = Callable[[str, Message], Message]


@dataclass
class Site:
    """One site; its thread lives until `close`.

    Attributes:
        work_s: how long it works on a message.
        upload_s: how long a reply is on its way after it was seen.
        uploading: whether the hub ever began to fetch a reply of its.
        received: messages that it began to work on, by type.
    """

    name: str
    node: int
    connected: bool = True
    until: float = math.inf
    work_s: float = 0.0
    upload_s: float = 0.0
    uploading: bool = False
    activated: int = 1
    letters: list[Message] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    life: int = 1

    @property
    def online(self) -> bool:
        """As the SuperLink sees it: some heartbeats may be missed."""
        return self.until > time.time()

    def cut(self, *, unnoticed_s: float = 0.3) -> None:
        """The line is cut; what runs here goes on."""
        self.connected, self.until = False, time.time() + unnoticed_s

    def kill(self, *, unnoticed_s: float = 0.3) -> None:
        """The process dies with what it was at; messages that it had not fetched wait at the SuperLink."""
        with self.changed:
            self.cut(unnoticed_s=unnoticed_s)
            self.life += 1
            self.changed.notify_all()

    def come_back(self) -> None:
        """The line, or the process, is back."""
        with self.changed:
            self.activated += not self.online
            self.connected, self.until = True, math.inf
            self.changed.notify_all()


class SuperLink(Grid):
    """The grid that a deployed ServerApp is given, and the world behind it.

    Args:
        names: of the sites.
        sites: what they make of a message.
    """

    def __init__(self, *names: str, sites: StubSites | None = None) -> None:
        assume_identity(HUB_NODE)
        self.sites = {name: Site(name, 100 + number) for number, name in enumerate(names or SITES)}
        self.nodes = {site.node: site for site in self.sites.values()}
        self.there = True
        self.calls = 0
        self.called = threading.Condition()
        self.pushed: list[str] = []
        self.failing: list[BaseException] = []
        self.registered = {name: name for name in self.sites}
        self._answer = _stub(sites or StubSites())
        self._lock = threading.Lock()
        self._questions: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}
        self._closed = False
        self._run = Run.create_empty(1)
        for site in self.sites.values():
            threading.Thread(target=self._live, args=(site,), daemon=True).start()

    def __enter__(self) -> SuperLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.come_back()
        for site in self.sites.values():
            with site.changed:
                site.changed.notify_all()

    def answer_with(self, sites: StubSites) -> None:
        """Let sites behave in another way from now on."""
        self._answer = _stub(sites)

    def move(self, name: str, node: int) -> None:
        """Admit a site anew, with another key and so another node."""
        site = self.sites[name]
        del self.nodes[site.node]
        site.node, self.nodes[node] = node, site

    def go_away(self) -> None:
        """From now on calls wait; those under way are done with first, so that none is cut in the middle."""
        with self.called:
            self.called.wait_for(lambda: self.calls == 0)
            self.there = False

    def come_back(self) -> None:
        """Calls go on."""
        with self.called:
            self.there = True
            self.called.notify_all()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self.called:
            self.called.wait_for(lambda: self.there)
            if self.failing:
                raise self.failing.pop()
            self.calls += 1
        try:
            yield
        finally:
            with self.called:
                self.calls -= 1
                self.called.notify_all()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        with self._call():
            return [
                NodeInfo(
                    node_id=site.node,
                    name=self.registered[site.name],
                    last_activated_at=str(site.activated),
                    online_until=site.until,
                )
                for site in self.sites.values()
                if site.online
            ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        with self._call():
            return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        site = self.nodes.get(message.metadata.dst_node_id)
        if site is None:
            return ""
        identity = str(uuid4())
        message.metadata.__dict__["_message_id"] = identity
        self.pushed.append(f"{site.name} {message.metadata.message_type}")
        with self._lock:
            self._questions[identity] = message
        with site.changed:
            site.letters.append(message)
            site.changed.notify_all()
        return identity

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def link(self) -> Link:
        """A hub's line to here."""
        return Link(self, look=lambda _, message_ids: self.look(message_ids))

    def look(self, message_ids: Sequence[str]) -> Mapping[str, Callable[[], Message]]:
        """What fetches the replies that are there; a look alone does not wait for the SuperLink."""
        if not self.there:
            raise ConnectionError("away")
        with self._call(), self._lock:
            found = {identity: self._find(identity) for identity in message_ids}
        return {identity: fetch for identity, fetch in found.items() if fetch is not None}

    def _find(self, identity: str) -> Callable[[], Message] | None:
        question = self._questions.get(identity)
        if question is None:
            return lambda: _error(identity, ErrorCode.MESSAGE_UNAVAILABLE)
        site = self.nodes[question.metadata.dst_node_id]
        if not site.online:
            del self._questions[identity]
            self._replies.pop(identity, None)
            return lambda: _error(identity, ErrorCode.NODE_UNAVAILABLE)
        reply = self._replies.pop(identity, None)
        if reply is None:
            return None
        del self._questions[identity]

        def fetch() -> Message:
            site.uploading = True
            time.sleep(site.upload_s)  # a process that ends does not wait for it
            return reply

        return fetch

    def _live(self, site: Site) -> None:
        while not self._closed:
            with site.changed:
                site.changed.wait_for(lambda: self._closed or (site.connected and bool(site.letters)))
                if self._closed:
                    return
                message, life = site.letters.pop(0), site.life
                site.received.append(message.metadata.message_type)
            if self._work(site, life):
                reply = self._answer(site.name, message)
                with self._lock:
                    if message.metadata.message_id in self._questions:
                        self._replies[message.metadata.message_id] = reply

    def _work(self, site: Site, life: int) -> bool:
        """Work on a message, then wait for the line; False where the process died before."""

        def ended() -> bool:
            return self._closed or site.life != life

        with site.changed:
            site.changed.wait_for(ended, timeout=site.work_s)
            site.changed.wait_for(lambda: ended() or site.connected)
            return site.life == life


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a deployed run's app work in a process that is not its own, over a SuperLink of these."""
    monkeypatch.setattr(hub, "Link", SuperLink.link)
    for name in ("quicken", "outlive_executor"):
        monkeypatch.setattr(hub, name, lambda: None)


def _error(identity: str, code: int) -> Message:
    question = Message(RecordDict(), HUB_NODE, "train")
    question.metadata.__dict__["_message_id"] = identity
    return Message(Error(code=code), reply_to=question)


def _stub(sites: StubSites) -> Reply:
    app: ClientApp = sites()

    def answer(name: str, message: Message) -> Message:
        content = unseal(message.content)
        own = Message(content, metadata=message.metadata)  # type: ignore[call-overload]
        context = Context(
            1, message.metadata.dst_node_id, cast(Any, {"name": name}), RecordDict(), cast(Any, {})
        )
        reply = app(own, context)
        if reply.has_content():
            reply.content = seal(reply.content)
        return reply

    return answer
