"""Is a hub's link or edge there? For a probe, a timer or a monitoring system; ends with 0 if it is, else 1.

    python health.py grpc://127.0.0.1:PORT              gRPC health v1: the link's health port, see hub.toml
    python health.py https://HUB.EXAMPLE:8443/health    HTTP through the edge; --ca names the hub's ca.crt

Either answer is static: it says that a process lives and can be reached, not that rounds can run. Whether a
hub or a site is ready is what `fedglia hub status` and `fedglia site status` end with.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import grpc

SERVING = b"\x08\x01"
"""HealthCheckResponse with status SERVING, as it travels: field 1, value 1."""


def grpc_problem(address: str, *, timeout_s: float) -> str:
    """What is wrong with a gRPC health service at HOST:PORT, without TLS; empty if nothing is."""
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = check(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            return f"no answer ({error.code().name})"
    return "" if answer == SERVING else "it answers that it does not serve"


def http_problem(url: str, *, ca: Path | None, timeout_s: float) -> str:
    """What is wrong with what answers a GET of `url`; empty if it is 200 with a certificate that holds."""
    try:
        context = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
        with urllib.request.urlopen(url, timeout=timeout_s, context=context) as answer:
            return "" if answer.status == 200 else f"it answers with status {answer.status}"
    except urllib.error.HTTPError as error:
        return f"it answers with status {error.code}"
    except OSError as error:
        return f"no answer ({getattr(error, 'reason', error)})"


def main() -> None:
    """Ask once, and end with 0, 1 (not there; why is on standard error) or 2 (asked wrongly)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--ca", type=Path, help="the hub's ca.crt, for https")
    parser.add_argument("--timeout-s", type=float, default=5.0)
    asked = parser.parse_args()
    parts = urlsplit(asked.url)
    if parts.scheme == "grpc":
        problem = grpc_problem(parts.netloc, timeout_s=asked.timeout_s)
    elif parts.scheme in ("http", "https"):
        problem = http_problem(asked.url, ca=asked.ca, timeout_s=asked.timeout_s)
    else:
        parser.error("the address begins with grpc://, http:// or https://")
    if problem:
        sys.exit(f"{asked.url}: {problem}")


if __name__ == "__main__":
    main()
