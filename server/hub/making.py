"""Making a hub's folder, renewing what its edge presents, and writing what is derived from hub.toml."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import tomli_w

from common import certificates
from common.addresses import split_address
from common.errors import InputError
from common.files import sync_folder, write_atomic
from common.flower import write_app
from server.hub import edge
from server.hub.admissions import admitted_keys
from server.hub.folder import Hub, open_hub

LINK_DAYS = certificates.AUTHORITY_DAYS
"""The link's certificate is seen on loopback only, and nobody would think of renewing it."""
_PORTS_APART = 20_000
_OF_THE_DISK = "lost+found"  # a new file system of Linux holds it
_SECRET_BYTES = 48
_HUB_TOML = """\
# This hub. Stop it before you edit this, and start it after.

# As sites dial it. After a change: fedglia hub renew, so that the certificate holds the new name.
address = "{address}"

# Where the edge listens: "0.0.0.0" is every IPv4 address of this machine, "[::]" every one of IPv6 and IPv4,
# "127.0.0.1" or "[::1]" itself alone.
listen = "{listen}"

[ports]
# The only one that must be reachable from outside:
edge = {edge}
# On loopback: Flower's SuperLink, and its health over gRPC.
link = {link}
health = {health}
"""


def make_hub(folder: Path, *, address: str) -> Hub:
    """Make a hub's folder with its keys; it appears whole or not at all.

    Args:
        folder: must be missing or empty.
        address: HOST:PORT as sites will dial it.

    Raises:
        InputError: the folder holds something, or the address is none.
        RunError: the disk is full.
    """
    host, port = split_address(address)
    with draft_of(folder) as draft:
        for part in ("pki", "runs"):
            (draft / part).mkdir(mode=0o700)
        link = port + _PORTS_APART if port + _PORTS_APART + 1 <= 65535 else port - _PORTS_APART
        ports = {"edge": port, "link": link, "health": link + 1}
        words = _HUB_TOML.format(address=address, listen=_listens(host), **ports)
        write_atomic(draft / "hub.toml", words.encode())
        write_atomic(draft / "secret", secrets.token_bytes(_SECRET_BYTES), mode=0o600)
        certificates.make_authority(draft / "pki", f"FedGlia hub {host}")
        issue_edge(draft / "pki", host)
        certificates.issue(draft / "pki", "link", hosts=["localhost", "127.0.0.1"], days=LINK_DAYS)
    return open_hub(folder)


@contextlib.contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A folder to fill, for the owner alone, that becomes `folder` at the end of the block if nothing fails.

    A folder that exists is filled, as it may be the place where a disk is mounted, which cannot be replaced;
    hub.toml, which makes it a hub, comes last.

    Raises:
        InputError: the folder holds something, or is another user's.
        OSError: the disk is full or cannot be written.
    """
    _check_empty(folder)
    there = folder.is_dir()
    parent = folder if there else folder.absolute().parent
    if there:
        _close(folder)
    parent.mkdir(parents=True, exist_ok=True)
    draft = parent / f".{folder.absolute().name}.{secrets.token_hex(4)}.tmp"
    draft.mkdir(mode=0o700)
    try:
        yield draft
        if there:
            for part in sorted(draft.iterdir(), key=lambda part: part.name == "hub.toml"):
                part.rename(folder / part.name)
        else:
            draft.rename(folder)
        sync_folder(parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _close(folder: Path) -> None:
    try:
        folder.chmod(0o700)
    except PermissionError:
        raise InputError(
            f"{folder.name}: is another user's; give it to this one (chown), or name a new folder in it"
        ) from None


def _listens(host: str) -> str:
    """Where the edge of a hub with this host listens: where sites that dial the host arrive."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        number = ipaddress.ip_address(host)
    except ValueError:  # a name
        return "0.0.0.0"
    if number.version == 4:
        return host if number.is_loopback else "0.0.0.0"
    return f"[{host}]" if number.is_loopback else "[::]"


def _check_empty(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        InputError: it does, or it is a file.
    """
    if (folder / "hub.toml").exists():
        raise InputError(
            f"{folder.name}: is a hub already; start it: fedglia hub start --hub {quote(str(folder))}"
        )
    if folder.is_dir() and any(part.name != _OF_THE_DISK for part in folder.iterdir()):
        raise InputError(f"{folder.name}: is not empty; name a new folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder.name}: is a file; name a new folder")


def issue_edge(pki: Path, host: str) -> None:
    """A new key and certificate for the edge, for the host that sites dial and for this machine itself.

    Raises:
        InputError: the authority is missing or damaged.
        RunError: the disk is full.
    """
    certificates.issue(pki, "edge", hosts=list(dict.fromkeys([host, "localhost", "127.0.0.1"])))


def repair_certificates(hub: Hub) -> list[str]:
    """Make again what a kill or a lost file left unusable; returns the names in words.

    Raises:
        InputError: the authority itself is missing or damaged: only a backup helps.
    """
    certificates.read_certificate(hub.pki / "ca.crt")
    made = []
    if not certificates.matches(hub.pki, "edge"):
        issue_edge(hub.pki, hub.host)
        made.append("edge")
    if not certificates.matches(hub.pki, "link"):
        certificates.issue(hub.pki, "link", hosts=["localhost", "127.0.0.1"], days=LINK_DAYS)
        made.append("link")
    return made


def write_derived(hub: Hub) -> None:
    """Write what follows from hub.toml and the admissions: the edge's files, Flower's home, the app.

    Raises:
        InputError: admissions.json is damaged.
        RunError: the disk is full.
    """
    for part in (hub.folder / "flower", hub.runs_folder):
        part.mkdir(mode=0o700, exist_ok=True)
    connection = {"address": hub.link_address, "root-certificates": str(hub.pki / "ca.crt")}
    config = {"superlink": {"default": "hub", "hub": connection}}
    write_atomic(hub.folder / "flower" / "config.toml", tomli_w.dumps(config).encode())
    write_app(hub.folder / "app")
    edge.write_configuration(
        hub.folder / "edge",
        listen=hub.listen,
        edge_port=hub.ports.edge,
        link_port=hub.ports.link,
        admitted=admitted_keys(hub),
    )


def busy_ports(hub: Hub) -> list[str]:
    """What keeps the hub's ports from it, in words; empty where all are free."""
    found = []
    wanted = {"edge": (hub.listen, hub.ports.edge), "link": ("127.0.0.1", hub.ports.link)}
    wanted["health"] = ("127.0.0.1", hub.ports.health)
    for name, (where, port) in wanted.items():
        family = socket.AF_INET6 if ":" in where else socket.AF_INET
        try:
            with socket.socket(family) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if where == "[::]":
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                trial.bind((where.strip("[]"), port))
        except PermissionError:
            found.append(
                f"port {port} ({name}): only root may listen below 1024; take one above, such as 8443, "
                "in hub.toml, or give the service CAP_NET_BIND_SERVICE"
            )
        except OSError as error:
            mend = (
                "this machine has no such address: change listen in hub.toml"
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                else "end what listens there (ss -ltnp shows it), or change the port in hub.toml"
            )
            found.append(f"port {port} ({name}) on {where}: {str(error.strerror).lower()}; {mend}")
    return found
