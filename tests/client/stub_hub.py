"""What a site sees of a hub, on loopback: TLS with the hub's own authority, /health, and one signed call."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import certificates

ANSWERS = {
    "known": (400, b'{"code": 2003}'),
    "unknown": (412, b'{"code": 2004}'),
    "clock": (401, b'{"detail": "Invalid SuperNode authentication"}'),
    "away": (502, b"<html>"),
}
"""To a node whose key the hub knows, does not know, whose clock is wrong; and with SuperLink down."""


@dataclass
class StubHub:
    """A hub that answers as it is told to; change the attributes while it runs."""

    pki: Path
    address: str = ""
    says: str | None = None
    ahead_s: float = 0.0
    key: str = "known"
    status: int = 200
    asked: list[str] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def fingerprint(self) -> str:
        return certificates.fingerprint(self.ca.read_bytes())


@contextlib.contextmanager
def serving(
    pki: Path, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), days: int = 100
) -> Iterator[StubHub]:
    """A stub hub, its own authority in `pki`, until the block ends, whose certificate holds `days`."""
    pki.mkdir(parents=True, exist_ok=True)
    certificates.make_authority(pki, "test hub")
    certificates.issue(pki, "edge", hosts=hosts, days=days)
    hub = StubHub(pki)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki / "edge.crt", pki / "edge.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    hub.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(hub.status, b'{"status":"ok"}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(*ANSWERS[hub.key])

        def _answer(self, status: int, content: bytes) -> None:
            hub.asked.append(self.path)
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + hub.ahead_s, usegmt=True))
            if hub.says is not None:
                self.send_header("FedGlia", hub.says)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
