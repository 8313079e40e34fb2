"""A Flower Grid on one machine: the same ServerApp and ClientApp, no network, no Ray.

With no workers a site runs inside `pull_messages`, one after the other: nothing waits in memory, and a
debugger works. With workers, processes that stay warm take sites as they come; a worker that dies or
outlives its message is replaced, and its site is reported as lost.

This is the one file that touches what Flower keeps private (`TaskIdentity`, message ids); its contract
test fails when a new Flower changes that.
"""

from __future__ import annotations

import copy
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, cast
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1
HUB_NODE = 1
NODE_UNAVAILABLE = 3
"""Flower's error code for a node that went away."""

LoadApp = Callable[[], ClientApp]


def assume_identity(node_id: int) -> None:
    """Tell Flower who speaks: messages cannot be made without it."""
    identity = cast(Any, TaskIdentity)
    identity.task_id, identity.run_id, identity.node_id = 1, RUN_ID, node_id


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    message: Message | None = None


@dataclass
class _Queue:
    """Messages of each node in order; a node works on one at a time."""

    waiting: deque[Message] = field(default_factory=deque)
    busy: set[int] = field(default_factory=set)

    def take(self) -> Message | None:
        for message in self.waiting:
            if message.metadata.dst_node_id not in self.busy:
                self.waiting.remove(message)
                return message
        return None


class LocalGrid(Grid):
    """Sites in this process (`workers=0`) or in worker processes that stay warm.

    Args:
        node_configs: node id -> what the site's Flower node would be configured with.
        load_app: gives the ClientApp; called once in each process that runs sites.
        workers: worker processes; 0 runs each site inside `pull_messages`.
    """

    closed_circle = True

    def __init__(
        self, node_configs: Mapping[int, Mapping[str, str]], load_app: LoadApp, *, workers: int = 0
    ) -> None:
        assume_identity(HUB_NODE)
        self._configs = node_configs
        self._load_app = load_app
        self._app: ClientApp | None = None
        self._queue = _Queue()
        self._replies: dict[str, Message] = {}
        self._workers = [self._start_worker() for _ in range(workers)]
        self._run = Run.create_empty(RUN_ID)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join(timeout=5)
        self._workers = []

    def set_run(self, run: Run) -> None:
        """Flower's interface; a local grid has one run for its whole life."""
        self._run = run

    @property
    def run(self) -> Run:
        """The one run of this grid."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every site's node, always there."""
        return list(self._configs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; their content is shared until a site reads a copy of it."""
        identities = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            self._queue.waiting.append(message)
            identities.append(message.metadata.message_id)
        self._dispatch()
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; without workers, the sites asked for run now."""
        wanted = list(message_ids)
        if self._workers:
            self._collect()
        else:
            for message in [m for m in self._queue.waiting if m.metadata.message_id in wanted]:
                self._queue.waiting.remove(message)
                self._keep(self._work_here(message))
        return [self._replies.pop(identity) for identity in wanted if identity in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Flower's one-call form: push, then pull until all are there or the time is over."""
        waiting = set(self.push_messages(messages))
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            arrived = list(self.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if not arrived:
                time.sleep(0.01)
        return replies

    def _work_here(self, message: Message) -> Message:
        if self._app is None:
            self._app = self._load_app()
        own = Message(copy.deepcopy(message.content), metadata=message.metadata)  # type: ignore[call-overload]
        return _run_site(self._app, own, self._configs[message.metadata.dst_node_id])

    def _keep(self, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        self._replies[reply.metadata.reply_to_message_id] = reply

    def _dispatch(self) -> None:
        for worker in self._workers:
            if worker.message is None and (message := self._queue.take()) is not None:
                self._queue.busy.add(message.metadata.dst_node_id)
                worker.message = message
                worker.pipe.send((message, dict(self._configs[message.metadata.dst_node_id])))

    def _collect(self) -> None:
        ready = wait([worker.pipe for worker in self._workers if worker.message is not None], timeout=0)
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready:
                self._receive(index)
            elif worker.message is not None and _expired(worker.message):
                self._replace(index)
        self._dispatch()

    def _receive(self, index: int) -> None:
        worker = self._workers[index]
        try:
            reply = cast(Message, worker.pipe.recv())
        except (EOFError, OSError):
            self._replace(index)
            return
        self._free(worker)
        self._keep(reply)

    def _replace(self, index: int) -> None:
        """End a worker that died or whose message is too old, and start another in its place."""
        worker = self._workers[index]
        message = worker.message
        worker.process.kill()
        worker.process.join()
        self._free(worker)
        self._workers[index] = self._start_worker()
        if message is not None:
            self._keep(Message(Error(code=NODE_UNAVAILABLE, reason="worker ended"), reply_to=message))

    def _free(self, worker: _Worker) -> None:
        if worker.message is not None:
            self._queue.busy.discard(worker.message.metadata.dst_node_id)
        worker.message = None

    def _start_worker(self) -> _Worker:
        method = multiprocessing.get_context("forkserver")
        method.set_forkserver_preload(["client.app", self._load_app.__module__])
        mine, theirs = method.Pipe()
        process = method.Process(target=_serve, args=(theirs, self._load_app), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine)


def _expired(message: Message) -> bool:
    return time.time() > message.metadata.created_at + message.metadata.ttl


def _run_site(app: ClientApp, message: Message, node_config: Mapping[str, str]) -> Message:
    node = message.metadata.dst_node_id
    context = Context(RUN_ID, node, cast(Any, dict(node_config)), RecordDict(), cast(Any, {}))
    assume_identity(node)
    try:
        return app(message, context)
    finally:
        assume_identity(HUB_NODE)


def _serve(pipe: Connection, load_app: LoadApp) -> None:
    """A worker's life: take a message, run the site, answer; end with the parent."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    app = load_app()
    while True:
        try:
            message, node_config = pipe.recv()
        except EOFError:
            return
        pipe.send(_run_site(app, message, node_config))


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    import os

    parent.join()
    os._exit(1)
