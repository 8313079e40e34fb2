"""Flower's HTTP clients, made fit for a machine that believes the other end little.

Flower's client follows redirects to any address, decodes what is compressed, and reads an answer whole,
however long it is. Here an answer comes from the address that was asked, is not compressed, has a length and
an end. What a site says to its hub beside the messages themselves is here too: a goodbye for a predecessor,
no time that a message took, and whether a key is admitted.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from common.doorbell import says_come_again

if TYPE_CHECKING:
    import httpx
    from flwr.supercore.protobuf.client import ProtobufClient
    from flwr.supernode.fleet_http_client import FleetHttpClient

ANSWER_BYTES = 8 << 20
"""Longest answer that is read: Flower's pieces of a message are 5 MiB, and the edge takes 8."""

ANSWER_S = 300.0
"""Longest that one answer may trickle in."""

LONGEST_S = 86_400.0
"""Longest that a message is worked on, whatever time the hub gives for it."""

REPLY_S = 60.0
"""From a message's deadline until the worker must have answered, or never will."""

Told = Callable[[], None]
Client = TypeVar("Client", bound="ProtobufClient")

log = logging.getLogger(__name__)


def nobody() -> None:
    """Is told of nothing."""


@cache
def _wary() -> type[httpx.Client]:
    import httpx

    class Wary(httpx.Client):
        """Reads an answer as it came, up to `ANSWER_BYTES`; tells `on_yes` of each that says yes."""

        on_yes: Told = staticmethod(nobody)

        def send(  # type: ignore[override]
            self, request: httpx.Request, *, stream: bool = False
        ) -> httpx.Response:
            request.headers["accept-encoding"] = "identity"
            response = super().send(request, stream=True)
            if stream:
                return response
            try:
                whole = _whole(response)
            except MemoryError:
                log.error("MemoryError: what the hub sends does not fit into what this process may take")
                raise
            finally:
                response.close()
            if whole.is_success:
                self.on_yes()
            return whole

    return Wary


def _whole(response: httpx.Response) -> httpx.Response:
    import httpx

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.DecodingError("the answer is compressed, which was not asked for")
    body, end = bytearray(), time.monotonic() + ANSWER_S
    for piece in response.iter_raw():
        body += piece
        if len(body) > ANSWER_BYTES:
            raise httpx.DecodingError(f"the answer is longer than {ANSWER_BYTES} bytes")
        if time.monotonic() > end:
            raise httpx.ReadTimeout(f"the answer took longer than {ANSWER_S:.0f} s")
    headers = [pair for pair in response.headers.multi_items() if pair[0] != "content-length"]
    return httpx.Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )


def wary(kind: type[Client], *, on_yes: Told = nobody) -> type[Client]:
    """A client of Flower's that follows no redirect and reads bounded answers.

    Args:
        kind: `FleetHttpClient` or `RuntimeHttpClient`.
        on_yes: called after each answer that says yes, by whichever thread asked.
    """

    class Other(kind):  # type: ignore[misc, valid-type]
        _client: httpx.Client

        def __init__(
            self,
            base_url: str,
            *,
            verify: ssl.SSLContext | str | bool = True,
            timeout: float = 30.0,
            **others: object,
        ) -> None:
            super().__init__(base_url, verify=verify, timeout=timeout, **others)
            self._client.close()
            self._client = _wary()(verify=verify, timeout=timeout, follow_redirects=False)
            self._client.on_yes = on_yes  # type: ignore[attr-defined]

    return cast("type[Client]", Other)


@dataclass
class Patience:
    """What a node waits for: its worker's reply, where Flower waits for ever, and the hub's next message.

    Attributes:
        end: when nobody will answer any more, `time.monotonic` seconds.
        was_held: whether the hub held its last "there is none" back: then it is asked again at once.
        is_receiving: whether a message has come whose parts have not all come.
    """

    end: float = math.inf
    was_held: bool = False
    is_receiving: bool = False

    def begin(self, left_s: float) -> None:
        """A message came whose deadline is in so many seconds; its parts come next."""
        self.is_receiving = True
        self.end = time.monotonic() + min(max(0.0, left_s), LONGEST_S) + REPLY_S  # in this order: NaN is 0

    def is_over(self) -> bool:
        """Whether nobody will answer any more: a worker that died, a message that no worker takes."""
        return time.monotonic() >= self.end


def successor(
    predecessor: int | None,
    on_joined: Callable[[int], None],
    *,
    patience: Patience | None = None,
    on_yes: Told = nobody,
) -> type[FleetHttpClient]:
    """The client for the hub, which says goodbye for a predecessor before it joins.

    The hub refuses two nodes of one key at once, and takes a killed one for alive until two heartbeats are
    missing: 20 s in which a site that is back is turned away. With each reply Flower tells how long the work
    took, whatever the hospital lets out: here it is always 0. `patience` begins with each message.
    """
    import httpx
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        ActivateNodeResponse,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PullMessagesResponse,
        PushMessagesRequest,
        PushMessagesResponse,
    )
    from flwr.supernode.fleet_http_client import FleetHttpClient

    waits = patience or Patience()

    class Successor(wary(FleetHttpClient, on_yes=on_yes)):  # type: ignore[misc]
        def ActivateNode(  # noqa: N802 - the name is Flower's
            self, request: ActivateNodeRequest
        ) -> ActivateNodeResponse:
            if predecessor is not None:
                try:
                    self.DeactivateNode(DeactivateNodeRequest(node_id=predecessor))
                except httpx.HTTPStatusError as error:
                    if error.response.status_code in (502, 503, 504):
                        raise  # the hub is away: Flower tries again
            given = super().ActivateNode(request)
            on_joined(given.node_id)
            return cast("ActivateNodeResponse", given)

        def PullMessages(self, request: PullMessagesRequest) -> PullMessagesResponse:  # noqa: N802
            given = super().PullMessages(request)
            waits.was_held = says_come_again(given)
            for message in given.messages_list[:1]:
                metadata = message.metadata
                waits.begin(metadata.created_at + metadata.ttl - time.time())
            return cast("PullMessagesResponse", given)

        def PushMessages(self, request: PushMessagesRequest) -> PushMessagesResponse:  # noqa: N802
            request.clientapp_runtime_list[:] = [0.0] * len(request.clientapp_runtime_list)
            return cast("PushMessagesResponse", super().PushMessages(request))

    return Successor


def is_admitted(address: str, key: bytes, authority: Path, *, timeout_s: float) -> bool | None:
    """Whether a hub knows a site's key, asked without becoming its node.

    It asks the hub to activate the node with a heartbeat that is out of bounds: a hub that knows the key
    refuses the heartbeat, one that does not refuses the key, and neither changes anything.

    Args:
        address: HOST:PORT of the hub.
        key: the site's private key, in OpenSSH's form.
        authority: PEM file of the authority that the hub's certificate must come from.
        timeout_s: longest wait for each step.

    Returns:
        None where the signature was not accepted at all: the clocks differ by more than 5 s.

    Raises:
        ConnectionError: the hub did not answer, or answered something else.
    """
    import httpx
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.error import ApiErrorCode
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private = cast(EllipticCurvePrivateKey, load_ssh_private_key(key, password=None))
    public = private.public_key()
    signs = NodeAuthHttpInterceptor(private, public)
    context = ssl.create_default_context(cafile=str(authority))
    kind = wary(FleetHttpClient)
    client = kind(f"https://{address}", interceptors=[signs], verify=context, timeout=timeout_s)
    try:
        client.ActivateNode(
            ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=0.0)
        )
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            return None
        code = _error_code(error.response)
        if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return True
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return False
        raise ConnectionError(f"the hub answered with status {error.response.status_code}") from None
    except (httpx.HTTPError, ValueError) as error:
        raise ConnectionError(f"the hub did not answer ({type(error).__name__})") from None
    finally:
        client.close()
    raise ConnectionError("the hub took a heartbeat that is out of bounds: another Flower than 1.41")


def _error_code(response: httpx.Response) -> int | None:
    try:
        return int(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return None
