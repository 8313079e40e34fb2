"""The hub's folder: what is in it, and how a command finds it.

    HUB/hub.toml          the address as sites dial it, and the ports; a person may edit it
    HUB/pki/              the authority that sites trust, and what it signed for edge and link
    HUB/secret            known to link and exec alone: nobody else may take the work of a run
    HUB/admissions.json   who was admitted and who was revoked, and when
    HUB/runs/NAME/        run directories
    HUB/state.db          Flower's own: messages under way, registered keys; can be lost
    HUB/app/ edge/ flower/   written anew at each start from the above
    HUB/logs/ run/        of the processes

Everything in it is for its owner alone (mode 0700): who reads it can be the hub.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.addresses import split_address
from common.errors import InputError
from common.flower import KEPT_BUFFERS, QUIET
from common.processes import Service
from server.hub import edge

HUB_VARIABLE = "FEDGLIA_HUB"
RUNS_VARIABLE = "FEDGLIA_RUNS"
"""Where `server.app` finds run directories."""

Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(BaseModel):
    """The three ports; only `edge` listens outside."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    edge: Port
    link: Port
    health: Port


class Settings(BaseModel):
    """The content of hub.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str
    listen: str = "0.0.0.0"
    ports: Ports


@dataclass(frozen=True)
class Hub:
    """A hub's folder, opened.

    Attributes:
        folder: absolute.
        address: HOST:PORT as sites dial it.
        listen: the address that the edge listens on.
    """

    folder: Path
    address: str
    listen: str
    ports: Ports

    @property
    def host(self) -> str:
        """The host of the address, an IPv6 one without brackets."""
        return split_address(self.address)[0]

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def runs_folder(self) -> Path:
        """Where the run directories are."""
        return self.folder / "runs"

    @property
    def link_address(self) -> str:
        """HOST:PORT of the SuperLink, on loopback."""
        return f"127.0.0.1:{self.ports.link}"

    def environment(self) -> dict[str, str]:
        """What Flower's programs of this hub find in their environment."""
        here = "127.0.0.1,localhost"
        return {
            **QUIET,
            **KEPT_BUFFERS,
            "FLWR_HOME": str(self.folder / "flower"),
            RUNS_VARIABLE: str(self.runs_folder),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1.0",
            "PATH": f"{programs()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "NO_PROXY": here,  # they talk to each other, never through the hospital's proxy
            "no_proxy": here,
            "OPENBLAS_NUM_THREADS": "1",
        }

    def services(self) -> tuple[Service, ...]:
        """The hub's three processes, in the order in which they start."""
        environment, trusted = self.environment(), str(self.pki / "ca.crt")
        link = (
            *(sys.executable, "-P", "-m", "server.hub.superlink"),
            *("--isolation", "process", "--enable-supernode-auth"),
            *("--host", "127.0.0.1", "--port", str(self.ports.link), "--ssl-ca-certfile", trusted),
            *("--ssl-certfile", str(self.pki / "link.crt"), "--ssl-keyfile", str(self.pki / "link.key")),
            *(
                "--superexec-auth-secret-file",
                str(self.folder / "secret"),
                "--database",
                str(self.state_file),
            ),
            *("--health-server-address", f"127.0.0.1:{self.ports.health}"),
            "--disable-runtime-dependency-installation",
        )
        executor = (
            *(str(programs() / "flower-superexec"), "--runtime-api-address", self.link_address),
            *("--root-certificates", trusted, "--superexec-auth-secret-file", str(self.folder / "secret")),
        )
        return (
            Service("link", link, environment),
            # A run is at work in a process that it started, and needs it no more.
            Service("exec", executor, environment, spares=True),
            Service("edge", edge.command(self.folder / "edge"), environment, longest_pause_s=5.0),
        )

    @property
    def state_file(self) -> Path:
        """Flower's database."""
        return self.folder / "state.db"


def open_hub(folder: Path) -> Hub:
    """The hub that a folder describes.

    Raises:
        InputError: no hub.toml, or one that cannot be used; the message names the key.
    """
    try:
        settings = Settings.model_validate(tomllib.loads((folder / "hub.toml").read_text()))
    except OSError:
        raise InputError(f"{folder.name}: holds no hub.toml; make a hub with: fedglia hub init DIR") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"hub.toml: cannot be read ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"hub.toml: {key}: {first['msg'].lower()}; correct it") from None
    split_address(settings.address)
    if not re.fullmatch(r"[0-9.]+|\[[0-9a-fA-F:]+\]", settings.listen):
        raise InputError('hub.toml: listen: is no IP address; "0.0.0.0" is all of this machine\'s')
    return Hub(folder.resolve(), settings.address, settings.listen, settings.ports)


def find_hub(option: Path | None) -> Hub:
    """The hub that a command means: --hub, else $FEDGLIA_HUB, else the working directory.

    Raises:
        InputError: none of the three names a hub.
    """
    named = option or (Path(os.environ[HUB_VARIABLE]) if os.environ.get(HUB_VARIABLE) else None)
    if named is not None:
        return open_hub(named)
    if Path("hub.toml").is_file():
        return open_hub(Path.cwd())
    raise InputError(
        "no hub is named: give --hub DIR, set FEDGLIA_HUB=DIR, or change into the hub's folder; "
        "make one with: fedglia hub init DIR"
    )


def programs() -> Path:
    """The folder of this installation's commands, `flwr` and Flower's services among them."""
    return Path(sys.executable).absolute().parent
