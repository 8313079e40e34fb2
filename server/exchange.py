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
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common import wire

POLL_S = 0.02
LONGEST_POLL_S = 2.0
PATIENCE = 0.005
"""Pause between two looks for answers: this share of the time waited so far, within the bounds above. A look
costs microseconds in process and a request when deployed."""

_OVERDUE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
"""Flower's words for a message or a reply whose time to live is over."""

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
    began = time.monotonic()
    end = began + deadline_s
    waiting: dict[str, str] = {}
    for site, content in questions.items():
        message = Message(content, dst_node_id=nodes[site], message_type=kind, ttl=deadline_s)
        message_id = next(iter(grid.push_messages([message])), None)
        if message_id is None:  # Flower's way to say that it did not take the message
            yield Answer(site, "lost", code="not-sent", received_at=time.monotonic())
        else:
            waiting[message_id] = site
    while waiting and time.monotonic() < end:
        before = len(waiting)
        yield from _look(grid, waiting, end)
        if len(waiting) == before:
            _pause(time.monotonic() - began, left_s=end - time.monotonic())
    for site in waiting.values():
        yield Answer(site, "late", code="deadline", received_at=time.monotonic())


def _look(grid: Grid, waiting: dict[str, str], end: float) -> Iterator[Answer]:
    """Answers that are there, each taken out of `waiting` (message id -> site)."""
    for message_id in list(waiting):
        # Without workers a look runs the site, so that one look can outlast the deadline.
        if time.monotonic() >= end:
            return
        for reply in grid.pull_messages([message_id]):
            yield _read(waiting.pop(message_id), reply)


def _pause(waited_s: float, *, left_s: float) -> None:
    wanted = min(max(POLL_S, PATIENCE * waited_s), LONGEST_POLL_S)
    time.sleep(max(0.0, min(wanted, left_s)))


def _read(site: str, reply: Message) -> Answer:
    now = time.monotonic()
    if reply.has_error():
        late = reply.error.code in _OVERDUE
        return Answer(site, "late" if late else "lost", code=f"flower-{reply.error.code}", received_at=now)
    refusal = wire.read_refusal(reply.content)
    if refusal is not None:
        return Answer(site, "refused", code=refusal, received_at=now)
    return Answer(site, "answered", content=reply.content, received_at=now)
