"""The site's worker: stays warm, takes messages from the SuperNode beside it, and answers them.

Flower starts a Python process for each message, which imports for seconds. This one imports once and forks
for each message, so that a crash, a leak or a message that outlives its deadline costs that message alone.
With `resident`, for GPUs whose context takes long to make, messages are answered in this process and an
overdue one ends it; its supervisor starts another.

It is the only program of a site that opens scans, and it answers through the guard alone.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message

from client import guard, records
from client.app import app
from client.limits import limit_memory
from client.policy import Policy
from client.site import open_site
from common.errors import FedGliaError, RunError, SiteError
from common.fleet import LONGEST_S
from common.flower import quicken
from common.process_table import end_with
from common.service_logs import LINE, TIME, run_program
from common.tasks import Task, TaskSource

Answer = Callable[[Task], Message]
Refuse = Callable[[Task, str], Message]
"""A task and a code -> the reply of a message that could not be answered by its own process."""

PAUSE_S, AWAY_PAUSE_S = 0.02, 0.5
"""Between two looks for a message, where the node holds its answer back until there is one, and where no node
answers."""
BEAT_S = 2.0
GRACE_S = 5.0
"""An overdue message ends itself at its deadline; one that cannot is killed so much later."""
HAND_OVER_S = 120.0
"""Longest that the node, beside it, may take for a whole reply. No deadline breaks into it: half a reply
helps nobody."""

GIVEN_UP = {
    "expired": "the message was not answered by its deadline; its work was ended",
    "worker-died": "the process that worked on the message died: out of memory, killed, or a fault",
    "malformed": "the message could not be read: what came is not what it says it is",
}
"""Code of a message that the worker gave up -> what happened, in words."""

log = logging.getLogger(__name__)


class Overdue(BaseException):
    """The message's deadline is over; no `except Exception` on the way may swallow it."""


def work(source: TaskSource, answer: Answer, *, refuse: Refuse, resident: bool = False) -> None:
    """Answer messages until a signal ends this process."""
    quicken()
    gc.freeze()  # what was imported is shared with every fork, and never looked at again
    while True:
        try:
            task = source.take()
        except ConnectionError as error:
            log.debug("%s", error)
            time.sleep(AWAY_PAUSE_S)
            continue
        if task is None:
            time.sleep(PAUSE_S)
            continue
        if task.unreadable:
            _give_up(task, refuse(task, "malformed"))
            continue
        (_answer_here if resident else _answer_in_fork)(task, answer, refuse)


def seconds_left(task: Task) -> float:
    """Until the hub no longer waits for this message: at least 0, at most a day, whatever the hub says."""
    metadata = task.message.metadata
    left_s = metadata.created_at + metadata.ttl - time.time()
    return min(max(0.0, left_s), LONGEST_S)  # in this order: NaN is 0


@dataclass
class Vigil:
    """Watches over one message: is it overdue, does anybody still want it, has its reply begun to leave?

    Attributes:
        leaves: whether the reply has begun to leave. From then on nothing but its own bound ends it, and no
            second reply is made: the node would send that in place of the next message's own.
    """

    task: Task
    leaves: Callable[[], bool]
    _end: float = field(init=False)
    _left: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + seconds_left(self.task) + GRACE_S

    def look_s(self) -> float:
        """Seconds until the next look."""
        return min(BEAT_S, max(self._end - time.monotonic(), 0.0))

    def verdict(self) -> str | None:
        """Tell the node that the work goes on; None: it may. Else `expired`, `unwanted` or `stuck`."""
        wanted = self.task.is_wanted()
        if self.leaves() and not self._left:
            self._left, self._end = True, time.monotonic() + HAND_OVER_S
        if time.monotonic() >= self._end:
            return "stuck" if self._left else "expired"
        return None if wanted or self._left else "unwanted"


def _answer_here(task: Task, answer: Answer, refuse: Refuse) -> None:
    leaving, done = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch_here, args=(task, refuse, leaving, done), daemon=True)
    watch.start()
    try:
        with _deadline(seconds_left(task)):
            reply = answer(task)
        leaving.set()
        task.answer(reply)
    except Overdue:
        leaving.set()
        _give_up(task, refuse(task, "expired"))
        os._exit(1)  # whatever was half done, its memory and its locks go with this process
    except ConnectionError as error:
        log.warning("%s", error)
    finally:
        done.set()
    watch.join()


def _watch_here(task: Task, refuse: Refuse, leaving: threading.Event, done: threading.Event) -> None:
    """Beside a message that is answered in this process: what cannot go on ends the process."""
    vigil = Vigil(task, leaving.is_set)
    while not done.wait(vigil.look_s()):
        verdict = vigil.verdict()
        if verdict is None or done.is_set():
            continue
        if verdict == "expired":
            _give_up(task, refuse(task, verdict))
        os._exit(1)


def _answer_in_fork(task: Task, answer: Answer, refuse: Refuse) -> None:
    with mmap.mmap(-1, 1) as shared:
        worker = os.getpid()
        child = os.fork()
        if child == 0:
            _be_the_child(task, answer, shared, worker=worker)
        code = _watch(child, task, shared)
    if code is not None:
        _give_up(task, refuse(task, code))


def _be_the_child(task: Task, answer: Answer, shared: mmap.mmap, *, worker: int) -> None:
    status = 1
    try:
        end_with(worker, signal.SIGKILL)  # a worker that is killed leaves no training that nobody waits for
        with _deadline(seconds_left(task)):
            reply = answer(task)
        shared[0] = 1
        task.answer(reply)
        status = 0
    except Overdue:
        status = 3
    except ConnectionError as error:
        # A second reply would be one too many: the SuperNode sends it in place of the next message's own.
        log.warning("%s", error)
        status = 0
    except BaseException as error:  # nothing may return from here into the parent's loop
        log.error("a message was not answered (%s)", type(error).__name__)
    finally:
        os._exit(status)


def _watch(child: int, task: Task, shared: mmap.mmap) -> str | None:
    """Wait for the child; the code to answer with where it did not answer itself."""
    handle = os.pidfd_open(child)
    vigil = Vigil(task, lambda: shared[0] == 1)
    try:
        while not _ended(handle, within_s=vigil.look_s()):
            verdict = vigil.verdict()
            if verdict is not None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                os.waitpid(child, 0)
                return "expired" if verdict == "expired" else None  # what nobody wants needs no answer
    finally:
        os.close(handle)
    _, status = os.waitpid(child, 0)
    if shared[0] == 1:
        return None
    return {0: None, 3: "expired"}.get(os.waitstatus_to_exitcode(status), "worker-died")


def _ended(handle: int, *, within_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _give_up(task: Task, refusal: Message) -> None:
    with contextlib.suppress(ConnectionError):
        task.answer(refusal)


@contextlib.contextmanager
def _deadline(left_s: float) -> Iterator[None]:
    """Raise Overdue in the block once the time is over."""

    def end(signum: int, frame: object) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(left_s, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _secret(folder: Path) -> bytes:
    try:
        return (folder / "secret").read_bytes()
    except OSError as error:
        raise SiteError(
            f"{folder.name}: its secret cannot be read ({error.strerror}); see `fedglia site check`"
        ) from None


def main(folder: Path) -> None:
    """Serve the site in `folder`.

    Raises:
        SiteError: site.toml or the secret cannot be used, or a record was changed.
    """
    logging.basicConfig(level=logging.INFO, format=LINE, datefmt=TIME)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every look for a message

    def answer(task: Task) -> Message:
        came_with = (task.bundle, task.bundle_hash)
        with contextlib.suppress(FedGliaError):  # the guard refuses where site.toml cannot be read
            policy = open_site(folder).policy
            limit_memory((policy or Policy()).memory_bytes)
        return guard.answer(folder, task.message, task.context, app, bundle=came_with)

    def refuse(task: Task, code: str) -> Message:
        return guard.refuse(folder, task.message, RunError(GIVEN_UP[code], code=code), by="worker")

    site = open_site(folder)
    records.check(folder)
    source = TaskSource(f"127.0.0.1:{site.runtime_port}", _secret(folder))
    work(source, answer, refuse=refuse, resident=site.worker == "resident")


if __name__ == "__main__":
    run_program(lambda: main(Path(sys.argv[1]).absolute()))
