"""The edge: a real nginx on loopback before a stand-in for the SuperLink that writes down what reaches it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import InputError, RunError
from server.hub import edge
from server.hub.folder import Hub, Ports
from server.hub.making import busy_ports, make_hub, write_derived
from server.hub.running import health_problem
from tests.server.hub.conftest import free_port, public_key

KEY = public_key()
ADMITTED = {"flwr-public-key": edge.header_of(KEY)}


Answer = tuple[int, http.client.HTTPMessage]


@dataclass
class Edge:
    """A running edge, and what came through it."""

    hub: Hub
    reached: list[str] = field(default_factory=list)
    status: int = 200
    pause_s: float = 0.0

    def connect(self) -> http.client.HTTPSConnection:
        """A connection that trusts this hub's authority alone."""
        context = ssl.create_default_context(cafile=str(self.hub.pki / "ca.crt"))
        return http.client.HTTPSConnection("localhost", self.hub.ports.edge, timeout=20, context=context)

    def ask(self, method: str, target: str, *, body: bytes = b"", key: bool = True) -> Answer:
        """Status and headers of the answer to a request line that is sent as it stands."""
        connection = self.connect()
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in (ADMITTED if key else {}).items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            with contextlib.suppress(ConnectionError):  # told to go away before all is sent
                connection.send(body)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers
        finally:
            connection.close()

    def settle(self, status: int) -> None:
        """Until every answer has this status: for a moment the old list may still be in use."""
        in_a_row, end = 0, time.monotonic() + 10
        while in_a_row < 20:
            assert time.monotonic() < end
            in_a_row = in_a_row + 1 if self.ask("POST", "/v1/fleet/pull-messages")[0] == status else 0
            time.sleep(0.005)


def wait(host: str, port: int) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {host}")


@contextlib.contextmanager
def behind(found: Edge) -> Iterator[None]:
    """The stand-in for the SuperLink."""

    class Link(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            found.reached.append(f"{self.requestline} {len(body)}")
            time.sleep(found.pause_s)
            self.send_response(found.status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.hub.pki / "link.crt", found.hub.pki / "link.key")
    with ThreadingHTTPServer(("127.0.0.1", found.hub.ports.link), Link) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(timeout=10)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, nginx: None) -> Iterator[Edge]:
    port = free_port()
    folder = tmp_path_factory.mktemp("edge") / "a hub's $folder"
    hub = replace(
        make_hub(folder, address="localhost:8443"), ports=Ports(edge=port, link=port + 1, health=port + 2)
    )
    (folder / "logs").mkdir()
    write_derived(hub)
    edge.write_admitted(folder / "edge", [KEY])
    found = Edge(hub)
    with behind(found):
        process = subprocess.Popen(edge.command(folder / "edge"), stderr=subprocess.DEVNULL)
        try:
            wait("127.0.0.1", port)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def outside(running: Edge) -> Edge:
    """The running edge, with nothing behind it yet in this test."""
    running.reached.clear()
    running.status, running.pause_s = 200, 0.0
    return running


@pytest.mark.parametrize("call", edge.FLEET_CALLS)
def test_what_a_site_calls_passes(outside: Edge, call: str) -> None:
    assert outside.ask("POST", f"/v1/fleet/{call}", body=b"x")[0] == 200
    assert outside.reached == [f"POST /v1/fleet/{call} HTTP/1.1 1"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/control/list-nodes"),
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages?x=1"),
        ("POST", "/v1/fleet/pull-messages?"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/%70ull-messages"),
        ("POST", "/v1/fleet/../control/list-nodes"),
        ("POST", "/v1/fleet/%2e%2e/control/list-nodes"),
        ("POST", "/v1/fleet/..%2fcontrol/list-nodes"),
        ("POST", "/v1%2fcontrol/list-nodes"),
        ("POST", "//v1/control/list-nodes"),
        ("POST", "/v1/control/x/../../fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages/../../control/list-nodes"),
        ("POST", "/V1/FLEET/pull-messages"),
        ("POST", "/v1/fleet/pull-messages%0a"),
        ("POST", "/v1/fleet;/pull-messages"),
        ("POST", "/v1/fleet\\..\\control/list-nodes"),
        ("POST", "https://x/v1/control/list-nodes"),
        ("GET", "/health?x"),
        ("GET", "/%68ealth"),
    ],
)
def test_nothing_else_does(outside: Edge, method: str, target: str) -> None:
    assert outside.ask(method, target)[0] == 404
    assert outside.reached == []


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 403)])
def test_health_is_asked_not_told(outside: Edge, method: str, status: int) -> None:
    assert outside.ask(method, "/health", key=False)[0] == status


def test_health_tells_the_versions_and_the_time(outside: Edge) -> None:
    _, headers = outside.ask("GET", "/health", key=False)
    facts = dict(part.split("=", 1) for part in headers[edge.HEADER].split())
    assert list(facts) == ["version", "flwr", "torch", "python", "bundle"]
    assert facts["flwr"] == "1.41.0"
    assert re.fullmatch("[0-9a-f]{64}", facts["bundle"])
    assert headers["Date"]
    assert edge.HEADER not in outside.ask("POST", "/v1/fleet/get-run")[1]


def test_a_key_that_is_not_admitted_is_told_as_flower_tells_it(outside: Edge) -> None:
    assert outside.ask("POST", "/v1/fleet/activate-node", key=False)[0] == 412
    assert outside.ask("POST", "/v1/fleet/pull-messages", key=False)[0] == 401
    assert outside.reached == []


def test_a_revoked_key_is_out_as_soon_as_the_edge_has_read_the_list(outside: Edge) -> None:
    folder = outside.hub.folder / "edge"
    for keys, status in (([], 401), ([KEY], 200)):
        edge.write_admitted(folder, keys)
        assert edge.reload(folder)
        outside.settle(status)


def test_a_list_that_nginx_would_refuse_changes_nothing(outside: Edge) -> None:
    folder = outside.hub.folder / "edge"
    (folder / "admitted.conf").write_text("nonsense")
    with pytest.raises(RunError, match="nginx refuses its configuration"):
        edge.reload(folder)
    edge.write_admitted(folder, [KEY])
    assert outside.ask("POST", "/v1/fleet/pull-messages")[0] == 200


@pytest.mark.parametrize(("size", "status"), [(8 << 20, 200), ((8 << 20) + 1, 413), (600 << 20, 413)])
def test_a_body_has_a_limit(outside: Edge, size: int, status: int) -> None:
    connection = outside.connect()
    connection.putrequest("POST", "/v1/fleet/push-object")
    for name, value in {**ADMITTED, "Content-Length": str(size)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    if status == 200:
        connection.send(bytes(size))
    assert connection.getresponse().status == status
    connection.close()
    assert len(outside.reached) == (status == 200)


def test_a_body_without_a_length_has_it_too(outside: Edge) -> None:
    connection = outside.connect()
    connection.putrequest("POST", "/v1/fleet/push-object")
    for name, value in {**ADMITTED, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with contextlib.suppress(OSError):
        for _ in range(9600):
            connection.send(piece)
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert connection.getresponse().status == 413
    connection.close()
    assert outside.reached == []


def test_what_fails_inside_is_called_busy(outside: Edge) -> None:
    outside.status = 500
    assert outside.ask("POST", "/v1/fleet/push-object", body=b"x")[0] == 503
    outside.status = 412
    assert outside.ask("POST", "/v1/fleet/activate-node")[0] == 412


def test_load_is_shed_with_503_alone(outside: Edge) -> None:
    outside.pause_s = 0.5
    found: list[int] = []

    def call() -> None:
        found.append(outside.ask("POST", "/v1/fleet/pull-messages")[0])

    threads = [threading.Thread(target=call) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert set(found) == {200, 503}
    assert len(found) == 80


def test_old_tls_is_refused(outside: Edge) -> None:
    context = ssl.create_default_context(cafile=str(outside.hub.pki / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for version, accepted in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("localhost", outside.hub.ports.edge), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert (tls.version() is not None) is accepted
    text = (outside.hub.folder / "edge" / "nginx.conf").read_text()
    assert set(re.findall(r"TLSv[\d.]+", text)) == {"TLSv1.2", "TLSv1.3"}


def test_polls_that_went_well_are_not_written_down(outside: Edge) -> None:
    outside.ask("POST", "/v1/fleet/pull-messages")
    outside.ask("POST", "/v1/fleet/get-fab")
    outside.ask("POST", "/v1/control/list-nodes")
    time.sleep(0.1)
    log = (outside.hub.folder / "logs" / "edge.log").read_text()
    assert '"POST /v1/fleet/pull-messages HTTP/1.1" 200' not in log
    assert '"POST /v1/fleet/get-fab HTTP/1.1" 200' in log
    assert '"POST /v1/control/list-nodes HTTP/1.1" 404' in log


@pytest.mark.parametrize(("host", "at"), [("[::1]", ["::1"]), ("[2001:db8::1]", ["::1", "127.0.0.1"])])
def test_an_edge_of_ipv6_listens_where_sites_arrive(
    tmp_path: Path, nginx: None, host: str, at: list[str]
) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    hub = make_hub(tmp_path / "hub", address=f"{host}:{port}")
    (hub.folder / "logs").mkdir()
    write_derived(hub)
    assert busy_ports(hub) == []
    process = subprocess.Popen(edge.command(hub.folder / "edge"), stderr=subprocess.DEVNULL)
    try:
        for where in at:
            wait(where, port)
        assert health_problem(hub) == "the edge answers 502: the SuperLink behind it does not"
    finally:
        process.terminate()
        process.wait(timeout=10)


# Without a running nginx


def test_the_calls_are_flowers_calls_without_those_that_need_no_admission() -> None:
    from flwr.superlink.routers.fleet.router import router

    paths = {str(getattr(route, "path", "")).rpartition("/")[2] for route in router.routes}
    assert set(edge.FLEET_CALLS) == paths - {"register-node", "unregister-node", ""}


def test_an_unknown_key_is_told_with_flowers_own_code() -> None:
    from flwr.supercore.error import ApiErrorCode, FlowerError

    told = FlowerError.from_json(edge.UNKNOWN_KEY)
    assert told is not None
    assert told.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED


def test_the_key_is_written_as_a_site_sends_it() -> None:
    from base64 import b64encode

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    key = load_ssh_public_key(KEY.encode())
    assert isinstance(key, EllipticCurvePublicKey)
    assert edge.header_of(f"{KEY} comment") == b64encode(public_key_to_bytes(key)).decode()
    with pytest.raises(InputError, match="no public key"):
        edge.header_of("ssh-nonsense AAAA")


def test_without_nginx_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(InputError, match="apt install nginx"):
        edge.command(tmp_path)


def test_an_edge_that_does_not_run_cannot_be_told(tmp_path: Path) -> None:
    assert not edge.reload(tmp_path)
    (tmp_path / "nginx.pid").write_text("1\n")  # another program's number by now
    assert not edge.reload(tmp_path)


@pytest.mark.parametrize("keys", [[], [public_key() for _ in range(60)]], ids=len)
def test_nginx_takes_what_is_written(nginx: None, hub: Hub, keys: Sequence[str]) -> None:
    (hub.folder / "logs").mkdir()
    folder, port = hub.folder / "edge", free_port()
    edge.write_configuration(folder, listen="127.0.0.1", edge_port=port, link_port=2, admitted=keys)
    edge.check_configuration(folder)
