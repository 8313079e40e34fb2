"""Who asks Flower for work hears of it at once: a "there is none" is held back until there may be some.

Flower answers each time at once, so that hub, sites and workers ask several times a second, and still hear of
a message late; one such question costs a SuperLink 10 ms. An answer that was held back never carries a
message: what is there is fetched by asking again, so that a question whose asker died meanwhile takes nothing
along.

These are Flower's private names, as in `common.flower`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

QUESTIONS, LOOKS, PARTS = 16, 4, 8
"""Places of a SuperLink, which answers with forty threads. The edge lets more calls of one address through at
a time than there are places for questions."""

HELD_S = 2.0
"""Longest that an answer is held back."""

SETTLED_S = 0.03
"""So long after the last part of any message the last one is taken for whole: who fetches it sooner waits."""

COME_AGAIN = 1

Call = Callable[..., Any]
"""One of Flower's handlers: what was asked -> the answer."""


@dataclass
class Doorbell:
    """Rung when there may be something; who waits for it waits `HELD_S` at most.

    Attributes:
        places: so many may wait at a time, each in a thread of the server; others do not wait at all.
        settled_s: who waits is told so long after the last ring.
    """

    places: int
    settled_s: float = 0.0
    _rung_at: float = 0.0
    _waiting: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def ring(self) -> None:
        """Tell who waits."""
        with self._changed:
            self._rung_at = time.monotonic()
            self._changed.notify_all()

    def wait(self, asked_at: float) -> None:
        """Until it rang since then, `time.monotonic` seconds."""
        self.wait_for(lambda: self._rung_at > asked_at)

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Until something is there, which is looked at when it rings."""
        with self._changed:
            if self._waiting >= self.places:
                return
            self._waiting += 1
            end = time.monotonic() + HELD_S
            try:
                while (left_s := self._rest_s(end, is_there=is_there())) > 0:
                    self._changed.wait(left_s)
            finally:
                self._waiting -= 1

    def _rest_s(self, end: float, *, is_there: bool) -> float:
        """Seconds to wait: until the end, or until what is there has settled."""
        until = min(end, self._rung_at + self.settled_s) if is_there else end
        return until - time.monotonic()

    def rung_by(self, call: Call) -> Call:
        """The call, which rings once it is done."""

        def ringing(*asked: object, **named: object) -> object:
            given = call(*asked, **named)
            self.ring()
            return given

        return ringing

    def holds(self, call: Call, is_empty: Callable[[Any], bool], after: Call) -> Call:
        """The call, whose empty answer is held back.

        Args:
            call: one of Flower's.
            is_empty: judges its answer.
            after: what is answered after the wait: takes the call's answer, then what was asked.
        """

        def held(*asked: object, **named: object) -> object:
            asked_at = time.monotonic()
            given = call(*asked, **named)
            if is_empty(given):
                self.wait(asked_at)
                return after(given, *asked, **named)
            return given

        return held


def hold_link() -> None:
    """In a SuperLink: sites hear of a message, and a run of a reply and of its parts, when they come."""
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    sites, runs = vars(fleet_handlers), vars(runtime_handlers)
    question, reply, part = Doorbell(QUESTIONS, settled_s=SETTLED_S), Doorbell(LOOKS), Doorbell(PARTS)
    pull_object = runs["pull_object"]  # takes nothing away, and so may be called again
    runs["push_object"] = question.rung_by(runs["push_object"])
    sites["pull_messages"] = question.holds(sites["pull_messages"], lacks_messages, say_come_again)
    sites["push_messages"] = reply.rung_by(sites["push_messages"])
    runs["pull_messages"] = reply.holds(runs["pull_messages"], lacks_messages, lambda given, *_: given)
    sites["push_object"] = part.rung_by(sites["push_object"])
    runs["pull_object"] = part.holds(pull_object, is_on_its_way, lambda _, *asked: pull_object(*asked))


def say_come_again(answer: Any, **_: object) -> Any:  # noqa: ANN401 - Flower's answers have no type in common
    """Tell a node that its answer was held back, in a field that Flower has and does not use."""
    answer.reconnect.reconnect = COME_AGAIN
    return answer


def says_come_again(answer: Any) -> bool:  # noqa: ANN401
    """Whether the node is to ask again at once."""
    return bool(answer.reconnect.reconnect == COME_AGAIN)


def lacks_messages(answer: Any) -> bool:  # noqa: ANN401
    """Whether an answer brings no message."""
    return not answer.messages_list


def is_on_its_way(answer: Any) -> bool:  # noqa: ANN401
    """Whether a part of a message was announced and has not come."""
    return bool(answer.object_found and not answer.object_available)


def hold_worker(is_receiving: Callable[[], bool]) -> Doorbell:
    """In a SuperNode: a worker that asks for a task is answered when there is one, with all of its message.

    Args:
        is_receiving: whether the message of the last task is still coming in.

    Returns:
        To be rung when a message has come in.
    """
    from flwr.common.constant import Status
    from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
    from flwr.supernode.nodestate import NodeState
    from flwr.supernode.servicer.runtime import runtime_handlers

    bell = Doorbell(2)
    acquire = runtime_handlers.acquire_task

    def acquire_task(request: AcquireTaskRequest, state: NodeState) -> AcquireTaskResponse:
        def is_there() -> bool:
            return len(state.get_tasks(statuses=[Status.PENDING])) > is_receiving()

        if is_there():
            return acquire(request, state)
        bell.wait_for(is_there)
        return AcquireTaskResponse()

    vars(runtime_handlers)["acquire_task"] = acquire_task
    return bell
