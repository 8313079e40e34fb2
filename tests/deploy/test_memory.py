"""The hub's ceilings of memory hold what the edge lets in at once, beside the rounds."""

from __future__ import annotations

import re

from server.hub import edge
from tests.deploy.places import DEPLOY, documents
from tests.deploy.under_unit import settings

ROUNDS = 2 << 30
"""For link, executor, edge, and the process that merges."""
UNITS = {"m": 1 << 20, "g": 1 << 30, "Mi": 1 << 20, "Gi": 1 << 30}


def size_bytes(words: str) -> int:
    """Bytes of "8g" or "3Gi"."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", words).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def needed_bytes(conf: str) -> int:
    """What the SuperLink, which holds a body twice, and the rounds may want at once."""
    (bodies,) = re.findall(r"limit_conn everybody (\d+);", conf)
    return ROUNDS + 2 * int(bodies) * size_bytes(edge.MAX_BODY)


def test_every_ceiling_of_the_hub_holds_what_the_edge_lets_in() -> None:
    needed = needed_bytes(edge._CONFIGURATION)
    assert needed == 3 << 30
    (compose,) = documents((DEPLOY / "compose" / "hub.yaml").read_text())
    assert size_bytes(compose["services"]["hub"]["mem_limit"]) >= needed
    (pod,) = (
        each["spec"]["template"]["spec"]
        for each in documents((DEPLOY / "kubernetes" / "overlays" / "hub" / "hub.yaml").read_text())
        if each["kind"] == "Deployment"
    )
    for kind in ("requests", "limits"):
        assert size_bytes(pod["containers"][0]["resources"][kind]["memory"]) >= needed
    (share,) = settings(DEPLOY / "systemd" / "fedglia-hub.service")["MemoryMax"]
    (machine,) = re.findall(
        r"The hub's machine has at least (\d+) GB of memory", (DEPLOY / "README.md").read_text()
    )
    assert int(machine) * (1 << 30) * int(share.rstrip("%")) // 100 >= needed
