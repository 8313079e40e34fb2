"""Whom this site believes: one certificate authority, pinned in SITE/hub-ca.crt the first time it is met.

As with ssh, the first contact is believed, and a person compares the fingerprint with the hub's own; a
fingerprint or a file that the coordinator gave makes the first contact strict, whenever it comes: the
fingerprint stands in site.toml, [hub] authority, from the moment that it was given. Another authority later
is refused: it is a proxy that reads what passes, somebody who pretends to be the hub, or a hub made anew.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomlkit
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from client import audit
from client.settings import edited
from client.site import open_site
from common import certificates
from common.errors import InputError, RunError, SiteError
from common.files import write_atomic

CA_FILE = "hub-ca.crt"
TIMEOUT_S = 8.0


class UnreachableError(RunError):
    """The hub did not answer; nothing can be said about whom it is."""

    code = "unreachable"


@dataclass(frozen=True)
class Trust:
    """The pinned authority, and how it came here."""

    fingerprint: str
    how: Literal["pinned before", "from the file", "as the fingerprint says", "at first contact"]


def trust(
    folder: Path,
    address: str,
    *,
    ca: Path | None = None,
    fingerprint: str | None = None,
    replace: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Trust:
    """Pin the hub's authority, or say which one is pinned.

    Args:
        folder: the site's.
        address: HOST:PORT of the hub.
        ca: a file that the coordinator gave.
        fingerprint: SHA-256 that the coordinator told, `AB:CD:..`; the authority must have it. None: as
            site.toml expects it, if it does.
        replace: let another authority take the place of the pinned one; needs `ca` or `fingerprint`.
        timeout_s: for the hub to answer.

    Raises:
        InputError: the file is no authority's certificate, or its fingerprint another one.
        SiteError: another authority is pinned, or the hub shows none that its certificate follows from.
        UnreachableError: the hub did not answer, and no file was given.
    """
    if replace and ca is None and fingerprint is None:
        raise InputError("to replace the pinned authority give --fingerprint or --hub-ca, as the hub says it")
    pinned = pinned_fingerprint(folder)
    if not pinned:
        fingerprint = _kept(folder, fingerprint)
    if pinned and ca is None and (fingerprint is None or _same(fingerprint, pinned)):
        return Trust(pinned, "pinned before")
    found = read_authority(ca) if ca else _met(address, timeout_s=timeout_s)
    named = certificates.fingerprint(found)
    if fingerprint and not _same(fingerprint, named):
        raise (InputError if ca else SiteError)(_other(named, fingerprint))
    if pinned and not _same(pinned, named) and not replace:
        raise SiteError(_other(named, pinned))
    write_atomic(folder / CA_FILE, found)
    if expected_fingerprint(folder) not in (None, named):
        expect(folder, named)
    return Trust(
        named, "from the file" if ca else "as the fingerprint says" if fingerprint else "at first contact"
    )


def pinned_fingerprint(folder: Path) -> str | None:
    """SHA-256 of the pinned authority; None before the first contact.

    Raises:
        SiteError: the file is there and no certificate.
    """
    file = folder / CA_FILE
    if not file.exists():
        return None
    try:
        return certificates.fingerprint(file.read_bytes())
    except (OSError, InputError):
        raise SiteError(
            f"{folder.name}: {CA_FILE} cannot be used; remove it and run `fedglia site trust` with the "
            "fingerprint that the coordinator reads from `fedglia hub status`"
        ) from None


def expected_fingerprint(folder: Path) -> str | None:
    """SHA-256 that site.toml expects the hub's authority to have; None where it expects none.

    Raises:
        SiteError: site.toml cannot be used, so it is not known what it expects.
    """
    return open_site(folder).authority or None if (folder / "site.toml").exists() else None


def expect(folder: Path, fingerprint: str) -> None:
    """Keep in site.toml which authority the hub must show.

    Raises:
        SiteError, RunError, LockedError: it cannot be written.
    """
    if expected_fingerprint(folder) != fingerprint:
        with edited(folder) as document:
            document.setdefault("hub", tomlkit.table())["authority"] = fingerprint


def _kept(folder: Path, fingerprint: str | None) -> str | None:
    """What was expected, where nothing new is said; what is said is kept, however long the hub is away."""
    if fingerprint is None:
        return expected_fingerprint(folder)
    check_fingerprint(fingerprint)
    expect(folder, fingerprint)
    return fingerprint


def check_fingerprint(text: str) -> None:
    """Refuse what cannot be the fingerprint of an authority, before anything is made that would rely on it.

    Raises:
        InputError: it is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9A-F]{64}", _bare(text)):
        raise InputError(
            f"'{text[:100]}' is no fingerprint: give the 64 digits that `fedglia hub status` shows, as in "
            "AB:CD:..."
        )


def _met(address: str, *, timeout_s: float) -> bytes:
    """The authority that the hub itself shows, after checking that its certificate follows from it."""
    try:
        chain = certificates.peer_chain(address, timeout_s=timeout_s)
    except RunError as error:
        raise UnreachableError(f"the hub does not answer: {error}") from None
    if not chain:
        raise UnreachableError(
            f"{address} showed no certificate; ask the coordinator whether the hub is well"
        )
    leaf, last = (x509.load_pem_x509_certificate(chain[at].encode()) for at in (0, -1))
    with contextlib.suppress(ValueError, TypeError, InvalidSignature):
        if len(chain) > 1:
            leaf.verify_directly_issued_by(last)
            last.verify_directly_issued_by(last)
            return chain[-1].encode()
    says = audit.words(leaf.subject.rfc4514_string(), longest=80)
    raise SiteError(
        f"{address} shows no authority of its own (it says it is {says}): ask the coordinator for the "
        "hub's ca.crt and give it with --hub-ca"
    )


def read_authority(file: Path) -> bytes:
    """The certificate of an authority, as the coordinator gives it.

    Raises:
        InputError: there is no such file, or it is none.
    """
    try:
        content = file.read_bytes()
        found = x509.load_pem_x509_certificate(content)
        if not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError
    except (OSError, ValueError, x509.ExtensionNotFound):
        raise InputError(
            f"{file.name}: is no certificate of an authority (PEM); ask for the hub's ca.crt"
        ) from None
    return content


def _same(one: str, other: str) -> bool:
    return _bare(one) == _bare(other)


def _bare(fingerprint: str) -> str:
    return fingerprint.upper().removeprefix("SHA256").replace(":", "").strip()


def _other(found: str, expected: str) -> str:
    return f"""the hub's authority is not the one that is expected here.
  found     {found}
  expected  {expected}
Somebody may be reading what passes (a proxy that opens TLS), or pretend to be the hub. Nothing was sent.
Ask the coordinator, on the telephone, for the fingerprint that `fedglia hub status` shows. Only if it is
the one found here (the hub was made anew), accept it:
  fedglia site trust --replace --fingerprint FINGERPRINT"""
