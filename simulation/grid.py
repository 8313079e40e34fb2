"""A Flower Grid on one machine: the same ServerApp and ClientApp, no network, no Ray.

With no workers a site runs inside `pull_messages`, one after the other: nothing waits in memory, and a
debugger works. With workers, processes that stay warm take sites as they come; a worker that dies or
outlives its message is replaced, and its site is reported as lost.

A message whose time to live is over is answered with an error, and so is one whose site's app lets an
exception out. This is the one file that touches what Flower keeps private (`TaskIdentity`, message ids);
its contract test fails when a new Flower changes that.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, cast
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from simulation.workers import Serve, Worker, end_worker, start_worker

RUN_ID = 1
HUB_NODE = 1
RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
TOO_LATE = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
GONE = ErrorCode.NODE_UNAVAILABLE

LoadApp = Callable[[], ClientApp]
log = logging.getLogger(__name__)


def assume_identity(node_id: int) -> None:
    """Tell Flower who speaks: messages cannot be made without it."""
    identity = cast(Any, TaskIdentity)
    identity.task_id, identity.run_id, identity.node_id = 1, RUN_ID, node_id


@dataclass(frozen=True)
class _Job:
    """A message on its way; `ends` is when its time to live is over, in `time.monotonic` seconds."""

    message: Message
    ends: float

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.ends

    def failed(self, code: int) -> Message:
        """The reply of a site that gave none; no words, as a deployed site sends none."""
        return Message(Error(code=code), reply_to=self.message)


@dataclass
class _Desk:
    """Where a worker sits, and the job that it has at the moment."""

    worker: Worker
    job: _Job | None = None


@dataclass
class _Queue:
    """Jobs of each node in order; a node works on one at a time."""

    waiting: deque[_Job] = field(default_factory=deque)
    busy: set[int] = field(default_factory=set)

    def take(self) -> _Job | None:
        for job in self.waiting:
            if job.node not in self.busy:
                self.waiting.remove(job)
                return job
        return None

    def take_expired(self) -> list[_Job]:
        expired = [job for job in self.waiting if job.expired]
        for job in expired:
            self.waiting.remove(job)
        return expired


class LocalGrid(Grid):
    """Sites in this process (`workers=0`) or in worker processes that stay warm.

    Args:
        node_configs: node id -> what the site's Flower node would be configured with.
        load_app: gives the ClientApp; called once in each process that runs sites. Its module is imported
            once for all workers.
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
        self._in_process = workers == 0
        self._desks: list[_Desk] = []
        self._run = Run.create_empty(RUN_ID)
        for _ in range(workers):
            self._desks.append(_Desk(self._start_worker()))

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, whatever they are doing."""
        for desk in self._desks:
            end_worker(desk.worker)
        self._desks = []

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
            self._queue.waiting.append(_Job(message, time.monotonic() + message.metadata.ttl))
            identities.append(message.metadata.message_id)
        self._dispatch()
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; without workers, the sites asked for run now."""
        wanted = list(message_ids)
        for job in self._queue.take_expired():
            self._keep(job.failed(TOO_LATE))
        if self._in_process:
            for job in [job for job in self._queue.waiting if job.message.metadata.message_id in wanted]:
                self._queue.waiting.remove(job)
                self._keep(self._work_here(job))
        else:
            self._collect()
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

    def _work_here(self, job: _Job) -> Message:
        if job.expired:
            return job.failed(TOO_LATE)
        if self._app is None:
            self._app = self._load_app()
        content = copy.deepcopy(job.message.content)
        own = Message(content, metadata=job.message.metadata)  # type: ignore[call-overload]
        reply = _run_site(self._app, own, self._configs[job.node])
        return job.failed(TOO_LATE) if job.expired else reply

    def _keep(self, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        self._replies[reply.metadata.reply_to_message_id] = reply

    def _dispatch(self) -> None:
        for desk in self._desks:
            if desk.job is None and (job := self._queue.take()) is not None:
                self._give(desk, job)

    def _give(self, desk: _Desk, job: _Job) -> None:
        """Hand a job to an idle worker; one that died while it was idle is replaced first."""
        if desk.worker.ended:
            self._replace(desk)
        self._queue.busy.add(job.node)
        desk.job = job
        try:
            desk.worker.pipe.send((job.message, dict(self._configs[job.node])))
        except OSError:
            self._give_up(desk, job, GONE)

    def _collect(self) -> None:
        busy = [(desk, desk.job) for desk in self._desks if desk.job is not None]
        ready = wait([desk.worker.pipe for desk, _ in busy], timeout=0)
        for desk, job in busy:
            if desk.worker.pipe in ready:
                self._receive(desk, job)
            elif job.expired:
                self._give_up(desk, job, TOO_LATE)
        self._dispatch()

    def _receive(self, desk: _Desk, job: _Job) -> None:
        try:
            reply = cast(Message, desk.worker.pipe.recv())
        except (EOFError, OSError):
            self._give_up(desk, job, GONE)
        else:
            self._finish(desk, job, reply)

    def _give_up(self, desk: _Desk, job: _Job, code: int) -> None:
        """Answer for a worker that died or whose message is too old, and start another in its place."""
        self._replace(desk)
        self._finish(desk, job, job.failed(code))

    def _finish(self, desk: _Desk, job: _Job, reply: Message) -> None:
        self._queue.busy.discard(job.node)
        desk.job = None
        self._keep(reply)

    def _replace(self, desk: _Desk) -> None:
        end_worker(desk.worker)
        desk.worker = self._start_worker()

    def _start_worker(self) -> Worker:
        return start_worker(_LoadSites(self._load_app), module=self._load_app.__module__)


def _run_site(app: ClientApp, message: Message, node_config: Mapping[str, str]) -> Message:
    """A site's reply; an error that its app lets out is the site's, not the hub's."""
    node = message.metadata.dst_node_id
    context = Context(RUN_ID, node, cast(Any, dict(node_config)), RecordDict(), cast(Any, {}))
    assume_identity(node)
    try:
        return app(message, context)
    except Exception:
        log.exception("the app of node %d let an exception out", node)
        return Message(Error(code=RAISED), reply_to=message)
    finally:
        assume_identity(HUB_NODE)


@dataclass(frozen=True)
class _LoadSites:
    """Gives a worker what answers its messages; a class, as it travels to the worker."""

    load_app: LoadApp

    def __call__(self) -> Serve:
        app = self.load_app()
        return lambda question: _run_site(app, *question)
