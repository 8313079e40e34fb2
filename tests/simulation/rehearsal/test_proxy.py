"""The hospital's proxy: one destination, those who have the login, names that only it resolves."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest

from common.errors import RunError
from simulation.rehearsal.proxy import Proxy
from tests.simulation.rehearsal.far_side import dial, echo, receive, serving

LOGIN = ("site", "p@ss:word")


@pytest.fixture
def far() -> Iterator[int]:
    """The port of an echo server."""
    with serving(echo) as port:
        yield port


@pytest.fixture
def proxy(far: int) -> Iterator[Proxy]:
    """A proxy that knows hub.test alone, and asks who comes."""
    made = Proxy(f"hub.test:{far}", names={"hub.test": "127.0.0.1"}, login=LOGIN)
    made.start()
    yield made
    made.stop()


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rpartition(":")[2])


def ask(proxy: Proxy, request: str, *, login: tuple[str, str] | None = LOGIN) -> bytes:
    """The first line of the proxy's answer to a request."""
    who = base64.b64encode(":".join(login or ()).encode()).decode()
    header = f"Proxy-Authorization: Basic {who}\r\n" if login else ""
    with dial(port_of(proxy)) as connection:
        connection.sendall(f"{request}\r\n{header}\r\n".encode())
        return receive(connection, 1000).split(b"\r\n")[0]


def test_a_tunnel_to_the_one_destination_carries_bytes_both_ways(proxy: Proxy, far: int) -> None:
    who = base64.b64encode(b"site:p@ss:word").decode()
    with dial(port_of(proxy)) as connection:
        head = f"CONNECT hub.test:{far} HTTP/1.1\r\nproxy-authorization: Basic {who}\r\n\r\n"
        connection.sendall(head.encode())
        opened = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert receive(connection, len(opened)) == opened
        connection.sendall(b"x" * 5000)
        assert receive(connection, 5000) == b"x" * 5000
    assert proxy.tunnels == 1
    assert proxy.tunnelled_bytes == 10_000


@pytest.mark.parametrize("login", [None, ("site", "wrong"), ("other", "p@ss:word")])
def test_without_the_login_it_asks_for_it(proxy: Proxy, far: int, login: tuple[str, str] | None) -> None:
    answer = ask(proxy, f"CONNECT hub.test:{far} HTTP/1.1", login=login)
    assert answer == b"HTTP/1.1 407 Proxy Authentication Required"
    assert proxy.tunnels == 0


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("CONNECT hub.test:1 HTTP/1.1", 403),
        ("CONNECT other.test:443 HTTP/1.1", 403),
        ("CONNECT 127.0.0.1:{port} HTTP/1.1", 403),
        ("GET http://hub.test:{port}/ HTTP/1.1", 405),
        ("CONNECT hub.test:{port}", 400),
        ("nonsense", 400),
        ("CONNECT " + "x" * 20_000 + " HTTP/1.1", 400),
    ],
)
def test_everything_else_is_refused(proxy: Proxy, far: int, request_line: str, status: int) -> None:
    answer = ask(proxy, request_line.format(port=far))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert dict(proxy.answers) == {status: 1}


def test_a_destination_that_is_down_or_unknown_to_it_is_a_bad_gateway() -> None:
    with serving(echo) as gone:
        pass
    for names in ({"hub.test": "127.0.0.1"}, {}):
        proxy = Proxy(f"hub.test:{gone}", names=names)
        proxy.start()
        answer = ask(proxy, f"CONNECT hub.test:{gone} HTTP/1.1", login=None)
        assert answer.startswith(b"HTTP/1.1 502 ")
        proxy.stop()


def test_the_client_of_sites_finds_its_way_through(proxy: Proxy, far: int) -> None:
    """The echo server speaks no TLS, so the tunnel is as far as it gets; a wrong login gets none."""
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://hub.test:{far}/", proxy=proxy.url, timeout=5, trust_env=False)
    assert proxy.tunnels == 1
    with pytest.raises(httpx.ProxyError, match="407"):
        httpx.get(f"https://hub.test:{far}/", proxy=proxy.url.replace("site:", "thief:"), trust_env=False)
    assert proxy.tunnels == 1


def test_stopping_resets_tunnels(proxy: Proxy, far: int) -> None:
    with dial(port_of(proxy)) as connection:
        who = base64.b64encode(":".join(LOGIN).encode()).decode()
        head = f"CONNECT hub.test:{far} HTTP/1.1\r\nProxy-Authorization: Basic {who}\r\n\r\n"
        connection.sendall(head.encode())
        receive(connection, 39)
        proxy.stop()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_second_start_is_refused(proxy: Proxy) -> None:
    with pytest.raises(RunError, match="served already"):
        proxy.start()
