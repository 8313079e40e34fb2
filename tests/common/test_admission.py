"""Asking whether a key is admitted: what Flower's hub answers, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.servicer.fleet import fleet_handlers

from common.fleet import is_admitted
from tests.client.stub_hub import StubHub, serving


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHub]:
    with serving(tmp_path_factory.mktemp("pki")) as hub:
        yield hub


@pytest.fixture(scope="module")
def key() -> bytes:
    form = serialization.PrivateFormat.OpenSSH
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (7, ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL),
        (None, ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED),
    ],
)
def test_flowers_hub_tells_a_key_it_knows_from_one_it_does_not(known: int | None, code: ApiErrorCode) -> None:
    """The contract: the key is looked up before the heartbeat is refused, and no node is activated."""
    state = create_autospec(LinkState, instance=True)
    state.get_node_id_by_public_key.return_value = known
    with pytest.raises(FlowerError) as refused:
        fleet_handlers.activate_node(ActivateNodeRequest(public_key=b"k", heartbeat_interval=0.0), state)

    assert refused.value.code == code
    state.activate_node.assert_not_called()


@pytest.mark.parametrize(("answer", "admitted"), [("known", True), ("unknown", False), ("clock", None)])
def test_the_hubs_answer_is_understood(hub: StubHub, key: bytes, answer: str, admitted: bool | None) -> None:
    hub.key = answer

    assert is_admitted(hub.address, key, hub.ca, timeout_s=5) is admitted
    assert hub.asked[-1] == "/v1/fleet/activate-node"


def test_any_other_answer_and_none_at_all_are_no_answer(hub: StubHub, key: bytes, tmp_path: Path) -> None:
    hub.key = "away"
    with pytest.raises(ConnectionError, match="status 502"):
        is_admitted(hub.address, key, hub.ca, timeout_s=5)
    with pytest.raises(ConnectionError, match="did not answer"):
        is_admitted("127.0.0.1:1", key, hub.ca, timeout_s=5)
