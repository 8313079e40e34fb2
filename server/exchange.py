"""Ask sites and collect what they answer, each as it comes, never longer than a deadline.

Every wait of the hub is this one. A site's answer is content, a refusal (a code and a correlation id,
never words), a loss (the transport gave the site up) or nothing in time. Sites in a simulation are asked
here, one look after the other and always in the same order; deployed ones by `server.courier`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.answers import Answer, no_answer, read
from server.courier import carry
from server.link import Link
from server.run import Run

POLL_S = 0.02
LONGEST_POLL_S = 2.0
PATIENCE = 0.005
"""Pause between two looks for answers: this share of the time waited so far, within the bounds above. A look
costs microseconds in process."""

Line: TypeAlias = Grid | Link
"""How the hub reaches its sites: Flower's grid of a simulation, or a deployed hub's link."""


def ask(
    line: Line,
    nodes: Mapping[str, int],
    questions: Mapping[str, RecordDict],
    kind: str,
    *,
    deadline_s: float,
    run: Run | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """Send each site its question and yield one answer a site: first come first, the late ones last.

    Args:
        line: the way to the sites.
        nodes: site name -> node id.
        questions: site name -> content; the sites asked are these.
        kind: message type, one of those in `common.wire`.
        deadline_s: seconds until who has not answered is late; also the messages' time to live.
        run: is told what becomes of deployed sites meanwhile, and ends the wait when it is to stop.
        enough: whether the hub can do without the deployed sites that are gone for now.

    Raises:
        StoppedError: the run is to stop.
    """
    stop = run.check_stop if run is not None else _go_on
    if isinstance(line, Link):
        tell = run.event if run is not None else _say_nothing
        yield from carry(
            line, nodes, questions, kind, deadline_s=deadline_s, enough=enough, stop=stop, tell=tell
        )
        return
    began = time.monotonic()
    end = began + deadline_s
    waiting: dict[str, str] = {}
    for site, content in questions.items():
        message = Message(content, dst_node_id=nodes[site], message_type=kind, ttl=deadline_s)
        message_id = next(iter(line.push_messages([message])), None)
        if message_id is None:  # Flower's way to say that it did not take the message
            yield no_answer(site, "lost", "not-sent")
        else:
            waiting[message_id] = site
    while waiting and time.monotonic() < end:
        stop()
        before = len(waiting)
        yield from _look(line, waiting, end)
        if len(waiting) == before:
            _pause(time.monotonic() - began, left_s=end - time.monotonic())
    for site in waiting.values():
        yield no_answer(site, "late", "deadline")


def _look(grid: Grid, waiting: dict[str, str], end: float) -> Iterator[Answer]:
    """Answers that are there, each taken out of `waiting` (message id -> site)."""
    for message_id in list(waiting):
        # Without workers a look runs the site, so that one look can outlast the deadline.
        if time.monotonic() >= end:
            return
        for reply in grid.pull_messages([message_id]):
            yield read(waiting.pop(message_id), reply)


def _pause(waited_s: float, *, left_s: float) -> None:
    wanted = min(max(POLL_S, PATIENCE * waited_s), LONGEST_POLL_S)
    time.sleep(max(0.0, min(wanted, left_s)))


def _go_on() -> None:
    pass


def _say_nothing(kind: str, **facts: object) -> None:
    pass
