"""The health check: ends with 0 for what serves, with 1 and a reason for anything else."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from common.certificates import issue, make_authority
from tests.deploy.places import DEPLOY


def check(*words: str) -> tuple[int, str]:
    """Exit status and standard error of the check."""
    asked = [sys.executable, str(DEPLOY / "health.py"), *words]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (health_pb2.HealthCheckResponse.SERVING, 0, ""),
        (health_pb2.HealthCheckResponse.NOT_SERVING, 1, "it answers that it does not serve"),
    ],
)
def test_a_grpc_service_says_whether_it_serves(state: int, status: int, reason: str) -> None:
    servicer = health.HealthServicer()
    servicer.set("", state)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        found, words = check(f"grpc://127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert (found, reason in words) == (status, True)
    if status == 0:
        assert check(f"grpc://127.0.0.1:{port}", "--timeout-s=1")[0] == 1  # it was stopped


class Answers(http.server.BaseHTTPRequestHandler):
    """/health is there, nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an HTTPS server, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("pki")
    make_authority(folder, "test")
    issue(folder, "edge", hosts=["127.0.0.1"])
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "edge.crt", folder / "edge.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", folder / "ca.crt"
    server.shutdown()


def test_an_edge_is_believed_by_its_authority_alone(edge: tuple[str, Path]) -> None:
    address, authority = edge
    assert check(f"{address}/health", "--ca", str(authority)) == (0, "")
    status, words = check(f"{address}/health")
    assert status == 1
    assert "certificate verify failed" in words


def test_another_status_is_named(edge: tuple[str, Path]) -> None:
    address, authority = edge
    status, words = check(f"{address}/other", "--ca", str(authority))
    assert (status, "status 503" in words) == (1, True)


def test_a_missing_authority_is_a_reason_and_no_traceback(edge: tuple[str, Path], tmp_path: Path) -> None:
    status, words = check(f"{edge[0]}/health", "--ca", str(tmp_path / "ca.crt"))
    assert (status, "Traceback" in words, "No such file" in words) == (1, False, True)


def test_an_address_of_another_kind_is_refused() -> None:
    status, words = check("tcp://127.0.0.1:1")
    assert (status, "grpc://" in words) == (2, True)
