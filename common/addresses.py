"""An address as hub and sites write it: HOST:PORT, and nothing that means more where it is written down."""

from __future__ import annotations

import re

from common.errors import InputError
from common.terminal import printable

_ADDRESS = re.compile(
    r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?):(?P<port>[0-9]{1,5})"
)


def split_address(address: str) -> tuple[str, int]:
    """Host, an IPv6 one without brackets, and port of HOST:PORT or [IPv6]:PORT.

    Raises:
        InputError: it is neither.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        shown = printable(address, longest=100)
        raise InputError(f"address '{shown}': is not HOST:PORT; give it as in hub.example.org:8443")
    return found["host"].strip("[]"), int(found["port"])
