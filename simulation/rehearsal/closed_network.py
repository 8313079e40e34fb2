"""A network without any way out but one: a namespace in which a single port of ours is to be found.

The socket of that port is made inside and served outside, so that whatever runs inside reaches the proxy and
nothing else: no interface, no route, no name server.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

_COMMAND_S = 20.0
_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class ClosedNetwork:
    """A network namespace with nothing in it but its own loopback."""

    name: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What is put before a command so that it runs inside."""
        return ("ip", "netns", "exec", self.name)

    def listen(self) -> socket.socket:
        """A listening socket on its 127.0.0.1, usable from here.

        Raises:
            RunError: the system does not allow it.
        """
        made: list[socket.socket] = []

        def inside() -> None:  # this thread alone moves there, and ends
            with (_NAMESPACES / self.name).open() as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET) == 0:
                    made.append(socket.create_server(("127.0.0.1", 0)))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join(_COMMAND_S)
        if not made:
            raise RunError(f"network namespace {self.name}: no port can be opened in it")
        return made[0]


@contextmanager
def closed_network() -> Iterator[ClosedNetwork | None]:
    """A closed network, gone at the end; None where this machine allows none."""
    name = f"fedglia-{os.getpid()}"
    if shutil.which("ip") is None or not _done("ip", "netns", "add", name):
        yield None
        return
    try:
        yield ClosedNetwork(name) if _done("ip", "-n", name, "link", "set", "lo", "up") else None
    finally:
        _done("ip", "netns", "delete", name)


def _done(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, timeout=_COMMAND_S, check=False)
    return done.returncode == 0
