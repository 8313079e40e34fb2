"""The site's node: Flower's SuperNode, the only program of a site that talks to the network.

It runs what Flower ships, with the pauses of `common.flower`, and ends when its loop ends, which Flower by
itself does not: a single answer that it does not expect leaves a process that looks healthy and does nothing.
The supervisor starts another.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from client.join import connection
from client.limits import NODE_BYTES, limit_memory
from common.errors import RunError
from common.files import write_atomic
from common.flower import supernode
from common.process_table import process_namespace
from common.service_logs import run_program

LAST_POLL = Path("run") / "last-poll.json"
"""In a site folder: when the hub last answered the node, and which process that was. `time` is a person's;
`boot_s`, seconds since the machine started, goes on where the clock is set back."""

STAMP_S = 2.0

NODE = Path("run") / "node.json"
"""In a site folder: the number by which the hub knows this site's node, and the machine where it ran."""


def arguments(folder: Path) -> list[str]:
    """Of the command `flower-supernode`, for the site in `folder`.

    Raises:
        SiteError: site.toml names no usable hub.
    """
    hub = connection(folder)
    return [
        *("--superlink", hub.address),
        *("--root-certificates", str(folder / "hub-ca.crt")),
        *("--auth-supernode-private-key", str(folder / "key")),
        *("--host", "127.0.0.1", "--port", str(hub.runtime_port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(folder / "secret")),
    ]


def stamper(folder: Path) -> Callable[[], None]:
    """What a node calls when the hub has answered it, from any thread; writes at most every two seconds."""
    last, lock = -math.inf, threading.Lock()
    pids = process_namespace()

    def stamp() -> None:
        nonlocal last
        with lock:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if now - last < STAMP_S:
                return
            last = now
            told = {"time": time.time(), "ok": True, "pid": os.getpid(), "boot_s": now, "pids": pids}
            with contextlib.suppress(RunError):  # a full disk must not end the node
                write_atomic(folder / LAST_POLL, json.dumps(told).encode())

    return stamp


def unstamp(folder: Path) -> None:
    """A node that ends takes its stamp along; that of another process stays."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((folder / LAST_POLL).read_text())["pid"] == os.getpid():
            (folder / LAST_POLL).unlink()


def predecessor(folder: Path) -> int | None:
    """The node's number, where it ran on this machine before; None where it did not, or is not known.

    On another machine an earlier node may still be alive: a folder that was copied. It is not pushed out.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((folder / NODE).read_text())
        return int(known["node_id"]) if known["machine"] == platform.node() else None
    return None


def remember(folder: Path, node_id: int) -> None:
    """Keep the node's number for the next process."""
    with contextlib.suppress(RunError):  # without it a killed node is let in again after 20 s
        content = {"node_id": str(node_id), "machine": platform.node()}
        write_atomic(folder / NODE, json.dumps(content).encode())


def main(folder: Path) -> None:
    """Be the node of the site in `folder`."""
    limit_memory(NODE_BYTES)
    try:
        status = supernode(
            arguments(folder),
            on_heard=stamper(folder),
            predecessor=predecessor(folder),
            on_joined=partial(remember, folder),
        )
    finally:
        unstamp(folder)
    os._exit(status)  # Flower's local server would keep this process for ever


if __name__ == "__main__":
    run_program(lambda: main(Path(sys.argv[1]).absolute()))
