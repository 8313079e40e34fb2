"""A hub and sites as the people who run them make them: by the `fedglia` command, as processes of their own.

Nothing here reaches into a room: what a rehearsal shows is what a coordinator and a hospital would see.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.flower import QUIET

COMMAND_S = 120.0
"""Longest that one command may take; those that start something wait for it themselves."""


@dataclass(frozen=True)
class Machine:
    """One role's folder, and the command that its person types.

    Attributes:
        environment: what its person has set.
        prefix: what is put before each command, for a machine in a network of its own.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def fedglia(self, *arguments: str, timeout_s: float = COMMAND_S, status: int | None = 0) -> str:
        """Run a command on this machine; what it printed.

        Args:
            arguments: of `fedglia`.
            timeout_s: seconds after which it is called hung.
            status: exit status that is expected; None: any.

        Raises:
            RunError: another status, or no end; holds the last lines that were printed.
        """
        command = [*self.prefix, str(Path(sys.executable).with_name("fedglia")), *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=self._environment(),
                cwd=self.folder.parent,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"fedglia {' '.join(arguments[:2])}: did not end in {timeout_s:.0f} s") from None
        if status is not None and done.returncode != status:
            words = (done.stdout + done.stderr).strip()[-1500:]
            raise RunError(f"fedglia {' '.join(arguments)}: status {done.returncode}: {words}")
        return done.stdout

    def service_pids(self) -> dict[str, int]:
        """Name of each running service -> its process."""
        with suppress(OSError, ValueError, KeyError):
            known = json.loads((self.folder / "run" / "services.json").read_text())["services"]
            return {name: state["pid"] for name, state in known.items() if state.get("pid")}
        return {}

    def supervisor_pid(self) -> int:
        """The process that starts and restarts the services."""
        return int(json.loads((self.folder / "run" / "services.json").read_text())["supervisor"])

    def do(self, *arguments: str, timeout_s: float = COMMAND_S, status: int | None = 0) -> str:
        """A command about this machine's own folder."""
        role = "--hub" if (self.folder / "hub.toml").is_file() else "--site"
        return self.fedglia(*arguments, role, str(self.folder), timeout_s=timeout_s, status=status)

    def _environment(self) -> dict[str, str]:
        own = Path(sys.executable).parent
        path = os.pathsep.join((str(own), os.environ.get("PATH", ""), "/usr/sbin"))
        return {**os.environ, **QUIET, "OPENBLAS_NUM_THREADS": "1", "PATH": path, **self.environment}


@dataclass(frozen=True)
class HubMachine(Machine):
    """The coordinator's machine."""

    port: int = 0
    host: str = "localhost"

    @property
    def address(self) -> str:
        """As sites dial it."""
        return f"{self.host}:{self.port}"

    @property
    def local(self) -> str:
        """The same, from this machine, where its name may resolve nowhere."""
        return f"127.0.0.1:{self.port}"

    def make(self) -> None:
        """From nothing to ready to start; it listens on this machine alone."""
        self.fedglia("hub", "init", str(self.folder), "--address", self.address)
        settings = self.folder / "hub.toml"
        settings.write_text(settings.read_text().replace('listen = "0.0.0.0"', 'listen = "127.0.0.1"'))

    def run_folder(self, name: str) -> Path:
        """The run directory of a run."""
        return self.folder / "runs" / name

    def summary(self, name: str) -> dict[str, Any]:
        """A run's summary.json as it is now; empty before there is one."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.run_folder(name) / "summary.json").read_text())
            return found
        return {}

    def events(self, name: str) -> list[dict[str, Any]]:
        """A run's events so far."""
        with suppress(OSError):
            lines = (self.run_folder(name) / "events.jsonl").read_text().splitlines()
            return [json.loads(line) for line in lines if line.endswith("}")]
        return []

    def closed_rounds(self, name: str) -> int:
        """How many rounds of a run are closed on disk."""
        files = (self.run_folder(name) / "checkpoints").glob("round-*.safetensors")
        return sum(path.name.count(".") == 1 and path.stem != "round-0000" for path in files)


@dataclass(frozen=True)
class SiteMachine(Machine):
    """A hospital's machine."""

    name: str = ""
    data: Path = Path()

    def join(
        self, hub: HubMachine, plan: Path, *, through: str | None = None, policy: tuple[str, ...] = ()
    ) -> None:
        """From nothing to ready to start: init, admission by the hub, approval of the plan.

        Args:
            hub: where to.
            plan: the plan file that the coordinator sent.
            through: another address than the hub's, for what stands between.
            policy: KEY=VALUE of what this hospital allows.
        """
        to = ["--hub", through or hub.address, "--name", self.name, "--data", str(self.data)]
        to += [word for setting in policy for word in ("--policy", setting)]
        self.fedglia("site", "init", str(self.folder), *to)
        hub.do("hub", "admit", str(self.folder / f"join-{self.name}.json"))
        self.do("site", "approve", str(plan), "--yes")


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(holds: Callable[[], bool], *, within_s: float, what: str, every_s: float = 0.2) -> float:
    """Wait until something holds; seconds that it took.

    Raises:
        RunError: it did not within the time.
    """
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise RunError(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - began
