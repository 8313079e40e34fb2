"""Certificates: made, checked by OpenSSL's own rules, and looked at over a real connection."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common import certificates
from common.errors import InputError, RunError


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority and one server that it signed."""
    certificates.make_authority(tmp_path, "a test's authority")
    certificates.issue(tmp_path, "edge", hosts=["localhost", "127.0.0.1"])
    return tmp_path


@contextlib.contextmanager
def served(pki: Path, name: str = "edge") -> Iterator[str]:
    """A TLS server on loopback that answers every request with an empty 200; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with (
                        contextlib.suppress(OSError),
                        context.wrap_socket(connection, server_side=True) as tls,
                    ):
                        tls.recv(4096)
                        tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def greets(address: str, trusted: Path, *, as_name: str) -> bool:
    """Whether a strict client that trusts one authority accepts the server under a name."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by itself
    host, _, port = address.partition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=as_name),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False


def test_keys_are_for_their_owner_alone(pki: Path) -> None:
    for name in ("ca.key", "edge.key"):
        assert (pki / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "accepted"), [("localhost", True), ("127.0.0.1", True), ("hub.test", False)]
)
def test_a_strict_client_checks_the_name(pki: Path, name: str, accepted: bool) -> None:
    with served(pki) as address:
        assert greets(address, pki / "ca.crt", as_name=name) is accepted


def test_another_hubs_authority_is_not_trusted(pki: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificates.make_authority(other, "another")
    with served(pki) as address:
        assert not greets(address, other / "ca.crt", as_name="localhost")


def test_a_server_cannot_sign_others(pki: Path) -> None:
    for kind in ("key", "crt"):
        (pki / f"ca.{kind}").write_bytes((pki / f"edge.{kind}").read_bytes())
    certificates.issue(pki, "forged", hosts=["localhost"])
    with served(pki, "forged") as address:
        assert not greets(address, pki / "ca.crt", as_name="localhost")


def test_how_long_they_hold(pki: Path) -> None:
    now = datetime.now(UTC)
    assert timedelta(days=396) < certificates.expiry(pki / "edge.crt") - now < timedelta(days=397)
    assert certificates.expiry(pki / "ca.crt") - now > timedelta(days=3650)


def test_what_a_server_presents_can_be_looked_at_before_it_is_trusted(pki: Path) -> None:
    with served(pki) as address:
        chain = certificates.peer_chain(address, timeout_s=5)
    assert len(chain) == 2
    assert certificates.fingerprint(chain[0]) == certificates.fingerprint((pki / "edge.crt").read_bytes())
    assert chain[1] == (pki / "ca.crt").read_text()


def test_who_speaks_no_tls_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=f"{address}: no TLS connection"):
        certificates.peer_chain(address, timeout_s=5)


def test_the_fingerprint_is_the_one_people_know(pki: Path) -> None:
    shown = certificates.fingerprint((pki / "ca.crt").read_text())
    assert len(shown) == 32 * 3 - 1
    assert bytes.fromhex(shown.replace(":", "")).hex(":").upper() == shown
    with pytest.raises(InputError, match="no certificate"):
        certificates.fingerprint("hello")


def test_a_pair_that_a_kill_left_half_made_does_not_match(pki: Path) -> None:
    assert certificates.matches(pki, "edge")
    before = (pki / "edge.crt").read_bytes()
    certificates.issue(pki, "edge", hosts=["localhost"])
    assert certificates.matches(pki, "edge")
    (pki / "edge.crt").write_bytes(before)
    assert not certificates.matches(pki, "edge")
    certificates.make_authority(pki, "a new one")
    assert not certificates.matches(pki, "edge")


def test_what_is_missing_is_named(pki: Path) -> None:
    with pytest.raises(InputError, match="at least one name"):
        certificates.issue(pki, "edge", hosts=[])
    (pki / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.key: is no usable private key"):
        certificates.issue(pki, "edge", hosts=["localhost"])
    with pytest.raises(InputError, match=r"none\.crt: is no certificate"):
        certificates.expiry(pki / "none.crt")


def test_a_keys_fingerprint_is_that_of_ssh(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    key = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (tmp_path / "key.pub").write_text(key)
    for text in ("", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384 AA$$"):
        with pytest.raises(InputError, match="no public key"):
            certificates.key_fingerprint(text)
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not on this machine")
    asked = ["ssh-keygen", "-lf", str(tmp_path / "key.pub")]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert certificates.key_fingerprint(f"{key} comment") in said.split()
