"""Flower's private names, in one place; its contract test fails when another Flower changes them (0005).

What is touched and why: Flower waits for fixed times where a round lasts seconds, and runs whatever code a
bundle holds. Here the waits are shorter, and a bundle is one that this version would have made itself:
settings, no code. `common.fleet` knows Flower's HTTP clients, `common.tasks` a SuperNode's local API,
`common.doorbell` the handlers of both its servers.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from common.doorbell import hold_worker
from common.fleet import Patience, successor

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Flower and Ray call home, and install packages, unless told not to."""

KEPT_BUFFERS = {
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "2",
}
"""For who passes messages on: memory of one part is kept for the next, else each is zeroed page by page."""

APP = """\
[project]
name = "fedglia"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedglia"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
"""
"""The Flower app that runs are started with. Its version is that of our messages, not of this package, so
that hub and sites may be upgraded on different days."""

HEARTBEAT_S = 10
"""Least that Flower takes, instead of its 30: a site that died is known after twice this."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 2.0
"""Between two looks for an object that is still being uploaded; Flower waits 1, 2, 4 up to 10 s."""

LONGEST_RETRY_S = 5
"""Between two tries to reach who does not answer; with Flower's 20 s a mended link stays unused for long."""

EAGER_PAUSE_S, EAGER_FOR_S = 0.25, 120.0
"""A site looks for messages this often until so long after the last one; then as often as Flower does."""

LOOP_ENDED = 75
"""Exit status of a SuperNode whose loop ended by itself, which Flower leaves hanging; start it again."""

HANDED_OVER_S = 10.0
"""In which a worker hands the next part of a reply over, on the same machine, or has died over it."""

_REPLY_PAUSE_S, _PART_PAUSE_S, _HELD_PAUSE_S = 0.04, 0.02, 0.02

log = logging.getLogger(__name__)


@cache
def bundle() -> bytes:
    """The one bundle that a hub of this version sends and a site of this version accepts."""
    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files({"pyproject.toml": APP.encode()})
    return content


def bundle_sha256() -> str:
    """SHA-256 of `bundle()`, as Flower names it."""
    return hashlib.sha256(bundle()).hexdigest()


def write_app(folder: Path) -> None:
    """Write the app folder that `flwr run` is given; its parent must exist."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(APP)


def quicken() -> None:
    """Let this process ask again soon for what is still being uploaded, and for who does not answer."""
    from flwr.supercore.inflatable import inflatable_utils
    from flwr.supercore.retry import http_retry

    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        defaults = cast(dict[str, Any], function.__kwdefaults__)
        if not {"initial_backoff", "backoff_cap"} <= set(defaults):
            raise AssertionError("pull_objects of this Flower has no back-off: not 1.41")
        defaults.update(initial_backoff=FIRST_BACKOFF_S, backoff_cap=LONGEST_BACKOFF_S)
    _replace(http_retry, "MAX_RETRY_DELAY", LONGEST_RETRY_S)


def outlive_executor() -> None:
    """In a ServerApp: go on when the SuperExec that started it dies, which Flower takes for a Ctrl-C.

    It needs it no more, and another one is started. Any other SIGINT is heard as before.
    """
    executor, before = os.getppid(), signal.getsignal(signal.SIGINT)

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getppid() == executor and callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, heard)


def supernode(
    arguments: Sequence[str],
    *,
    on_heard: Callable[[], None],
    predecessor: int | None = None,
    on_joined: Callable[[int], None] = lambda node_id: None,
) -> int:
    """Run Flower's SuperNode in this process until its loop ends; the caller must exit then.

    Its pauses and heartbeats are shorter, and a bundle that is not ours is not even opened. It takes over
    from a predecessor that was killed, where Flower lets nobody in until that one's heartbeats are overdue.

    Args:
        arguments: of the command `flower-supernode`.
        on_heard: called after each answer of the hub that says yes, by whichever thread asked.
        predecessor: number of this site's node by which an earlier process of it is known, if one is.
        on_joined: called with that number when the hub has let this process in.
    """
    from flwr.supercore import heartbeat
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.retry import exponential
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode

    for module in (heartbeat, in_memory_corestate, fleet_http_connection):
        _replace(module, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_S)
    _replace(heartbeat, "exponential", lambda *, max_delay: exponential(max_delay=LONGEST_RETRY_S))
    patience = Patience()
    hub = successor(predecessor, on_joined, patience=patience, on_yes=on_heard)
    _replace(start_client_internal, "time", _Pauses(patience))
    _replace(fleet_http_connection, "FleetHttpClient", hub)
    receive = start_client_internal._pull_and_store_message
    bell = hold_worker(lambda: patience.is_receiving)

    def receive_whole(*told: Any, **others: Any) -> int | None:  # noqa: ANN401 - what Flower's own takes
        try:
            return receive(*told, **others)
        finally:
            patience.is_receiving = False
            bell.ring()

    _replace(start_client_internal, "_pull_and_store_message", receive_whole)
    _replace(start_client_internal, "_push_messages", whole_replies(start_client_internal._push_messages))
    original = vars(start_client_internal)["get_fused_config_from_fab"]

    def settings(content: bytes, run: Run) -> dict[str, Any]:
        return dict(original(content, run)) if content == bundle() else {}

    _replace(start_client_internal, "get_fused_config_from_fab", settings)
    quicken()
    sys.argv = ["flower-supernode", *arguments]
    try:
        flower_supernode()
    except Unanswered:
        log.error("the worker gave no reply in time; the node is started again")
    return LOOP_ENDED


def whole_replies(send_replies: Callable[..., None]) -> Callable[..., None]:
    """Flower's sending of replies, begun only once the worker has handed a whole one over.

    Flower sends the first part and waits for the others for ever, should the worker have died in between.
    """

    def send(*, state: object, object_store: object, **others: object) -> None:
        send_replies(state=_WholeReplies(state, object_store), object_store=object_store, **others)

    return send


@dataclass(frozen=True)
class _WholeReplies:
    """Stands in for Flower's store of messages; a reply that stays incomplete becomes an error."""

    state: Any
    store: Any

    def __getattr__(self, name: str) -> object:
        return getattr(self.state, name)

    def get_messages_legacy(self, *, is_reply: bool) -> list[Message]:
        return [each for each in self.state.get_messages_legacy(is_reply=is_reply) if self._is_whole(each)]

    def _is_whole(self, reply: Message) -> bool:
        from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR

        key, lacks, end = reply.metadata.message_id, 0, 0.0
        while lacking := self._lacking(key):
            if lacking != lacks:
                lacks, end = lacking, time.monotonic() + HANDED_OVER_S
            if time.monotonic() > end:
                self.state.delete_messages(message_ids=[key])
                self.store.delete(key)
                self.state._store_error_replies({reply.metadata.run_id}, CLIENT_APP_CRASHED_ERROR)
                return False
            time.sleep(_PART_PAUSE_S)
        return True

    def _lacking(self, key: str) -> int:
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        parts = iterate_object_tree(self.store.get_object_tree(key))
        return sum(self.store.get(part.object_id) == b"" for part in parts)


class Unanswered(BaseException):
    """A message's time is long over and no reply came; no `except Exception` of Flower's may swallow it."""


@dataclass
class _Pauses:
    """Stands in for the module `time` in Flower's loop, which sleeps 3 s when idle and 0.5 s for a reply."""

    patience: Patience
    last_message: float = field(default_factory=time.monotonic)

    def sleep(self, seconds: float) -> None:
        if seconds < 1:
            if self.patience.is_over():
                raise Unanswered
            self.last_message = time.monotonic()
            time.sleep(_REPLY_PAUSE_S)
        elif self.patience.was_held:
            time.sleep(_HELD_PAUSE_S)
        elif time.monotonic() - self.last_message < EAGER_FOR_S:
            time.sleep(EAGER_PAUSE_S)
        else:
            time.sleep(seconds)


def look(grid: Grid, message_ids: Sequence[str]) -> Mapping[str, Callable[[], Message | None]]:
    """Which of these messages have a reply now -> what fetches it; Flower's own look fetches all in a row.

    Raises:
        ConnectionError: no SuperLink answered. Flower would look again and again, and then at nodes that a
            SuperLink which was away calls offline: such a look deletes their replies.
    """
    import httpx
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse

    client = _impatient(cast(Any, grid)._runtime_client)
    try:
        told = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    except httpx.TransportError as error:
        raise ConnectionError(f"the SuperLink does not answer ({type(error).__name__})") from None
    found = {}
    for reply, tree in zip(told.messages_list, told.message_object_trees, strict=True):
        alone = PullAppMessagesResponse(messages_list=[reply], message_object_trees=[tree])
        found[reply.metadata.reply_to_message_id] = partial(_fetch, grid, alone)
    return found


def _impatient(client: Any) -> Any:  # noqa: ANN401 - RuntimeHttpClient, with names that are Flower's own
    """The client, but one that asks once."""
    import httpx

    own, retries = copy.copy(client), copy.copy(client._retry_invoker)
    gives_up = retries.should_giveup
    retries.should_giveup = lambda error: isinstance(error, httpx.TransportError) or gives_up(error)
    own._retry_invoker = retries
    return own


def _fetch(grid: Grid, told: PullAppMessagesResponse) -> Message | None:
    """The one reply that a look has told of."""
    own: Any = copy.copy(grid)
    own._client = _Told(own._runtime_client, told)
    return next(iter(own.pull_messages([])), None)


@dataclass(frozen=True)
class _Told:
    """Stands in for a grid's client: what it would be told by another look, it has been told."""

    client: Any
    told: PullAppMessagesResponse

    def __getattr__(self, name: str) -> object:
        return getattr(self.client, name)

    def PullMessages(self, request: object) -> PullAppMessagesResponse:  # noqa: N802 - Flower's name
        return self.told


def _replace(module: object, name: str, value: object) -> None:
    """Put another value in a place that must be there: a new Flower fails loudly."""
    if not hasattr(module, name):
        raise AssertionError(f"{getattr(module, '__name__', module)} has no {name}: another Flower than 1.41")
    setattr(module, name, value)
