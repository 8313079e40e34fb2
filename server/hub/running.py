"""The hub's processes: what is looked at before they start, starting, and making them agree afterwards."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx

from common import certificates, processes
from common.errors import FedGliaError, InputError, LockedError, RunError
from common.terminal import Say
from server.hub import admissions, edge, making
from server.hub.folder import Hub, programs

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
ANSWER_LIMIT_S = 90.0
"""From the processes' start until the SuperLink answers through the edge, on a machine that is busy."""
WARNING_DAYS = 30
LOW_DISK_BYTES = 2 << 30
LOG_DAYS = 90
KEPT_LOGS = 4
_LOOK_S = 0.5
_PROGRAMS = ("flwr", "flower-superlink", "flower-superexec", "flwr-serverapp")

log = logging.getLogger(__name__)


def prepare(hub: Hub) -> list[str]:
    """Make everything ready for the processes; returns warnings in words.

    Raises:
        LockedError: they run already.
        InputError: something that only a person can mend; the message says how.
        RunError: the disk is full, or nginx refuses its configuration.
    """
    if processes.states(hub.folder):
        raise LockedError(
            "the hub runs already; fedglia hub status shows how it is, fedglia hub stop stops it"
        )
    for program in _PROGRAMS:
        if shutil.which(program, path=str(programs())) is None:
            raise InputError(
                f"{program}: is not in this installation; install fedglia again with its dependencies"
            )
    said = [
        f"{name}: its certificate was unusable and was made again" for name in making.repair_certificates(hub)
    ]
    expiring = expiry_warnings(hub)
    if any("has expired" in line for line in expiring):
        raise InputError("; ".join(expiring))
    said += expiring
    busy = making.busy_ports(hub)
    # What a killed supervisor left behind holds them too; the new one ends that first.
    if busy and not (hub.folder / "run" / "services.json").exists():
        raise InputError("; ".join(busy))
    making.write_derived(hub)
    (hub.folder / "logs").mkdir(mode=0o700, exist_ok=True)
    edge.check_configuration(hub.folder / "edge")
    said += disk_warnings(hub)
    if os.geteuid() == 0:
        said.append(
            "the hub runs as root, its edge too; give it a user of its own, which needs no rights at all"
        )
    processes.sweep(hub.folder, older_than_days=LOG_DAYS, keep=KEPT_LOGS)
    return said


def start(hub: Hub, *, say: Say = lambda line: None) -> list[str]:
    """Start the hub in the background; returns when sites can connect, with warnings in words.

    Args:
        hub: not running yet.
        say: told what is waited for, a line at a time.

    Raises:
        LockedError: it runs already.
        InputError: see `prepare`.
        RunError: a process does not stay, or the SuperLink does not answer through the edge.
    """
    said = prepare(hub)
    # Without -P Python would look for modules in the working directory first.
    command = [sys.executable, "-P", "-m", "server.hub", str(hub.folder)]
    say(f"starts the hub's processes, and waits until they stay, {START_LIMIT_S:.0f} s at most")
    processes.start(hub.folder, command, wait_s=START_LIMIT_S)
    return said + settle(hub, say=say)


def stop(hub: Hub) -> bool:
    """Stop the hub; False where it does not run.

    Raises:
        RunError: it does not end.
    """
    return processes.stop(hub.folder, wait_s=STOP_LIMIT_S)


def run_in_foreground(hub: Hub) -> None:
    """Run the hub until SIGTERM or Ctrl-C, from the main thread.

    Raises:
        LockedError: it runs already.
    """
    threading.Thread(target=_settle_quietly, args=(hub,), daemon=True).start()
    processes.supervise(hub.folder, hub.services())


def settle(hub: Hub, *, say: Say = lambda line: None) -> list[str]:
    """Wait until the SuperLink answers through the edge, then tell it who is admitted; says what was changed.

    Raises:
        RunError: it does not answer in time; the message holds the last lines of the logs.
    """
    say(f"waits until the SuperLink answers through the edge, {ANSWER_LIMIT_S:.0f} s at most")
    end = time.monotonic() + ANSWER_LIMIT_S
    while (problem := health_problem(hub)) is not None:
        if time.monotonic() > end:
            lines = "\n".join(processes.tail(hub.folder, name, 4) for name in ("link", "edge"))
            raise RunError(
                f"the hub's processes run, but it does not answer after {ANSWER_LIMIT_S:.0f} s ({problem}); "
                f"the last lines of logs/link.log and logs/edge.log:\n{lines}",
                code="hub-down",
            )
        time.sleep(_LOOK_S)
    say("tells the SuperLink who is admitted")
    return admissions.reconcile(hub)


def health_problem(hub: Hub) -> str | None:
    """Why the hub cannot be reached from this machine, in words; None where it answers as it should.

    The question goes through the edge to the SuperLink, with the certificate checked as a site does.
    """
    where = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(hub.listen, hub.listen)
    try:
        context = ssl.create_default_context(cafile=str(hub.pki / "ca.crt"))
        with httpx.Client(verify=context, timeout=5.0, trust_env=False) as client:
            answer = client.get(
                f"https://{where}:{hub.ports.edge}/health",
                extensions={"sni_hostname": hub.host},
            )
    except (OSError, httpx.HTTPError) as error:
        return f"edge: {error or type(error).__name__}"
    if answer.status_code == httpx.codes.OK:
        return None
    return f"the edge answers {answer.status_code}: the SuperLink behind it does not"


def expiry_warnings(hub: Hub) -> list[str]:
    """What is to be said about the certificates' ends.

    Raises:
        InputError: a certificate is missing.
    """
    said = []
    for name, mend in (
        ("edge", "fedglia hub renew"),
        ("ca", "make a new hub, and let every site join it anew"),
    ):
        left = certificates.expiry(hub.pki / f"{name}.crt") - datetime.now(UTC)
        if left < timedelta(0):
            said.append(f"pki/{name}.crt: has expired, no site can connect; {mend}")
        elif left < timedelta(days=WARNING_DAYS):
            said.append(f"pki/{name}.crt: expires in {left.days} days; {mend}")
    return said


def disk_warnings(hub: Hub) -> list[str]:
    """What is to be said about the room that is left."""
    free = shutil.disk_usage(hub.folder).free
    if free < LOW_DISK_BYTES:
        return [
            f"disk: {free / 1e9:.1f} GB are free; a run keeps each round's model and the replies of one round"
        ]
    return []


def _settle_quietly(hub: Hub) -> None:
    try:
        for line in settle(hub):
            log.warning("%s", line)
    except FedGliaError as error:
        log.error("%s", error)
