"""What becomes of a question to a site: content, a refusal, a loss, or nothing in time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from common import wire

OVERDUE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
"""Flower's words for a message or a reply whose time to live is over, or that it no longer has."""

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


def no_answer(site: str, outcome: Outcome, code: str) -> Answer:
    """The answer of a site that gave none."""
    return Answer(site, outcome, code=code, received_at=time.monotonic())


def read(site: str, reply: Message) -> Answer:
    """What a reply says; an error is Flower's, a refusal the site's own."""
    if reply.has_error():
        code = reply.error.code
        return no_answer(site, "late" if code in OVERDUE else "lost", f"flower-{code}")
    refusal = wire.read_refusal(reply.content)
    if refusal is not None:
        return no_answer(site, "refused", refusal)
    return Answer(site, "answered", content=reply.content, received_at=time.monotonic())
