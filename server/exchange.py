"""Ask sites and collect what they answer, each as it comes, never longer than a deadline.

Every wait of the hub is this one. A site's answer is content, a refusal (a code and a correlation id,
never words), a loss (the transport gave the site up) or nothing in time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common import wire

POLL_S = 0.02
"""Pause between two looks for answers; a look costs microseconds in process and a request when deployed."""

Outcome = Literal["answered", "refused", "late", "lost"]


@dataclass(frozen=True)
class Answer:
    """What became of one question.

    Attributes:
        code: why the site refused or was lost; empty where it answered.
        received_at: `time.monotonic` seconds.
    """

    site: str
    outcome: Outcome
    content: RecordDict | None = None
    code: str = ""
    received_at: float = 0.0


def ask(
    grid: Grid, nodes: Mapping[str, int], questions: Mapping[str, RecordDict], kind: str, *, deadline_s: float
) -> Iterator[Answer]:
    """Send each site its question and yield one answer a site: first come first, the late ones last.

    Args:
        grid: Flower's way to the sites.
        nodes: site name -> node id.
        questions: site name -> content; the sites asked are these.
        kind: message type, one of those in `common.wire`.
        deadline_s: seconds until who has not answered is late; also the messages' time to live.
    """
    end = time.monotonic() + deadline_s
    messages = [
        Message(content, dst_node_id=nodes[site], message_type=kind, ttl=deadline_s)
        for site, content in questions.items()
    ]
    waiting = dict(zip(grid.push_messages(messages), questions, strict=True))
    while waiting and time.monotonic() < end:
        arrived = False
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                arrived = True
                yield _read(waiting.pop(message_id), reply)
        if not arrived:
            time.sleep(POLL_S)
    for site in waiting.values():
        yield Answer(site, "late", code="deadline", received_at=time.monotonic())


def _read(site: str, reply: Message) -> Answer:
    now = time.monotonic()
    if reply.has_error():
        return Answer(site, "lost", code=f"flower-{reply.error.code}", received_at=now)
    refusal = wire.read_refusal(reply.content)
    if refusal is not None:
        return Answer(site, "refused", code=refusal, received_at=now)
    return Answer(site, "answered", content=reply.content, received_at=now)
