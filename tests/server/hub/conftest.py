"""Hubs that are made but not started, keys of sites, and a stand-in for the SuperLink's own bookkeeping."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import RunError
from server.hub import control
from server.hub.folder import Hub
from server.hub.making import make_hub

Joins = Callable[..., Path]


def free_port() -> int:
    """A port with two free ones after it, below those that the system hands out by itself."""
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for trial in (port, port + 1, port + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", trial)))
            return port
    raise AssertionError("no free port")


def public_key(kind: str = "ecdsa") -> str:
    """A fresh key as a join file holds it."""
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    private = (
        ec.generate_private_key(ec.SECP384R1()) if kind == "ecdsa" else ed25519.Ed25519PrivateKey.generate()
    )
    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """A hub of this test's own, not started."""
    return make_hub(tmp_path / "hub", address="localhost:8443")


@pytest.fixture
def joins(tmp_path: Path) -> Joins:
    """Writes a site's join file: `joins("ssa", flwr="1.40.0")`."""

    def write(site: str, /, **words: object) -> Path:
        content = {
            "schema": 1,
            "site": site,
            "public_key": public_key(),
            "fedglia": "0.1.0",
            "flwr": "1.41.0",
        }
        path = tmp_path / f"join-{site.replace('/', '_')}.json"
        path.write_text(json.dumps({**content, **words}))
        return path

    return write


@pytest.fixture(scope="session")
def nginx() -> None:
    """Skips where there is none."""
    if shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin") is None:
        pytest.skip("nginx is not on this machine")


@dataclass
class SuperLink:
    """What Flower would remember: a key is registered once, and never again after it was unregistered."""

    up: bool = True
    keys: dict[str, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    dies_after: str = ""

    def nodes(self, hub: Hub) -> dict[int, str]:
        """As `control.nodes`."""
        self.must_run()
        return {number: "registered" for number in self.keys.values() if number not in self.gone}

    def register(self, hub: Hub, public_key: str, name: str) -> int | None:
        """As `control.register`."""
        self.must_run()
        if public_key in self.keys:
            return None
        self.keys[public_key] = random.SystemRandom().randrange(2**64)
        self.names[self.keys[public_key]] = name
        if self.dies_after == "register":
            raise KeyboardInterrupt
        return self.keys[public_key]

    def unregister(self, hub: Hub, node_id: int) -> None:
        """As `control.unregister`."""
        self.must_run()
        if self.dies_after == "before unregister":
            raise KeyboardInterrupt
        self.gone.add(node_id)

    def registered_since(self, hub: Hub, moment: str) -> list[int]:
        """As `control.registered_since`, of a second in which everything happened."""
        return list(self.nodes(hub))

    def must_run(self) -> None:
        """Refuse as `control` does."""
        if not self.up:
            raise RunError("the hub is not running")


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    """Stands in for Flower behind `control`."""
    stand_in = SuperLink()
    for name in ("nodes", "register", "unregister", "registered_since"):
        monkeypatch.setattr(control, name, getattr(stand_in, name))
    monkeypatch.setattr(control, "is_up", lambda hub: stand_in.up)
    return stand_in
