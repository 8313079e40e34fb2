"""Joining: a site folder from nothing, the key that names the site, and which hub it believes.

    SITE/site.toml      a person's file: name, data folder, hub, policy
    SITE/key            ECDSA P-384, mode 0600, never leaves; key.pub goes to the hub in join-NAME.json
    SITE/secret         with which the worker shows the node that it may have work
    SITE/hub-ca.crt     the one authority whose certificates this site believes
    SITE/format         number of this layout; an older FedGlia leaves a newer one alone

Everything is made once: running again makes what a kill kept from being made, and changes nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter, ValidationError

from client.template import site_toml
from common.addresses import split_address
from common.errors import InputError, RunError, SiteError
from common.files import write_atomic
from common.plan import SiteName

FORMAT = 1
"""Layout of a site folder; goes up only when an older version could damage what a newer one wrote."""

SITE_VARIABLE = "FEDGLIA_SITE"
PORTS = range(20000, 30000)
"""For the node's runtime on 127.0.0.1: below the ports that systems give to outgoing connections."""


@dataclass(frozen=True)
class Connection:
    """What a node needs to reach its hub."""

    address: str
    runtime_port: int


def init_site(
    folder: Path,
    *,
    hub: str,
    name: str,
    data: Path,
    policy: Mapping[str, object] | None = None,
    authority: str | None = None,
) -> tuple[str, ...]:
    """Make a site folder, or what is missing of it; returns the names of the files that were made.

    key.pub and the join file are made anew where they are not those of the key that is there.

    Args:
        folder: made with mode 0700; empty, or this site's already.
        hub: HOST:PORT of the hub's edge.
        name: as plans call the site.
        data: the folder of scans.
        policy: keys of [policy] to begin with, already checked; the others keep their defaults.
        authority: fingerprint that the hub's authority must have, already checked; None: not known.

    Raises:
        InputError: a name that plans cannot use, an address that is none, no such data folder, or one in
            which the site folder lies.
        SiteError: the folder holds something else, or this site under other words.
        RunError: the folder cannot be written.
    """
    folder, data = folder.absolute(), data.absolute()
    _check_words(hub=hub, name=name)
    if not data.is_dir():
        raise InputError(f"{data.name}: there is no such folder of scans; give --data FOLDER")
    if folder.resolve().is_relative_to(data.resolve()):
        raise InputError(f"{folder.name} lies inside the folder of scans; choose a folder outside it")
    _check_free(folder, {"name": name, "data": str(data), "hub": hub})
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(PermissionError):  # a mounted volume of another owner; `check` looks at it
            folder.chmod(0o700)
        for part in ("cache", "models", "state", "predictions", "logs", "run", "releases"):
            (folder / part).mkdir(exist_ok=True, mode=0o700)
        made += _make(folder / "format", f"{FORMAT}\n".encode())
        made += _make_key(folder)
        made += _make(folder / "secret", secrets.token_hex(32).encode())
        made += _renew(folder / f"join-{name}.json", _join_file(folder, name))
        content = site_toml(
            name=name,
            data=data,
            hub=hub,
            runtime_port=_free_port(folder),
            policy=policy,
            authority=authority,
        )
        made += _make(folder / "site.toml", content.encode())
    except OSError as error:
        raise RunError(f"{folder.name}: cannot be written ({error.strerror})", code="disk") from error
    return tuple(made)


def find_site(option: Path | None) -> Path:
    """The site folder that a command means: --site DIR, else $FEDGLIA_SITE, else the working directory.

    Raises:
        SiteError: none of the three is a site, or it was written by a newer FedGlia.
    """
    named = option or (Path(os.environ[SITE_VARIABLE]) if os.environ.get(SITE_VARIABLE) else None)
    folder = (named or Path()).absolute()
    if not (folder / "site.toml").is_file():
        where = f"{named.name}: is no site folder" if named else "this folder is no site"
        raise SiteError(
            f"{where} (no site.toml in it): give --site DIR, set {SITE_VARIABLE}, or work in the site's "
            "folder; `fedglia site init` makes one"
        )
    check_format(folder)
    return folder


def check_format(folder: Path) -> None:
    """Refuse a site folder whose layout this version does not know.

    Raises:
        SiteError: a newer FedGlia wrote it, or its `format` is not a number.
    """
    try:
        text = (folder / "format").read_text().strip()
    except OSError:  # made by hand, or by a simulation
        return
    if not text.isdigit():
        raise SiteError(f"{folder.name}: its file `format` must hold {FORMAT}, not '{text[:20]}'")
    if int(text) > FORMAT:
        raise SiteError(
            f"{folder.name} was written by a newer FedGlia (format {text}; this one knows {FORMAT}): "
            "upgrade this installation, nothing was changed"
        )


def connection(folder: Path) -> Connection:
    """Where the hub is, as site.toml says it.

    Raises:
        SiteError: no usable site.toml, or no usable [hub] in it.
    """
    try:
        words = tomllib.loads((folder / "site.toml").read_text(encoding="utf-8"))
        hub = words["hub"]
        found = Connection(str(hub["address"]), int(hub["runtime_port"]))
        split_address(found.address)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SiteError(f"{folder.name}: site.toml cannot be read ({error})") from None
    except (KeyError, TypeError, ValueError):
        raise SiteError(
            f"{folder.name}: site.toml needs [hub] with address (a text) and runtime_port (a number)"
        ) from None
    except InputError as error:
        raise SiteError(f"{folder.name}: site.toml, [hub] address: {error}") from None
    return found


def public_key(folder: Path) -> str:
    """The site's public key, one line of OpenSSH's form.

    Raises:
        SiteError: there is no readable key.
    """
    try:
        private = serialization.load_ssh_private_key((folder / "key").read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise SiteError(f"{folder.name}: its key cannot be read ({type(error).__name__})") from None
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return private.public_key().public_bytes(*form).decode()


def _check_words(*, hub: str, name: str) -> None:
    split_address(hub)
    try:
        TypeAdapter[str](SiteName).validate_python(name)
    except ValidationError:
        raise InputError(
            f"'{name[:50]}': plans name a site by up to 32 lower-case letters, digits and '-', as in site-b"
        ) from None


def _check_free(folder: Path, words: dict[str, str]) -> None:
    """The folder is new, or this very site's."""
    file = folder / "site.toml"
    if file.is_file():
        check_format(folder)
        try:
            told = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SiteError(f"{folder.name}: site.toml is there and cannot be read ({error})") from None
        there = {**told, "hub": told.get("hub", {}).get("address")}
        for key, given in words.items():
            if there.get(key) != given:
                raise SiteError(
                    f"{folder.name} is a site already, and its {key} is '{there.get(key)}', not '{given}': "
                    "nothing was changed; edit site.toml, or choose another folder"
                )
    elif folder.is_dir() and any(folder.iterdir()) and not (folder / "format").is_file():
        raise SiteError(f"{folder.name} is not empty and no site: choose a new folder")
    elif folder.exists() and not folder.is_dir():
        raise SiteError(f"{folder.name} is a file: choose a new folder")


def _make_key(folder: Path) -> list[str]:
    made = []
    if not (folder / "key").exists():
        form = serialization.PrivateFormat.OpenSSH
        content = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, form, serialization.NoEncryption()
        )
        made += _make(folder / "key", content)
    return made + _renew(folder / "key.pub", f"{public_key(folder)}\n".encode())


def _join_file(folder: Path, name: str) -> bytes:
    content = {
        "schema": 1,
        "site": name,
        "public_key": public_key(folder),
        "fedglia": version("fedglia"),
        "flwr": version("flwr"),
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _make(path: Path, content: bytes, *, mode: int = 0o600) -> list[str]:
    """Write a file where there is none; one that is there stays as it is."""
    if path.exists():
        return []
    write_atomic(path, content, mode=mode)
    return [path.name]


def _renew(path: Path, content: bytes) -> list[str]:
    """Write a file that follows from the key, where it is not there or follows from another one."""
    if path.is_file() and path.read_bytes() == content:
        return []
    write_atomic(path, content, mode=0o644)
    return [path.name]


def _free_port(folder: Path) -> int:
    """A port for the node's runtime that is free now, and another one for each site folder."""
    first = zlib.crc32(str(folder).encode())
    for step in range(100):
        port = PORTS[(first + step) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RunError("no port on 127.0.0.1 is free between 20000 and 30000")
