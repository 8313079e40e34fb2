"""The site's node: Flower's SuperNode, the only program of a site that talks to the network.

It runs what Flower ships, with the pauses of `common.flower`, and ends when its loop ends, which Flower by
itself does not: a single answer that it does not expect leaves a process that looks healthy and does nothing.
The supervisor starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from client.join import connection
from common.errors import RunError
from common.files import write_atomic
from common.flower import supernode

LAST_POLL = Path("run") / "last-poll.json"
"""In a site folder: when the node last looked for a message and was heard."""

STAMP_S = 2.0


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
    """What a node calls when the hub has heard it; writes the time at most every two seconds."""
    last = 0.0

    def stamp() -> None:
        nonlocal last
        if time.time() - last >= STAMP_S:
            last = time.time()
            with contextlib.suppress(RunError):  # a full disk must not end the node
                write_atomic(folder / LAST_POLL, json.dumps({"time": last, "ok": True}).encode())

    return stamp


def main(folder: Path) -> None:
    """Be the node of the site in `folder`."""
    status = supernode(arguments(folder), on_poll=stamper(folder))
    os._exit(status)  # Flower's local server would keep this process for ever


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
