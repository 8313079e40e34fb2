"""A hospital's way out: an HTTP CONNECT proxy that knows one destination and who may ask.

Rehearsals run a site behind it. The hub's name resolves nowhere else, so a site that reached the hub went
through here:

    proxy = Proxy("hub.test:8443", names={"hub.test": "127.0.0.1"}, login=("site", "secret"))
    proxy.start()
    ...                 # https_proxy=proxy.url
    proxy.stop()
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from simulation.rehearsal.background import Background, reset

_HEAD_BYTES = 1 << 13
_PATIENCE_S = 10.0
_PIECE_BYTES = 1 << 16


class Proxy:
    """A CONNECT proxy on 127.0.0.1 that lets through to one `HOST:PORT`; it alone resolves names."""

    def __init__(
        self,
        allowed: str,
        *,
        names: Mapping[str, str],
        login: tuple[str, str] | None = None,
        port: int = 0,
        listener: socket.socket | None = None,
    ) -> None:
        self.answers: Counter[int] = Counter()
        """How often each HTTP status was given; 200 counts the tunnels."""
        self.tunnelled_bytes = 0
        """Through all tunnels, both ways."""
        self._allowed = allowed
        self._names = dict(names)
        self._login = login
        self._server = Background(self._handle, port, listener)

    @property
    def url(self) -> str:
        """What `https_proxy` has to hold, with the login; known once started."""
        who = ":".join(quote(part, safe="") for part in self._login) + "@" if self._login else ""
        return f"http://{who}127.0.0.1:{self._server.port}"

    @property
    def tunnels(self) -> int:
        """How many connections were let through since the proxy was made."""
        return self.answers[HTTPStatus.OK]

    def start(self) -> None:
        """Listen.

        Raises:
            RunError: it runs already, or the port is taken.
        """
        self._server.start()

    def stop(self) -> None:
        """Reset what is open and listen no more."""
        self._server.stop()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                status, place = self._judge(await _head(reader))
            far = await self._dial(place) if status is HTTPStatus.OK else None
            status = HTTPStatus.BAD_GATEWAY if far is None and status is HTTPStatus.OK else status
            self.answers[status] += 1
            writer.write(_answer(status))
            await writer.drain()
            if far is not None:
                await self._tunnel((reader, writer), far)
        except BaseException:  # too slow, gone, or the proxy stops
            reset(writer)
            raise
        writer.close()

    def _judge(self, head: list[str]) -> tuple[HTTPStatus, str]:
        """The status that a request deserves, and where it wants to go."""
        words = head[0].split(" ") if head else []
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return HTTPStatus.BAD_REQUEST, ""
        method, place, _ = words
        if method != "CONNECT":
            return HTTPStatus.METHOD_NOT_ALLOWED, place
        if not self._knows(head[1:]):
            return HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, place
        return (HTTPStatus.OK if place == self._allowed else HTTPStatus.FORBIDDEN), place

    def _knows(self, lines: list[str]) -> bool:
        if self._login is None:
            return True
        wanted = "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
        given = [line.partition(":")[2].strip() for line in lines if _name(line) == "proxy-authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), wanted.encode())

    async def _dial(self, place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        host, _, port = place.rpartition(":")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.open_connection(self._names[host], int(port))
        except (KeyError, OSError):
            return None

    async def _tunnel(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        both = asyncio.gather(self._pump(near[0], far[1]), self._pump(far[0], near[1]))
        try:
            await both
        finally:
            both.cancel()
            far[1].close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(_PIECE_BYTES):
            self.tunnelled_bytes += len(piece)
            sink.write(piece)
            await sink.drain()
        sink.write_eof()


async def _head(reader: asyncio.StreamReader) -> list[str]:
    """The lines of a request's head; none where it is longer than 8 KiB or no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return []
    return head.decode("latin-1").split("\r\n")[:-2] if len(head) <= _HEAD_BYTES else []


def _name(line: str) -> str:
    return line.partition(":")[0].strip().lower()


def _answer(status: HTTPStatus) -> bytes:
    """The head of an answer, which has no body."""
    if status is HTTPStatus.OK:
        return b"HTTP/1.1 200 Connection established\r\n\r\n"
    asks = 'Proxy-Authenticate: Basic realm="rehearsal"\r\n'
    extra = asks if status is HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else ""
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    return lines.encode()
