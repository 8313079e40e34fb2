"""The far side of a link or a proxy in tests: a server on loopback that does one simple thing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

PATIENCE_S = 5.0


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that gives each connection to `handle` in a thread; the value is its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was shut down
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(PATIENCE_S)
                    threading.Thread(target=handle_one, args=(connection,), daemon=True).start()

        def handle_one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept keeps a closed listener open


def echo(connection: socket.socket) -> None:
    """Send back what comes, until the other side ends its half."""
    while piece := connection.recv(1 << 16):
        connection.sendall(piece)


def count_to_the_end(connection: socket.socket) -> None:
    """Say nothing until the other side has ended its half, then how many bytes came."""
    total = 0
    while piece := connection.recv(1 << 16):
        total += len(piece)
    connection.sendall(str(total).encode())


def dial(port: int) -> socket.socket:
    """A connection to a port of loopback that gives up after some seconds."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def receive(connection: socket.socket, size_bytes: int) -> bytes:
    """So many bytes, or fewer where the other side ends first."""
    received = b""
    while len(received) < size_bytes and (piece := connection.recv(size_bytes - len(received))):
        received += piece
    return received
