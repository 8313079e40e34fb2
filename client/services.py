"""The two processes of a running site: what each may see, how they start, and what is swept before.

The node alone talks to the network and opens no scan; the worker alone opens scans and talks to the node on
127.0.0.1. `python -m client.services SITE` is their supervisor in the foreground.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from client.join import check_format, connection
from client.site import open_site
from client.trust import CA_FILE, trust
from common import processes
from common.files import sweep_drafts
from common.flower import QUIET
from common.processes import Service

NAMES = ("node", "worker")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOCAL = ("127.0.0.1", "localhost")
WAIT_S = 60.0
"""Longest that a start or a stop takes before it is called failed."""
DAY_S = 86400.0


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
    return {**QUIET, **own, "FLWR_HOME": str(folder / "run" / "flower"), "PYTHONUNBUFFERED": "1"}


def prepare(folder: Path, *, only: str | None = None) -> Iterator[str]:
    """Look at what a start needs and sweep what is old; yields what was done, in words.

    Args:
        folder: the site's.
        only: the one process that starts; the worker needs no hub.

    Raises:
        SiteError: site.toml cannot be used, or the hub shows another authority than the pinned one.
        UnreachableError: no authority is pinned and the hub does not answer.
    """
    check_format(folder)
    site, hub = open_site(folder), connection(folder)
    if only != "worker" and not (folder / CA_FILE).exists():
        found = trust(folder, hub.address)
        yield (
            f"the hub's authority is believed from now on: SHA-256 {found.fingerprint}\n"
            "  compare it with the coordinator's (`fedglia hub status`), on the telephone"
        )
    yield from sweep(folder, days=site.policy.log_days if site.policy else 90)


def sweep(folder: Path, *, days: float) -> Iterator[str]:
    """Remove logs, states of runs and prepared cases that nobody used for `days`, and drafts of a kill."""
    logs = processes.sweep(folder, older_than_days=days, keep=4)
    for part in (folder, folder / "run", folder / "models", folder / "cache"):
        sweep_drafts(part)
    runs = [path for path in (folder / "state").glob("*") if path.is_dir() and unused_days(path) > days]
    for path in runs:
        shutil.rmtree(path, ignore_errors=True)
    cases = [path for path in (folder / "cache").glob("*.safetensors") if unused_days(path) > days]
    for path in cases:
        path.unlink(missing_ok=True)
    swept = ((len(logs), "log(s)"), (len(runs), "state(s) of runs"), (len(cases), "prepared case(s)"))
    for count, what in swept:
        if count:
            yield f"swept {count} {what} that nobody used for {days:g} days"


def unused_days(path: Path) -> float:
    """Days since a file, or anything directly in a folder, was written or read."""
    try:
        inside = [path, *path.iterdir()] if path.is_dir() else [path]
        last = max(
            max(item.stat().st_mtime, item.stat().st_atime if item.is_file() else 0) for item in inside
        )
    except OSError:  # gone meanwhile
        return 0.0
    return (time.time() - last) / DAY_S


def start(folder: Path) -> None:
    """Start both processes and leave them running.

    Raises:
        LockedError: the site runs already.
        RunError: they do not start; the message holds the log's last lines.
    """
    processes.start(folder, (sys.executable, "-P", "-m", "client.services", str(folder)), wait_s=WAIT_S)


def stop(folder: Path) -> bool:
    """Stop both processes; False where nothing ran."""
    return processes.stop(folder, wait_s=WAIT_S)


def stay(folder: Path) -> None:
    """Run both processes under this one until a signal ends it."""
    processes.supervise(folder, services(folder))


def become(name: str, folder: Path) -> None:
    """Turn this process into one of the two, for a container or a unit that restarts it itself."""
    os.chdir(folder)
    os.execve(sys.executable, command(name, folder), {**os.environ, **environment(name, folder)})


if __name__ == "__main__":
    stay(Path(sys.argv[1]).absolute())
