"""What a run has cost this site so far: SITE/state/<run>/spent.json, by which caps over a run are kept.

A message's cost is written before its work begins, at its most, and corrected after it. So a kill, a crash
or a full disk can only overcount: no order of faults lets a run work or send more than the policy allows.
Beside the sums stands what of them is set aside for the message at work, and by which process, for people.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from client.policy import Policy
from client.settings import lock
from common.errors import FedGliaError, RefusedUpdate, RunError
from common.files import canonical, write_atomic
from common.process_table import born, lives_since, process_namespace

FILE = "spent.json"
HOUR_S = 3600.0
_GRACE_S = 10.0
"""A message that is overdue is given up within so long."""


@dataclass(frozen=True)
class Cost:
    """What one message may take, or took: seconds of work, training steps, bytes sent."""

    seconds: float = 0.0
    steps: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class Reserved:
    """What is set aside for one message, since when (seconds since 1970), and for which process."""

    seconds: float
    steps: int
    bytes_up: int
    since: float
    pid: int
    born: int | None
    pids: int

    @property
    def at_work(self) -> bool:
        """Whether the message may still be at work: in time, and its process, if it can be seen, lives."""
        seen = self.pids == process_namespace()  # else the id is of another container's process
        lives = not seen or lives_since(self.pid, self.born)
        return lives and 0 <= time.time() - self.since <= self.seconds + _GRACE_S


@dataclass(frozen=True)
class Spent:
    """The sums of one run, what is reserved included.

    Attributes:
        plan: hash of its plan.
        start: digest of the model that it starts from; a site keeps a copy of each, so a run has one.
        rounds: numbers of the rounds that were begun.
        reserved: for the message at work; of one that was killed it stays until the next is.
    """

    plan: str
    start: str
    seconds: float = 0.0
    steps: int = 0
    bytes_up: int = 0
    rounds: tuple[int, ...] = ()
    reserved: Reserved | None = None


@dataclass
class Tab:
    """An open account: what was reserved for a message, until `settle` puts what it took in its place."""

    folder: Path
    policy: Policy
    reserved: Cost
    began: float = field(default_factory=time.monotonic)
    settled: bool = False

    def settle(self, *, steps: int, bytes_up: int) -> None:
        """Count what the message really took; the seconds are those since it was opened. Once.

        Raises:
            RefusedUpdate: code `cap-bytes`: what is about to be sent is more than the run may send. It is
                counted all the same.
            RunError: the sums cannot be written.
        """
        if self.settled:
            return
        self.settled = True
        with _open(self.folder) as before:
            assert before is not None
            after = replace(
                before,
                seconds=max(0.0, before.seconds - self.reserved.seconds) + time.monotonic() - self.began,
                steps=max(0, before.steps - self.reserved.steps) + steps,
                bytes_up=max(0, before.bytes_up - self.reserved.bytes_up) + bytes_up,
                reserved=None,
            )
            _write(self.folder, after)
        if after.bytes_up > self.policy.max_bytes:
            raise _over("bytes", f"{after.bytes_up} bytes with this reply", f"{self.policy.max_bytes}")


def reserve(
    folder: Path, policy: Policy, cost: Cost, *, plan: str, start: str, round_number: int | None
) -> Tab:
    """Open an account for a message, if the run may still cost as much.

    Args:
        folder: SITE/state/<run>.
        policy: this hospital's.
        cost: the most that the message may take.
        plan: hash of the run's plan.
        start: digest of the model that it starts from.
        round_number: of a message that trains in a round; None for any other.

    Raises:
        RefusedUpdate: code `cap-hours`, `cap-steps`, `cap-bytes`, `cap-rounds` or `cap-runs`, or
            `not-planned`: the run was begun with another plan or model. Nothing changed.
        RunError: code `disk`: the sums cannot be written; `ledger`: they cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"state: no folder can be made ({error.strerror}); make room", code="disk") from error
    try:
        with _open(folder) as known:
            if known is None:
                _check_runs(folder, policy, plan)
            before = known or Spent(plan, start)
            if (before.plan, before.start) != (plan, start):
                raise RefusedUpdate("this run was begun with another plan or model", code="not-planned")
            after = _added(before, cost, round_number)
            _check(policy, before, after)
            _write(folder, after)
    except FedGliaError:
        with suppress(OSError):  # a run that was refused leaves nothing; one that was begun is not empty
            folder.rmdir()
        raise
    return Tab(folder, policy, cost)


def spent(folder: Path) -> Spent | None:
    """The sums of the run in SITE/state/<run>; None where it never cost anything.

    Raises:
        RunError: code `ledger`: the file is not one that was written here.
    """
    try:
        words = json.loads((folder / FILE).read_bytes())
        return _parsed(words)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise RunError(
            f"{folder.name}: {FILE} cannot be read, so what this run may still cost is not known: put a copy "
            "back, or remove it to count from zero",
            code="ledger",
        ) from None


def _added(before: Spent, cost: Cost, round_number: int | None) -> Spent:
    rounds = {*before.rounds, *(() if round_number is None else (round_number,))}
    return replace(
        before,
        seconds=before.seconds + cost.seconds,
        steps=before.steps + cost.steps,
        bytes_up=before.bytes_up + cost.bytes_up,
        rounds=tuple(sorted(rounds)),
        reserved=_reserved(cost),
    )


def _reserved(cost: Cost) -> Reserved:
    pid = os.getpid()
    return Reserved(**asdict(cost), since=time.time(), pid=pid, born=born(pid), pids=process_namespace())


def _check(policy: Policy, before: Spent, after: Spent) -> None:
    """Hours are compared before, as what a message will take is known at its most alone; the others after."""
    if before.seconds >= policy.max_hours * HOUR_S:
        raise _over("hours", f"{before.seconds / HOUR_S:.2f} hours of work", f"{policy.max_hours:g}")
    if after.steps > policy.max_steps:
        raise _over("steps", f"{after.steps} training steps with this message", f"{policy.max_steps}")
    if after.bytes_up > policy.max_bytes:
        raise _over("bytes", f"{after.bytes_up} bytes with this reply", f"{policy.max_bytes}")
    if len(after.rounds) > policy.max_rounds:
        raise _over("rounds", f"{len(after.rounds)} rounds with this one", f"{policy.max_rounds}")


def _check_runs(folder: Path, policy: Policy, plan: str) -> None:
    others = [path.parent for path in folder.parent.glob(f"*/{FILE}")]
    same = sum(known is not None and known.plan == plan for known in map(spent, others))
    if same >= policy.max_runs:
        raise _over("runs", f"{same} runs of this plan were begun before", f"{policy.max_runs}")


def _over(what: str, found: str, allowed: str) -> RefusedUpdate:
    return RefusedUpdate(f"{found}; max_{what} is {allowed}", code=f"cap-{what}")


@contextmanager
def _open(folder: Path) -> Iterator[Spent | None]:
    """The sums as they are, while no other process changes them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock(descriptor, what=FILE)
        yield spent(folder)
    finally:
        os.close(descriptor)


def _write(folder: Path, sums: Spent) -> None:
    write_atomic(folder / FILE, canonical({"schema": 1, **asdict(sums)}), mode=0o600)


def _parsed(words: Mapping[str, Any]) -> Spent:
    sums = Spent(
        str(words["plan"]),
        str(words["start"]),
        float(words["seconds"]),
        int(words["steps"]),
        int(words["bytes_up"]),
        tuple(int(number) for number in words["rounds"]),
        _parsed_reserved(words.get("reserved")),
    )
    if not all(math.isfinite(x) and x >= 0 for x in (sums.seconds, sums.steps, sums.bytes_up)):
        raise ValueError("a sum below zero")
    return sums


def _parsed_reserved(words: Mapping[str, Any] | None) -> Reserved | None:
    """An earlier version wrote none."""
    if words is None:
        return None
    return Reserved(
        *(float(words["seconds"]), int(words["steps"]), int(words["bytes_up"]), float(words["since"])),
        *(int(words["pid"]), None if words["born"] is None else int(words["born"]), int(words["pids"])),
    )
