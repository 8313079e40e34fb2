"""The SuperNode's local API, by which a site's worker takes messages and hands its replies over (0005).

A worker that asks by itself stays warm: Flower starts a Python process for each message. A bundle comes with
each message and is never unpacked here. These are Flower's private names, as in `common.flower`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from common.envelope import seal, unseal
from common.fleet import wary

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.supercore.runtime import RuntimeHttpClient

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

log = logging.getLogger(__name__)


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
        from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
        from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

        client = self.connect()
        try:
            if reply.has_content():
                reply.content = seal(reply.content)
            with no_object_id_recompute():  # or each part is packed and hashed six times
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
        message.content = unseal(message.content)
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
