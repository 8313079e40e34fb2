"""Questions to deployed sites, and their answers back, whatever dies in between.

A site that is offline is asked when it comes; one that was gone after it had been asked may still be at
work on the question, or have lost it with its process. It is then sent a second, small question: a site
works on one message after the other, so that when the second is answered and the first is not, the first
is lost and is sent again. Nothing is trained twice only because a line was cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from common import wire
from server.answers import OVERDUE, Answer, no_answer, read
from server.link import Found, Link, result_of

WORKER_DIED = "worker-died"
"""The code of a site whose process was killed at work, which another process may do better."""
MOST_TRIES = 3
"""How often a question is sent to a site that loses it each time."""
POLL_S = 0.15
LONGEST_POLL_S = 2.0
SHORTEST_REST_S = 0.005
PATIENCE = 0.01
"""Pause between two looks for replies: this share of the time waited so far, within the bounds above."""
LIST_S = 0.8
"""Least pause between two lists of the nodes."""

HALF_REPLY_S = 15.0
"""Longest that fetching a reply may go on when the site has sent all of a later one."""

Tell = Callable[..., None]


@dataclass
class _Letter:
    """One message on its way.

    Attributes:
        pushed: the ids of what was sent together, once the SuperLink has it.
        place: the letter's own place among these.
        look: the last look for its reply.
        looked_at: when that began, `time.monotonic` seconds.
    """

    pushed: Future[Sequence[str]]
    place: int = 0
    look: Future[Found] | None = None
    looked_at: float = 0.0

    @property
    def message_id(self) -> str | None:
        """Empty where the SuperLink refused the message; None where that is not known."""
        ids = result_of(self.pushed) if self.pushed.done() else None
        return None if ids is None else ids[self.place]

    @property
    def pulled(self) -> Future[Message | None] | None:
        """The reply that the last look found."""
        return (self.found or {}).get(self.message_id or "")

    @property
    def found(self) -> Found | None:
        """What the last look found; None where it is not over, or nobody answered it."""
        return result_of(self.look) if self.look is not None and self.look.done() else None

    @property
    def under_way(self) -> Future[Any] | None:
        """What has not come back yet, of pushing, looking and pulling."""
        calls = (self.pushed, self.look, self.pulled)
        return next((call for call in calls if call is not None and not call.done()), None)

    def reply(self) -> Message | None:
        pulled = self.pulled
        return result_of(pulled) if pulled is not None and pulled.done() else None


@dataclass
class _Errand:
    """A question and how far it is.

    Attributes:
        activated: when the node had come, at the time it was last sent something.
        probe: the small question that finds out whether the site still has the letter.
        probed_at: when that was answered, `time.monotonic` seconds.
    """

    site: str
    node: int
    content: RecordDict
    letter: _Letter | None = None
    activated: str = ""
    probe: _Letter | None = None
    probed_at: float | None = None
    tries: int = 0
    away: bool = False

    def letters(self) -> list[_Letter]:
        return [letter for letter in (self.letter, self.probe) if letter is not None]

    def start_over(self) -> None:
        self.letter = self.probe = self.probed_at = None


@dataclass
class _Tour:
    """What one call of `carry` knows.

    Attributes:
        unsent: those whose question is to be sent, which is done for all of them at once: they share the
            model, which then goes up once.
        sending: what is being sent.
        send_at: not before; the SuperLink has just failed to take something.
        looked_at: when the last look for replies began, `time.monotonic` seconds.
    """

    link: Link
    kind: str
    tell: Tell
    end: float
    began: float = field(default_factory=time.monotonic)
    unsent: list[_Errand] = field(default_factory=list)
    sending: Future[Sequence[str]] | None = None
    send_at: float = float("-inf")
    looked_at: float = float("-inf")

    @property
    def left_s(self) -> float:
        return self.end - time.monotonic()

    @property
    def pause_s(self) -> float:
        return min(max(POLL_S, PATIENCE * (time.monotonic() - self.began)), LONGEST_POLL_S)

    @property
    def list_pause_s(self) -> float:
        return max(self.pause_s, LIST_S)

    @property
    def look_due_s(self) -> float:
        """Seconds until the next look; not known where a list must come first."""
        return self.looked_at + self.pause_s - time.monotonic() if self.link.is_fresh else math.inf

    @property
    def rest_s(self) -> float:
        """Seconds until there is something to do of which no call that is under way will tell."""
        now = time.monotonic()
        list_due_s = math.inf if self.link.listing else self.link.listed_at + self.list_pause_s - now
        look_due_s = self.look_due_s if self.look_due_s > 0 else math.inf  # else nothing could be looked for
        return max(SHORTEST_REST_S, min(list_due_s, look_due_s, self.pause_s, self.left_s))


def carry(
    link: Link,
    nodes: Mapping[str, int],
    questions: Mapping[str, RecordDict],
    kind: str,
    *,
    deadline_s: float,
    enough: Callable[[], bool],
    stop: Callable[[], None],
    tell: Tell,
) -> Iterator[Answer]:
    """One answer for each site asked, first come first; ends at the deadline whatever Flower does.

    Args:
        link: the line to the SuperLink.
        nodes: site -> node id.
        questions: site -> content.
        kind: message type.
        deadline_s: seconds.
        enough: whether the hub can do without those that are gone.
        stop: called often; raises to end the wait.
        tell: takes the events: who was asked, went away, came back.
    """
    tour = _Tour(link, kind, tell, end=time.monotonic() + deadline_s)
    errands = {site: _Errand(site, nodes[site], content) for site, content in questions.items()}
    while errands and tour.left_s > 0:
        stop()
        link.refresh(tour.list_pause_s, [errand.node for errand in errands.values()])
        for errand in list(errands.values()):
            answer = _step(errand, tour)
            if answer is not None:
                del errands[errand.site]
                yield answer
        if errands and enough() and all(_is_gone(errand, link) for errand in errands.values()):
            break
        _send(tour)
        if tour.look_due_s <= 0:
            _look(errands.values(), tour)
        _rest(errands.values(), tour)
    for errand in errands.values():
        yield _unanswered(errand, tour)


def _step(errand: _Errand, tour: _Tour) -> Answer | None:
    """Do what can be done for one question at this moment; its answer, if that is known."""
    answer = _take_in(errand, tour)
    if answer is not None or not _is_online(errand, tour):
        return answer
    if errand.letter is None:
        if errand.tries >= MOST_TRIES:
            return no_answer(errand.site, "lost", "keeps-failing")
        tour.unsent.append(errand)
    elif errand.activated != tour.link.online[errand.node].activated:
        _ask_if_lost(errand, tour)
    return None


def _take_in(errand: _Errand, tour: _Tour) -> Answer | None:
    """Judge what came in since the last step."""
    letter = errand.letter
    if letter is None:
        return None
    if letter.message_id == "":
        return no_answer(errand.site, "lost", "not-sent")
    if letter.pushed.done() and letter.message_id is None:
        errand.start_over()  # the SuperLink failed while it took the message in, which was not sent
        errand.tries -= 1
        tour.send_at = time.monotonic() + tour.pause_s
        return None
    reply = letter.reply()
    if reply is not None:
        return _judge(errand, reply, tour)
    _judge_probe(errand, tour)
    return None


def _judge(errand: _Errand, reply: Message, tour: _Tour) -> Answer | None:
    """The answer; None where the question was lost on its way and may be sent again."""
    code = reply.error.code if reply.has_error() else None
    if code == ErrorCode.NODE_UNAVAILABLE:
        tour.link.forget(errand.node)
        errand.start_over()
        return None
    answer = read(errand.site, reply)
    lost = code in OVERDUE or code == ErrorCode.CLIENT_APP_CRASHED or answer.code == WORKER_DIED
    if lost and errand.tries < MOST_TRIES and tour.left_s > LONGEST_POLL_S:
        errand.start_over()
        return None
    return answer


def _judge_probe(errand: _Errand, tour: _Tour) -> None:
    """Send the question again where the site answers others, and a look after that found no reply.

    Nor is a reply waited for that came in half: a site sends one after the other, so that the rest of it will
    not come once a later one is there.
    """
    letter, probe = errand.letter, errand.probe
    if letter is None or probe is None:
        return
    if errand.probed_at is None:
        if probe.reply() is not None:
            errand.probed_at = time.monotonic()
        elif probe.pushed.done() and not probe.message_id:
            errand.probe = None
    elif letter.under_way is None:
        if letter.found is not None and letter.looked_at > errand.probed_at:
            errand.start_over()
    elif letter.under_way is letter.pulled and time.monotonic() - errand.probed_at > HALF_REPLY_S:
        errand.start_over()


def _is_online(errand: _Errand, tour: _Tour) -> bool:
    online = errand.node in tour.link.online
    if online == errand.away and tour.link.knows_who_is_online:
        errand.away = not online
        tour.tell("site back" if online else "site away", site=errand.site)
    return online


def _send(tour: _Tour) -> None:
    """Send all questions that are to be sent, unless others are on their way."""
    errands, tour.unsent = tour.unsent, []
    is_sending = tour.sending is not None and not tour.sending.done()
    if not errands or is_sending or time.monotonic() < tour.send_at:
        return
    tour.sending = tour.link.push([_message(errand, errand.content, tour.kind, tour) for errand in errands])
    for place, errand in enumerate(errands):
        errand.activated = tour.link.online[errand.node].activated
        errand.letter = _Letter(tour.sending, place)
        errand.tries += 1
        tour.tell("site asked", site=errand.site, message=tour.kind, again=errand.tries > 1)


def _ask_if_lost(errand: _Errand, tour: _Tour) -> None:
    """The node was gone since it was sent something: send the small question, also in place of an earlier."""
    errand.activated = tour.link.online[errand.node].activated
    question = RecordDict({wire.INSTRUCTION: errand.content[wire.INSTRUCTION]})
    errand.probe = _Letter(tour.link.push([_message(errand, question, wire.HELLO, tour)]))
    errand.probed_at = None


def _message(errand: _Errand, content: RecordDict, kind: str, tour: _Tour) -> Message:
    return Message(content, dst_node_id=errand.node, message_type=kind, ttl=tour.left_s)


def _look(errands: Iterable[_Errand], tour: _Tour) -> None:
    """Begin one look for the replies to all letters of which nothing is under way."""
    safe = [errand for errand in errands if tour.link.may_look(errand.node)]
    letters = [letter for errand in safe for letter in errand.letters() if letter.under_way is None]
    asked = {letter.message_id: letter for letter in letters if letter.message_id and not letter.reply()}
    if asked:
        look, tour.looked_at = tour.link.look(list(asked)), time.monotonic()
        for letter in asked.values():
            letter.look, letter.looked_at = look, tour.looked_at


def _is_gone(errand: _Errand, link: Link) -> bool:
    """Offline for long, and no reply of its is being fetched."""
    fetched = errand.letter is not None and errand.letter.under_way is not None
    return link.is_gone(errand.node) and not fetched


def _rest(errands: Iterable[_Errand], tour: _Tour) -> None:
    """Sleep until something came in, or until it is time for the next look or list."""
    under_way = [letter.under_way for errand in errands for letter in errand.letters()]
    calls: list[Future[Any]] = [call for call in (tour.link.listing, *under_way) if call is not None]
    if calls:
        wait(calls, timeout=tour.rest_s, return_when=FIRST_COMPLETED)
    else:
        time.sleep(tour.rest_s)


def _unanswered(errand: _Errand, tour: _Tour) -> Answer:
    if errand.node not in tour.link.online:
        return no_answer(errand.site, "lost", "offline")
    sent = errand.letter is not None and errand.letter.message_id
    return no_answer(errand.site, "late", "deadline") if sent else no_answer(errand.site, "lost", "not-sent")
