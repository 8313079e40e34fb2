"""The two processes of a running site: what each may see, and how they start and stop.

The node alone talks to the network and opens no scan; the worker alone opens scans and talks to the node on
127.0.0.1. `python -m client.services SITE` is their supervisor in the foreground.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from client import records
from client.join import check_format, connection
from client.keeping import sweep
from client.node import LAST_POLL
from client.policy import Policy
from client.site import open_site
from client.trust import CA_FILE, trust
from common import processes
from common.flower import KEPT_BUFFERS, QUIET
from common.processes import Service

NAMES = ("node", "worker")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOCAL = ("127.0.0.1", "localhost")
WAIT_S = 60.0
"""Longest that a start or a stop takes before it is called failed."""


def services(folder: Path) -> tuple[Service, ...]:
    """The node and the worker of the site in `folder`."""
    return tuple(Service(name, command(name, folder), environment(name, folder)) for name in NAMES)


def command(name: str, folder: Path) -> tuple[str, ...]:
    """The command of one process; `-P` keeps a checkout that happens to be the working directory out."""
    return (sys.executable, "-P", "-m", f"client.{name}", str(folder))


def environment(name: str, folder: Path) -> Mapping[str, str]:
    """What a process is told beside what its supervisor knows.

    No program of Flower's is on the PATH, so nothing can start one by its name. The proxy is the node's.
    """
    bypass = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    merged = ",".join(dict.fromkeys([*filter(None, bypass.split(",")), *LOCAL]))
    own = {"no_proxy": merged, "NO_PROXY": merged, "PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
    if name == "worker":
        own |= {variable: "" for variable in PROXIES}
    else:
        own |= KEPT_BUFFERS
    return {**QUIET, **own, "FLWR_HOME": str(folder / "run" / "flower"), "PYTHONUNBUFFERED": "1"}


def prepare(folder: Path, *, only: str | None = None) -> Iterator[str]:
    """Look at what a start needs and sweep what is old; yields what was done, in words.

    Args:
        folder: the site's.
        only: the one process that starts; the worker needs no hub, and the node sees nothing to sweep.

    Raises:
        SiteError: site.toml cannot be used, a record was changed, or the hub shows another authority than
            the pinned one.
        UnreachableError: no authority is pinned and the hub does not answer.
    """
    check_format(folder)
    site, hub = open_site(folder), connection(folder)
    if only != "node":  # it has nothing to do with records, and may not see them
        records.check(folder)
    if only != "worker" and not (folder / CA_FILE).exists():
        found = trust(folder, hub.address)
        yield (
            f"the hub's authority is believed from now on: SHA-256 {found.fingerprint}\n"
            "  compare it with the coordinator's (`fedglia hub status`), on the telephone"
        )
    if only != "node":
        yield from sweep(folder, site.policy or Policy())


def start(folder: Path) -> None:
    """Start both processes and leave them running.

    Raises:
        LockedError: the site runs already.
        RunError: they do not start; the message holds the log's last lines.
    """
    processes.start(folder, (sys.executable, "-P", "-m", "client.services", str(folder)), wait_s=WAIT_S)


def stop(folder: Path) -> bool:
    """Stop both processes; False where nothing ran. The hub is not heard any more, so its stamp goes too."""
    ran = processes.stop(folder, wait_s=WAIT_S)
    (folder / LAST_POLL).unlink(missing_ok=True)
    return ran


def stay(folder: Path) -> None:
    """Run both processes under this one until a signal ends it."""
    processes.supervise(folder, services(folder))


def become(name: str, folder: Path) -> None:
    """Turn this process into one of the two, for a container or a unit that restarts it itself."""
    os.chdir(folder)
    os.execve(sys.executable, command(name, folder), {**os.environ, **environment(name, folder)})


if __name__ == "__main__":
    stay(Path(sys.argv[1]).absolute())
