"""A conversation with the hub, as the node has it: by the proxy, over TLS, believing one authority."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx

TIMEOUT_S = 6.0
MEASURED_FOR_S = 1.1
"""The hub's Date header counts whole seconds; watching it turn over once gives the clock to some 0.1 s."""
PAUSE_S = 0.1

Trouble = Literal["proxy", "timeout", "certificate", "refused", "answer"]


@dataclass(frozen=True)
class Contact:
    """What came of asking the hub for its health.

    Attributes:
        trouble: what went wrong, None where the hub answered with status 200.
        words: of the error.
        verify_code: OpenSSL's number for what is wrong with the certificate.
        facts: what the hub says about itself: version, flwr, torch, python, bundle.
        ahead_s: how far this machine's clock is ahead of the hub's, seconds; negative: behind.
    """

    trouble: Trouble | None = None
    words: str = ""
    verify_code: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    ahead_s: float | None = None


@dataclass(frozen=True)
class Proxy:
    """The proxy that this process's environment sends the site's traffic through; no password in `shown`."""

    url: str
    host: str
    port: int

    @property
    def shown(self) -> str:
        """Scheme, host and port."""
        return f"{urlsplit(self.url).scheme}://{self.host}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """The proxy on the way to `host` as https_proxy, all_proxy and no_proxy say; None for the direct way.

    Raises:
        ValueError: the address of the proxy is none.
    """
    found = urllib.request.getproxies_environment()
    url = found.get("https") or found.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if not parts.hostname:
        raise ValueError("no host in it")
    return Proxy(parts.geturl(), parts.hostname, parts.port or {"https": 443}.get(parts.scheme, 80))


def resolve(host: str, *, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Addresses of a host name.

    Raises:
        OSError: there is none, or the name servers do not answer in time.
    """
    answers: queue.Queue[list[str] | OSError] = queue.Queue()
    # The system's resolver takes no timeout; a thread that it keeps waiting ends with this process.
    threading.Thread(target=_addresses, args=(host, answers), daemon=True).start()
    try:
        found = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if isinstance(found, OSError):
        raise found
    return found


def ask(address: str, authority: Path, *, timeout_s: float = TIMEOUT_S) -> Contact:
    """Ask the hub for its health some times over, believing the pinned authority alone."""
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(verify=context, timeout=timeout_s) as client:
            return _conversation(client, f"https://{address}/health")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ImportError, ValueError) as error:
        return _trouble(error)


def _conversation(client: httpx.Client, url: str) -> Contact:
    lowest, highest, last = float("-inf"), float("inf"), None
    end = time.monotonic() + MEASURED_FOR_S
    while last is None or time.monotonic() < end:
        before = time.time()
        last = client.get(url)
        after = time.time()
        if last.status_code != 200:
            return Contact("answer", f"status {last.status_code}")
        stamp = _stamp(last)
        if stamp is None:
            break
        lowest, highest = max(lowest, before - stamp - 1), min(highest, after - stamp)
        time.sleep(PAUSE_S)
    assert last is not None
    ahead = (lowest + highest) / 2 if highest < float("inf") else None
    return Contact(facts=_facts(last.headers.get("FedGlia", "")), ahead_s=ahead)


def _stamp(answer: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def _facts(header: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in header[:500].split())
    return {name: value for name, equals, value in pairs if equals}


def _trouble(error: BaseException) -> Contact:
    words = str(error)[:200] or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Contact("certificate", cause.verify_message, cause.verify_code)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ProxyError | ImportError):
        return Contact("proxy", words)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return Contact("timeout", words)
    return Contact("refused", words)


def _addresses(host: str, answers: queue.Queue[list[str] | OSError]) -> None:
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
        answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
    except (OSError, UnicodeError) as error:
        answers.put(error if isinstance(error, OSError) else OSError(str(error)))
