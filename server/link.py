"""The deployed hub's line to Flower's SuperLink, whose calls may last long: none of them is waited for here.

Every call but a look retries for as long as the SuperLink is away, and fetching a reply lasts as long as it
is being uploaded. Each call has a thread of its own, so that one slow uplink holds up nobody else and every
wait of the hub ends when it should. One look asks about all that is expected: a request costs the SuperLink
about 15 ms, whatever is in it.

What Flower does, read in its source and relied on:
a look for the reply of a node that is offline deletes the question and any reply: only who is on a list of
the nodes that came within the last second is looked at, and a SuperLink that is away gives no list;
a reply that was seen belongs to whoever saw it first: no look is left while it waits for its answer, and
nothing is looked for twice at a time;
`last_activated_at` changes whenever a node was gone for a while, restarted or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common import flower
from common.envelope import seal_for_many, unseal
from common.errors import RefusedUpdate, RunError

GONE_S = 15.0
"""A node that stays offline for so long is gone. A SuperLink that was away itself calls its nodes offline
until their next heartbeat, which comes within ten seconds."""
SURE_S = 1.0
"""A node is looked at only where its heartbeats let it count as online for so long still."""
FRESH_S = 1.0
"""An older list of the nodes is no ground to look at one of them: it may have said goodbye since."""

T = TypeVar("T")
Look = Callable[[Grid, Sequence[str]], Mapping[str, Callable[[], Message | None]]]
"""Which of these messages have a reply now -> what fetches it."""
Found = Mapping[str, "Future[Message | None]"]
"""Message -> its reply, which is being fetched."""


@dataclass(frozen=True)
class Node:
    """A node that is online.

    Attributes:
        name: under which its key was admitted.
        activated: when it came, in Flower's words; another value means that it was gone in between.
        until: when it counts as offline unless it is heard again, `time.time` seconds.
    """

    name: str
    activated: str
    until: float

    @property
    def is_surely_online(self) -> bool:
        """Whether a look made now finds it online."""
        return self.until > time.time() + SURE_S


class Link:
    """The line of one ServerApp; used by its main thread only.

    Args:
        grid: Flower's grid of a deployed run.
        look: how replies are looked for.

    Attributes:
        online: node id -> who is there, by the last list.
        knows_who_is_online: whether a list ever came.
        listed_at: when the last list was asked for, `time.monotonic` seconds.
    """

    def __init__(self, grid: Grid, look: Look = flower.look) -> None:
        self._grid = grid
        self._look = look
        self._listing: Future[dict[int, Node]] | None = None
        self.listed_at = self._known_at = float("-inf")
        self._offline_since: dict[int, float] = {}
        self.online: Mapping[int, Node] = {}
        self.knows_who_is_online = False

    @property
    def is_fresh(self) -> bool:
        """Whether the last list that came is young enough to look at who is on it."""
        return time.monotonic() - self._known_at < FRESH_S

    @property
    def listing(self) -> Future[dict[int, Node]] | None:
        """The list that is being made."""
        return self._listing

    def refresh(self, pause_s: float, watched: Iterable[int] = ()) -> bool:
        """Take in a list of nodes that is ready and begin the next when it is time; True where one was.

        Args:
            pause_s: between the beginnings of two lists, seconds.
            watched: nodes whose absence counts from the first list without them.
        """
        if self._listing is None:
            if time.monotonic() - self.listed_at >= pause_s:
                self.listed_at = time.monotonic()
                self._listing = begun(self._list)
            return False
        if not self._listing.done():
            return False
        nodes = result_of(self._listing)
        self._listing = None
        if nodes is None:
            return False
        self._known_at = time.monotonic()
        self._take_in(nodes, watched)
        return True

    def nodes(self, *, within_s: float) -> Mapping[int, Node]:
        """Who is online now; nobody where the SuperLink did not say so in time."""
        self.listed_at = time.monotonic()
        self._listing = begun(self._list)
        wait([self._listing], timeout=within_s)
        return self.online if self.refresh(0.0) else {}

    def may_look(self, node: int) -> bool:
        """Whether a look for this node's reply is safe."""
        facts = self.online.get(node)
        return self.is_fresh and facts is not None and facts.is_surely_online

    def is_gone(self, node: int) -> bool:
        """Whether the node has been offline for so long that nobody waits for it who need not."""
        since = self._offline_since.get(node)
        return since is not None and time.monotonic() - since >= GONE_S

    def forget(self, node: int) -> None:
        """Take a node for offline until a list says otherwise."""
        self.online = {known: facts for known, facts in self.online.items() if known != node}

    def push(self, messages: Sequence[Message]) -> Future[Sequence[str]]:
        """Send messages as one, so that what they share goes up once.

        The id of each, in their order; empty where the SuperLink did not take it.
        """

        def pushed() -> list[str]:
            for message, sealed in zip(messages, seal_for_many([m.content for m in messages]), strict=True):
                message.content = sealed
            ids = [message_id or "" for message_id in self._grid.push_messages(messages)]
            return ids or [""] * len(messages)

        return begun(pushed)

    def look(self, message_ids: Sequence[str]) -> Future[Found]:
        """Look for the replies to messages; those that are there are being fetched, each by itself."""

        def fetches() -> Found:
            found = self._look(self._grid, message_ids)
            return {message_id: begun(partial(_opened, fetch)) for message_id, fetch in found.items()}

        return begun(fetches)

    def _list(self) -> dict[int, Node]:
        return {
            node.node_id: Node(node.name.rpartition("/")[2], node.last_activated_at, node.online_until)
            for node in self._grid.get_nodes()
        }

    def _take_in(self, nodes: dict[int, Node], watched: Iterable[int]) -> None:
        now = time.monotonic()
        for node in {*watched, *self.online, *self._offline_since} - nodes.keys():
            self._offline_since.setdefault(node, now)
        for node in nodes:
            self._offline_since.pop(node, None)
        self.online = nodes
        self.knows_who_is_online = True


def _opened(fetch: Callable[[], Message | None]) -> Message | None:
    """A reply with the content that its site gave it; without any where it cannot be read."""
    reply = fetch()
    if reply is not None and not reply.has_error():
        try:
            reply.content = unseal(reply.content)
        except RefusedUpdate:
            reply.content = RecordDict()
    return reply


def begun(call: Callable[[], T]) -> Future[T]:
    """A call in a thread of its own; a process that ends does not wait for it."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # handed to whoever takes the result
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def result_of(future: Future[T]) -> T | None:
    """What a call that is done gave; None where the SuperLink gave no answer, or an error that may pass.

    Raises:
        RunError: Flower gave the call up for good: the run was ended there, or the line is broken.
    """
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, (httpx.HTTPStatusError, ConnectionError)):
        return None
    raise RunError(
        f"Flower's SuperLink takes no more calls from this run ({type(error).__name__}): the run was ended "
        "there, or its certificate is no longer trusted; see the hub's logs and resume the run",
        code="link",
    ) from error
