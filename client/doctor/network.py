"""The way to the hub: name, proxy, TLS, clock, versions, and whether the hub knows this site."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject
from client.trust import CA_FILE
from common import certificates
from common.errors import FedGliaError
from common.fleet import is_admitted
from common.flower import bundle_sha256

WARN_AHEAD_S, FAIL_AHEAD_S = 2.0, 4.0
"""A node whose clock is 5 s ahead of the hub's is locked out."""
EXPIRY_DAYS = 30
NO_CONTACT = "not looked at: there is no contact with the hub"
FIRST = "mend the contact with the hub first"

_HOST_MISMATCH, _IP_MISMATCH = 62, 64
_NOT_YET, _EXPIRED = 9, 10


def check_proxy(subject: Subject) -> Iterator[Said]:
    """Is there a proxy, can it be used, and does the running node know the same one?"""
    if subject.proxy_trouble:
        yield failed(
            f"https_proxy is no address of a proxy ({subject.proxy_trouble})",
            "export https_proxy=http://USER:PASSWORD@HOST:PORT",
        )
        return
    proxy = subject.proxy
    if proxy and proxy.shown.startswith("socks"):
        yield failed(
            f"{proxy.shown}: a SOCKS proxy cannot be used", "ask IT for an HTTP proxy that allows CONNECT"
        )
        return
    if proxy and subject.proxy_away:
        yield failed(
            f"the proxy {proxy.shown} takes no connection ({subject.proxy_away}): no way to the hub",
            "correct host and port in https_proxy, or ask IT whether the proxy runs",
        )
        return
    through = (
        f"through the proxy {proxy.shown}; this site's own port on 127.0.0.1 is kept off it" if proxy else ""
    )
    yield passed(through or "no proxy is set: the direct way")
    running = _environment_of_node(subject.folder)
    if running is not None and bool(running.get("https_proxy") or running.get("HTTPS_PROXY")) != bool(proxy):
        here = "here, and not where the node runs" if proxy else "where the node runs, and not here"
        yield warned(
            f"a proxy is set {here}: this check does not go the node's way",
            "set the same https_proxy in both, then fedglia site stop and fedglia site start",
        )


def check_name(subject: Subject) -> Iterator[Said]:
    """Can the first host on the way be found?"""
    if subject.proxy_trouble:
        yield warned("not looked at: which host is the first on the way is not known", "mend the proxy first")
        return
    proxy = subject.proxy
    name = proxy.host if proxy else subject.host
    error = subject.unresolved
    if error is None:
        yield passed(f"{name} has an address")
    else:
        whose = "https_proxy" if proxy else "[hub] address in site.toml"
        yield failed(
            f"{name}: no address is known for this name ({error})",
            f"correct {whose}, or ask IT for a DNS entry: getent hosts {name}",
        )


def check_hub(subject: Subject) -> Iterator[Said]:
    """Does the hub answer, and is it the one that is believed?"""
    if isinstance(subject.trusted, FedGliaError):
        code = subject.trusted.code
        mend = (
            _reach_mend(subject) if code == "unreachable" else "fedglia site trust --fingerprint FINGERPRINT"
        )
        yield failed(str(subject.trusted), mend)
        return
    if subject.trusted == "at first contact":
        pinned = certificates.fingerprint((subject.folder / CA_FILE).read_bytes())
        yield warned(
            f"the hub's authority was met for the first time and is believed from now on: SHA-256 {pinned}",
            "compare it with the coordinator's, on the telephone: fedglia hub status",
        )
    contact = subject.contact
    if contact is None:  # what stands in the way has its own line
        yield warned("not looked at: the way to the hub is not known", "mend proxy and name first")
    elif contact.trouble is None:
        yield passed(f"{subject.site.hub} answers over TLS")
    elif contact.trouble == "certificate":
        yield _wrong_certificate(subject, contact.words, contact.verify_code)
    elif contact.trouble == "answer":
        yield failed(
            f"{subject.site.hub} answers, but not as a hub that is well ({contact.words})",
            "ask the coordinator: fedglia hub status",
        )
    elif contact.trouble == "proxy":
        yield failed(
            f"the proxy does not let this machine through ({contact.words})",
            f"correct user and password in https_proxy; ask IT to allow CONNECT to {subject.site.hub}",
        )
    else:
        yield failed(f"{subject.site.hub} cannot be reached ({contact.words})", _reach_mend(subject))


def check_certificate(subject: Subject) -> Iterator[Said]:
    """When do the hub's certificate and its authority end?"""
    if subject.contact is None or subject.contact.trouble:
        yield warned(NO_CONTACT, FIRST)
        return
    try:
        chain = certificates.peer_chain(subject.site.hub, timeout_s=subject.timeout_s)
    except FedGliaError as error:
        yield warned(str(error), FIRST)
        return
    authority = (subject.folder / CA_FILE).read_bytes()
    for content, what, who in (
        (chain[0].encode(), "the hub's certificate", "ask the coordinator: fedglia hub renew"),
        (authority, "the hub's authority", "ask the coordinator for a new hub-ca.crt"),
    ):
        yield _days_left(content, what, who)


def check_clock(subject: Subject) -> Iterator[Said]:
    """Do the two clocks agree? The hub refuses a signature from the future."""
    ahead = subject.contact.ahead_s if subject.contact else None
    if ahead is None:
        yield warned(NO_CONTACT, FIRST)
        return
    words = f"this clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the hub's"
    mend = "switch time synchronisation on: sudo timedatectl set-ntp true (in a container: on its host)"
    if abs(ahead) > FAIL_AHEAD_S:
        yield failed(f"{words}; from 5 s ahead on, the hub refuses this site", mend)
    elif abs(ahead) > WARN_AHEAD_S:
        yield warned(words, mend)
    else:
        yield passed(words)


def check_versions(subject: Subject) -> Iterator[Said]:
    """Does the hub run what this site runs?"""
    facts = subject.contact.facts if subject.contact else {}
    if not facts:
        yield warned("the hub does not say which versions it runs; nothing was compared", FIRST)
        return
    upgrade = "install the version that the coordinator names; the site folder stays as it is"
    if facts.get("bundle", bundle_sha256()) != bundle_sha256():
        yield failed(
            "the hub starts runs with another bundle than this version accepts: every run would be refused",
            upgrade,
        )
    own = {
        "version": version("fedglia"),
        "flwr": version("flwr"),
        "torch": version("torch").split("+")[0],
        "python": "{}.{}".format(*sys.version_info),
    }
    for name, mine in own.items():
        theirs = facts.get(name, mine).split("+")[0]
        what = {"version": "FedGlia", "python": "Python"}.get(name, name)
        if theirs == mine:
            yield passed(f"{what} {mine}, as at the hub")
        elif name == "flwr":
            yield failed(
                f"flwr {mine}; the hub runs {theirs}, and the two may not understand each other", upgrade
            )
        else:
            yield warned(
                f"{what} {mine}; the hub runs {theirs}: results may differ in the last digits", upgrade
            )


def check_admission(subject: Subject) -> Iterator[Said]:
    """Does the hub know this site's key?"""
    if subject.contact is None or subject.contact.trouble:
        yield warned(NO_CONTACT, FIRST)
        return
    join = subject.folder / f"join-{subject.site.name}.json"
    try:
        key = (subject.folder / "key").read_bytes()
        known = is_admitted(subject.site.hub, key, subject.folder / CA_FILE, timeout_s=subject.timeout_s)
    except (OSError, ValueError, ConnectionError) as error:
        yield warned(f"could not be asked ({error})", "fedglia site check again; else ask the coordinator")
        return
    if known:
        yield passed(f"the hub knows the key of {subject.site.name}")
    elif known is None:
        yield failed("the hub does not accept the time in the signature", "mend the clock, see clock above")
    else:
        yield failed(
            "the hub does not know this site's key: not admitted yet, or revoked",
            f"send {join} to the coordinator, who runs: fedglia hub admit {join.name}",
        )


def _wrong_certificate(subject: Subject, words: str, code: int) -> Said:
    if code in (_HOST_MISMATCH, _IP_MISMATCH):
        return failed(
            f"the certificate is the hub's, but not for the name {subject.host} ({words})",
            "dial the name that the coordinator gave ([hub] address in site.toml)",
        )
    if code in (_NOT_YET, _EXPIRED):
        ended = "has ended" if code == _EXPIRED else "is not valid yet"
        return failed(
            f"the hub's certificate {ended} by this machine's clock: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "check the date; if it is right, ask the coordinator: fedglia hub renew",
        )
    shown = "?"
    try:
        chain = certificates.peer_chain(subject.site.hub, timeout_s=subject.timeout_s)
        shown = certificates.fingerprint(chain[-1])
    except (FedGliaError, IndexError):
        pass
    return failed(
        f"another authority than the pinned one signed what {subject.site.hub} shows ({words}; SHA-256 "
        f"{shown}): somebody may be reading what passes, or the hub was made anew",
        "ask for no TLS inspection on the way; if the coordinator confirms the SHA-256: fedglia site trust "
        f"--replace --fingerprint {shown}",
    )


def _days_left(content: bytes, what: str, mend: str) -> Said:
    from cryptography import x509

    end = x509.load_pem_x509_certificate(content).not_valid_after_utc
    days = (end - datetime.now(UTC)).total_seconds() / 86400
    words = f"{what} ends on {end:%Y-%m-%d}, in {days:.0f} days"
    return passed(words) if days > EXPIRY_DAYS else warned(words, mend)


def _reach_mend(subject: Subject) -> str:
    if not subject.is_way_known:
        return "mend proxy and name first"
    way = (
        "the proxy must allow CONNECT to it"
        if subject.proxy
        else "the firewall must let this machine dial it"
    )
    return f"check [hub] address in site.toml; {way}; ask the coordinator whether the hub runs"


def _environment_of_node(folder: Path) -> dict[str, str] | None:
    from common.processes import states

    node = states(folder).get("node")
    if node is None or node.pid is None:
        return None
    try:
        raw = (Path("/proc") / str(node.pid) / "environ").read_bytes()
    except OSError:
        return None
    pairs = (os.fsdecode(item).partition("=") for item in raw.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}
