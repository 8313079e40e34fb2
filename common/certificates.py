"""Certificates of a federation: one authority signs what the hub presents, and sites trust that authority.

A hospital's machine cannot ask a public authority about a hub that has no public name, and must not trust
the hundreds that its system trusts. So each hub makes its own authority, and a site pins it. Keys are on
the curve P-256; a private key is mode 0600 from its first byte on.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError, RunError
from common.files import write_atomic

AUTHORITY_DAYS = 3653
SERVER_DAYS = 397
"""The longest that common clients accept of a server's certificate."""
_EARLIER = timedelta(hours=1)
"""Certificates begin this much before they are made, for machines whose clock is behind."""


def make_authority(folder: Path, name: str) -> None:
    """Make `ca.key` and `ca.crt`, an authority that may sign servers and nothing below itself.

    Args:
        folder: must exist; an authority already there is replaced, and everything it signed is worthless.
        name: shown to people who look at the certificate.

    Raises:
        RunError: the files cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _signed_by(subject, subject, key.public_key(), days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _keep(folder, "ca", key, _pem(certificate))


def issue(folder: Path, name: str, *, hosts: Sequence[str], days: int = SERVER_DAYS) -> None:
    """Make `<name>.key` and `<name>.crt` for a server, signed by the authority in the same folder.

    The certificate file holds the server's certificate and then the authority's: a server presents both.
    A kill between the two files leaves a pair that does not match; `matches` tells.

    Args:
        folder: holds `ca.key` and `ca.crt`.
        name: of the files and of the certificate's subject.
        hosts: names and addresses by which the server is dialled.
        days: how long it holds.

    Raises:
        InputError: no usable authority in the folder, or no host.
        RunError: the files cannot be written.
    """
    if not hosts:
        raise InputError(f"{name}: a certificate needs at least one name by which the server is dialled")
    authority = read_certificate(folder / "ca.crt")
    authority_key = _read_key(folder / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedglia {name}")])
    public = authority_key.public_key()
    certificate = (
        _signed_by(subject, authority.subject, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _keep(folder, name, key, _pem(certificate) + _pem(authority))


def matches(folder: Path, name: str) -> bool:
    """Whether `<name>.key` belongs to `<name>.crt`, and the folder's authority signed it."""
    try:
        certificate = read_certificate(folder / f"{name}.crt")
        key = _read_key(folder / f"{name}.key")
        certificate.verify_directly_issued_by(read_certificate(folder / "ca.crt"))
    except Exception:  # whatever is wrong with the files, they do not match
        return False
    return key.public_key() == certificate.public_key()


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file.

    Raises:
        InputError: the file is missing or holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{path.name}: is no certificate; give a PEM file, or restore it") from None


def expiry(path: Path) -> datetime:
    """When the first certificate of a PEM file ends, in UTC.

    Raises:
        InputError: see `read_certificate`.
    """
    return read_certificate(path).not_valid_after_utc


def fingerprint(pem: str | bytes) -> str:
    """SHA-256 of a certificate as people compare it, `AB:CD:...`.

    Raises:
        InputError: this is no certificate.
    """
    content = pem.encode() if isinstance(pem, str) else pem
    try:
        digest = x509.load_pem_x509_certificate(content).fingerprint(hashes.SHA256())
    except ValueError:
        raise InputError("this is no certificate; give the PEM text of one") from None
    return digest.hex(":").upper()


def key_fingerprint(public_key: str) -> str:
    """SHA-256 of a public key in OpenSSH's form, as `ssh-keygen -l` shows it: `SHA256:...`.

    Raises:
        InputError: this is no such key.
    """
    try:
        digest = hashlib.sha256(base64.b64decode(public_key.split()[1], validate=True)).digest()
    except (IndexError, ValueError):
        raise InputError("this is no public key in OpenSSH's form") from None
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def peer_chain(address: str, *, timeout_s: float) -> list[str]:
    """The certificates that a server presents, as PEM, its own first. Nothing is verified.

    The way there is the one that Flower takes: through `https_proxy` where that is set.

    Args:
        address: HOST:PORT of the server.
        timeout_s: longest wait for each step.

    Raises:
        RunError: the server cannot be reached, or speaks no TLS.
    """
    # Looking at a certificate before trusting it is the one use of an unverified connection.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            httpx.Client(verify=context, timeout=timeout_s) as client,
            client.stream("GET", f"https://{address}/health") as answer,
        ):
            return _presented(answer.extensions["network_stream"].get_extra_info("ssl_object"))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise RunError(
            f"{address}: no TLS connection ({error or type(error).__name__}); check the address, "
            "the firewall and the proxy (https_proxy)",
            code="unreachable",
        ) from None


def _presented(connection: Any) -> list[str]:  # noqa: ANN401 - of the ssl module, wrapped or not
    # The ssl module's own objects have the method from Python 3.13 on, and give DER. Before, and where httpx
    # hands out the object beneath, that one has it, and gives certificates.
    source = connection if hasattr(connection, "get_unverified_chain") else connection._sslobj
    found = source.get_unverified_chain() or ()
    return [ssl.DER_cert_to_PEM_cert(it) if isinstance(it, bytes) else str(it.public_bytes()) for it in found]


def _signed_by(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _keep(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, chain: bytes) -> None:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(folder / f"{name}.key", secret, mode=0o600)
    write_atomic(folder / f"{name}.crt", chain)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path.name}: is no usable private key; restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path.name}: is not a key that `fedglia hub init` made; restore it from a backup")
    return key
