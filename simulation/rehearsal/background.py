"""A small asyncio server in a thread, so that a rehearsal can drive it from ordinary code.

`link` and `proxy` are such servers: both listen on loopback, and are told things (cut, mend) while they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from common.errors import RunError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = TypeVar("Answer")

PATIENCE_S = 10.0
"""How long starting, stopping and each order may take; nothing here waits for the network."""


class Background:
    """A server on 127.0.0.1 whose handler runs in a thread of its own.

    Connections that are still open when it stops are reset.
    """

    def __init__(self, handler: Handler, port: int = 0, listener: socket.socket | None = None) -> None:
        self.port = port
        self._listener = listener  # one that was made elsewhere; a network namespace keeps its sockets
        self._handler = handler
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen; afterwards `port` is the port, also where 0 was asked for.

        Raises:
            RunError: it runs already, or the port is taken.
        """
        if self._loop is not None:
            raise RunError(f"port {self.port} of 127.0.0.1 is served already; stop it first")
        try:
            listener = self._listener or socket.create_server(("127.0.0.1", self.port))
        except OSError as error:
            raise RunError(
                f"port {self.port} of 127.0.0.1 cannot be used ({error.strerror}); name another"
            ) from None
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"port {self.port}", daemon=True)
        self._thread.start()
        self._server = self.order(asyncio.start_server(self._serve, sock=listener))

    def stop(self) -> None:
        """Stop listening and reset what is open; stopping what does not run does nothing."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self.order(self._end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
        self._loop = self._thread = None

    def order(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine in the server's thread and wait for it.

        Raises:
            RunError: nothing runs.
        """
        if self._loop is None:
            work.close()
            raise RunError(f"port {self.port} of 127.0.0.1 is not served; start it first")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def reset_open(self) -> None:
        """End every open connection by cancelling its handler; to be awaited in the server's thread."""
        open_now = [*self._open]
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.reset_open()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._handler(reader, writer)
        finally:
            self._open.discard(task)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a middlebox does, and forget what was not sent yet."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # it may be gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
