"""Flower's private names, in one file; its contract test fails when another Flower changes them (0005).

What is touched and why: Flower waits for fixed times where a round lasts seconds, starts a Python process
for each message, and runs whatever code a bundle holds. Here the waits are shorter, a warm process answers,
and a bundle is one that this version would have made itself: settings, no code. `common.fleet` is the part
that knows Flower's HTTP clients.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.fleet import Patience, successor, wary

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.supercore.run import Run
    from flwr.supercore.runtime import RuntimeHttpClient

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Flower and Ray call home, and install packages, unless told not to."""

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

LONGEST_RETRY_S = 5.0
"""Between two tries to reach who does not answer; with Flower's 20 s a mended link stays unused for long."""

EAGER_PAUSE_S, EAGER_FOR_S = 0.25, 120.0
"""A site looks for messages this often until so long after the last one; then as often as Flower does."""

LOOP_ENDED = 75
"""Exit status of a SuperNode whose loop ended by itself, which Flower leaves hanging; start it again."""

HANDED_OVER_S = 10.0
"""In which a worker hands the next part of a reply over, on the same machine, or has died over it."""

_REPLY_PAUSE_S, _PART_PAUSE_S = 0.1, 0.02
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

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
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode

    for module in (heartbeat, in_memory_corestate, fleet_http_connection):
        _replace(module, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_S)
    patience = Patience()
    hub = successor(predecessor, on_joined, patience=patience, on_yes=on_heard)
    _replace(start_client_internal, "time", _Pauses(patience))
    _replace(fleet_http_connection, "FleetHttpClient", hub)
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
        elif time.monotonic() - self.last_message < EAGER_FOR_S:
            time.sleep(EAGER_PAUSE_S)
        else:
            time.sleep(seconds)


@dataclass(frozen=True)
class Task:
    """One message for this site, and the bundle that came with its run.

    Attributes:
        bundle: the bundle's bytes, never unpacked.
        bundle_hash: what the hub says its SHA-256 is.
        client: carries the token with which this task, and no other, may be answered.
        connect: makes another one for the process that answers, a fork of the one that watches it: two
            processes on one connection would mix up their words.
        unreadable: whether the message holds nothing, because what came for it could not be read.
    """

    message: Message
    context: Context
    bundle: bytes
    bundle_hash: str
    client: RuntimeHttpClient
    connect: Callable[[], RuntimeHttpClient]
    unreadable: bool = False

    def is_wanted(self) -> bool:
        """Tell the SuperNode that the work goes on; False once it has given the task up or is gone."""
        import httpx
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        try:
            return bool(self.client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPStatusError:
            return False
        except httpx.TransportError:
            return True  # it may only be busy; its deadline ends the work in any case

    def answer(self, reply: Message) -> None:
        """Hand the reply to the SuperNode, which sends it.

        Raises:
            ConnectionError: the SuperNode did not take it.
        """
        import httpx
        from flwr.common.constant import SubStatus
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
        from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

        client = self.connect()
        try:
            push_message(client, reply, self.context)
            push_task_output(client, self.context, SubStatus.COMPLETED, "")
        except (httpx.HTTPError, RuntimeError, ValueError, ObjectPushError) as error:
            raise ConnectionError(f"the SuperNode did not take the reply ({type(error).__name__})") from None
        finally:
            client.close()


class TaskSource:
    """The SuperNode's local API, as a source of messages for this site.

    Args:
        address: HOST:PORT.
        secret: shared with it; without it the SuperNode gives no task away.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        signs = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._address = address
        self._client = _client(address, "SuperExec", signs)

    def take(self) -> Task | None:
        """The next message for this site; None if there is none.

        Raises:
            ConnectionError: no SuperNode answers, or it does not accept the secret, or what it gave cannot
                even be answered.
        """
        import httpx
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

        try:
            given = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            if not given.HasField("task") or not given.token:
                return None
            signs = RuntimeTokenHttpInterceptor(given.token)
            return _pull(partial(_client, self._address, "flwr-clientapp", signs))
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            raise ConnectionError(f"the SuperNode gives no task ({type(error).__name__})") from None


def _pull(connect: Callable[[], RuntimeHttpClient]) -> Task:
    """The task whose token a connection carries; unreadable where its message is no message."""
    import httpx
    from flwr.common.serde import context_from_proto, fab_from_proto, message_from_proto
    from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
    from flwr.supernode.runtime.run_clientapp import pull_task_input

    client = connect()
    heard: dict[str, Any] = {}
    for name in ("PullTaskInput", "PullMessages"):
        setattr(client, name, _overheard(client, name, heard))
    try:
        message, context, _, fab = pull_task_input(client)
        return Task(message, context, fab.content, fab.hash_str, client, connect)
    except (httpx.HTTPError, ObjectPullError) as error:
        raise ConnectionError(f"the SuperNode gives no task ({type(error).__name__})") from None
    except Exception as error:  # whatever an object says that is none, it is the hub's word
        if not getattr(heard.get("PullMessages"), "messages_list", ()):
            raise
        log.error("a message cannot be read (%s)", type(error).__name__)
    came, told = heard["PullTaskInput"], heard["PullMessages"]
    message, fab = message_from_proto(told.messages_list[0]), fab_from_proto(came.fab)
    message.metadata.__dict__["_message_id"] = told.message_object_trees[0].object_id
    context = context_from_proto(came.context)
    return Task(message, context, fab.content, fab.hash_str, client, connect, unreadable=True)


def _overheard(client: RuntimeHttpClient, name: str, heard: dict[str, Any]) -> Callable[[object], object]:
    """A call of a client that also keeps the answer."""
    call = getattr(client, name)

    def keep(request: object) -> object:
        heard[name] = call(request)
        return heard[name]

    return keep


def _client(address: str, component: str, interceptor: object) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    named = RuntimeVersionHttpInterceptor(component_name=component)
    return wary(RuntimeHttpClient).from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[named, cast(Any, interceptor)]
    )


def _replace(module: object, name: str, value: object) -> None:
    """Put another value in a place that must be there: a new Flower fails loudly."""
    if not hasattr(module, name):
        raise AssertionError(f"{getattr(module, '__name__', module)} has no {name}: another Flower than 1.41")
    setattr(module, name, value)
