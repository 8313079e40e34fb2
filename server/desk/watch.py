"""Looking at a run again and again until it ends; the run takes no notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from server.desk.reading import connections, read
from server.desk.states import Standing, standing
from server.hub.folder import Hub

LOOK_S = 1.0
ASK_HUB_S = 5.0
"""Between two questions to the link who is connected; what matters in a round is in the log."""

UNDER_WAY = ("running", "meeting sites", "queued")


def look(hub: Hub, folder: Path) -> Standing:
    """Where a run stands now."""
    return standing(read(hub, folder, nodes=connections(hub)), now=time.time())


def follow(
    hub: Hub,
    folder: Path,
    *,
    ask: Callable[[Hub], Mapping[str, str] | None] = connections,
    look_s: float = LOOK_S,
) -> Iterator[Standing]:
    """Where a run stands, every `look_s` seconds until it ends; the last one is how it ended."""
    nodes, asked_at = ask(hub), time.monotonic()
    while True:
        if time.monotonic() - asked_at > ASK_HUB_S:
            nodes, asked_at = ask(hub), time.monotonic()
        found = standing(read(hub, folder, nodes=nodes), now=time.time())
        yield found
        if found.state not in UNDER_WAY:
            return
        time.sleep(look_s)
