"""The worker: each message in a fork of a warm process, none of which can cost more than itself."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.corestate import in_memory_corestate

from client import limits, worker
from common import wire
from common.tasks import Task, TaskSource
from simulation.grid import assume_identity
from tests.local_node import SECRET, put_message, serving

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class StubTask:
    """A task whose answers are files, so that a fork's answers are seen."""

    folder: Path
    ttl: float = 30.0
    wanted: bool = True
    unreadable: bool = False
    hand_over_s: float = 0.0
    dies: bool = False
    message: Message = field(init=False)

    def __post_init__(self) -> None:
        assume_identity(1)
        self.message = Message(RecordDict(), dst_node_id=2, message_type="query.hello", ttl=self.ttl)

    def is_wanted(self) -> bool:
        return self.wanted

    def answer(self, reply: Message) -> None:
        time.sleep(self.hand_over_s)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        said = wire.read_refusal(reply.content) or "answered"
        (self.folder / f"{said}.{os.getpid()}").touch()

    def answers(self) -> dict[str, int]:
        return {path.stem: int(path.suffix[1:]) for path in self.folder.iterdir()}


class Source:
    """Gives the tasks once, then ends the worker as Ctrl-C would."""

    def __init__(self, *tasks: StubTask) -> None:
        self.tasks = list(tasks)

    def take(self) -> StubTask | None:
        if not self.tasks:
            raise KeyboardInterrupt
        return self.tasks.pop(0)


def serve(answer: Callable[[Any], Message], *tasks: StubTask, resident: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        worker.work(cast(Any, Source(*tasks)), answer, refuse=refuse, resident=resident)


def refuse(task: StubTask | Task, code: str) -> Message:
    return Message(wire.pack_refusal(code, correlation="0" * 12), reply_to=task.message)


def reply_to(task: StubTask | Task) -> Message:
    return Message(RecordDict({wire.METRICS: wire.pack_metrics({})}), reply_to=task.message)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.05)
    monkeypatch.setattr(worker, "GRACE_S", 0.2)
    monkeypatch.setattr(worker, "quicken", lambda: None)
    monkeypatch.setattr(worker, "gc", SimpleNamespace(freeze=lambda: None))


def test_each_message_is_answered_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = StubTask(tmp_path / "one"), StubTask(tmp_path / "two")
    serve(reply_to, one, two)
    assert len({one.answers()["answered"], two.answers()["answered"], os.getpid()}) == 3


def test_a_resident_worker_answers_in_its_own_process(tmp_path: Path) -> None:
    task = StubTask(tmp_path)
    serve(reply_to, task, resident=True)
    assert task.answers() == {"answered": os.getpid()}


def test_a_process_that_dies_is_answered_for(tmp_path: Path) -> None:
    task = StubTask(tmp_path)

    def die(_: StubTask) -> Message:
        os.kill(os.getpid(), signal.SIGKILL)
        return reply_to(task)

    serve(die, task)
    assert task.answers() == {"worker-died": os.getpid()}


def test_a_reply_that_the_node_did_not_take_is_not_replaced_by_another(tmp_path: Path) -> None:
    """Its run was ended meanwhile; a second reply would be sent in place of the next message's own."""
    task = StubTask(tmp_path)

    def refused(_: StubTask) -> Message:
        raise ConnectionError("the SuperNode did not take the reply")

    serve(refused, task)
    assert task.answers() == {}


def test_an_exception_is_answered_for_and_the_worker_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    bad, good = StubTask(tmp_path / "bad"), StubTask(tmp_path / "good")

    def answer(task: StubTask) -> Message:
        if task is bad:
            raise ValueError("MRN-CANARY")
        return reply_to(task)

    serve(answer, bad, good)
    assert list(bad.answers()) == ["worker-died"]
    assert list(good.answers()) == ["answered"]


def test_work_ends_at_the_deadline_and_says_so(tmp_path: Path) -> None:
    task = StubTask(tmp_path, ttl=0.3)
    began = time.monotonic()
    serve(lambda _: time.sleep(60) or reply_to(task), task)  # type: ignore[func-returns-value]
    assert time.monotonic() - began < 20
    assert task.answers() == {"expired": os.getpid()}


def test_work_that_hears_no_alarm_is_killed_after_the_deadline(tmp_path: Path) -> None:
    task = StubTask(tmp_path, ttl=0.3)

    def deaf(_: StubTask) -> Message:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)
        return reply_to(task)

    began = time.monotonic()
    serve(deaf, task)
    assert time.monotonic() - began < 20
    assert task.answers() == {"expired": os.getpid()}


def test_work_that_nobody_wants_any_more_is_ended_without_an_answer(tmp_path: Path) -> None:
    task = StubTask(tmp_path, wanted=False)
    began = time.monotonic()
    serve(lambda _: time.sleep(60) or reply_to(task), task)  # type: ignore[func-returns-value]
    assert time.monotonic() - began < 20
    assert task.answers() == {}


def test_no_deadline_breaks_into_a_reply_that_leaves(tmp_path: Path) -> None:
    """Half a reply would hold the node up, and the parent would announce a second."""
    task = StubTask(tmp_path, ttl=0.5, hand_over_s=1.5)
    serve(reply_to, task)
    assert list(task.answers()) == ["answered"]


def test_a_reply_that_is_not_taken_in_time_is_given_up_without_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "HAND_OVER_S", 0.3)
    task = StubTask(tmp_path, hand_over_s=60)
    began = time.monotonic()
    serve(reply_to, task)
    assert time.monotonic() - began < 20
    assert task.answers() == {}


def test_a_process_that_dies_over_its_reply_gets_no_second_one(tmp_path: Path) -> None:
    task = StubTask(tmp_path, dies=True)
    serve(reply_to, task)
    assert task.answers() == {}


def test_a_message_that_cannot_be_read_is_refused_and_the_worker_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    bad, good = StubTask(tmp_path / "bad", unreadable=True), StubTask(tmp_path / "good")
    serve(reply_to, bad, good)
    assert list(bad.answers()) == ["malformed"]
    assert list(good.answers()) == ["answered"]


@pytest.mark.parametrize(("ttl", "left_s"), [(20.0, 20.0), (-5.0, 0.0), (1e9, 86_400.0), (float("nan"), 0.0)])
def test_the_time_for_a_message_is_bounded_whatever_the_hub_says(
    tmp_path: Path, ttl: float, left_s: float
) -> None:
    metadata = SimpleNamespace(created_at=time.time(), ttl=ttl)
    task = SimpleNamespace(message=SimpleNamespace(metadata=metadata))
    assert worker.seconds_left(cast(Any, task)) == pytest.approx(left_s, abs=5)


# Resident: the work and its watch in one process


def test_a_resident_worker_tells_the_node_that_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own local server takes a task away whose worker was silent for two intervals."""
    monkeypatch.setattr(in_memory_corestate, "HEARTBEAT_DEFAULT_INTERVAL", 1.0)
    monkeypatch.setattr(worker, "BEAT_S", 0.3)
    with serving() as (factory, address):
        put_message(factory)
        source = TaskSource(address, SECRET)

        def train(task: Task) -> Message:
            time.sleep(4)
            return reply_to(task)

        taken = iter([source.take()])
        with pytest.raises(StopIteration):
            worker.work(
                cast(Any, SimpleNamespace(take=lambda: next(taken))), train, refuse=refuse, resident=True
            )
        (reply,) = factory.state().get_messages_legacy(is_reply=True)
        assert not reply.has_error()


DEAF = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})"


def ends(answer: str, *, ttl: float, wanted: bool, folder: Path) -> int:
    """Exit status of a resident worker of its own whose app is these words."""
    script = f"""
import signal, time
from types import SimpleNamespace
from client import worker
worker.BEAT_S, worker.GRACE_S = 0.05, 0.2
metadata = SimpleNamespace(created_at=time.time(), ttl={ttl})
def reply(words):
    open({str(folder)!r} + "/" + words, "x").close()
task = SimpleNamespace(message=SimpleNamespace(metadata=metadata), is_wanted=lambda: {wanted}, answer=reply,
                       unreadable=False)
def answer(task):
    {answer}
worker.work(SimpleNamespace(take=lambda: task), answer, refuse=lambda task, code: code, resident=True)
"""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    ("answer", "ttl", "wanted", "said"),
    [
        ("time.sleep(60)", 0.3, True, ["expired"]),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); time.sleep(60)",
            0.3,
            True,
            ["expired"],
        ),
        ("time.sleep(60)", 30, False, []),
    ],
    ids=["overdue", "overdue and deaf", "unwanted"],
)
def test_a_resident_worker_ends_with_work_that_cannot_go_on(
    tmp_path: Path, answer: str, ttl: float, wanted: bool, said: list[str]
) -> None:
    assert ends(answer, ttl=ttl, wanted=wanted, folder=tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == said


def test_a_supernode_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = StubTask(tmp_path)
    source = Source(task)
    gone = [ConnectionError("away")]

    def take() -> StubTask | None:
        if gone:
            raise gone.pop()
        return Source.take(source)

    monkeypatch.setattr(source, "take", take)
    with pytest.raises(KeyboardInterrupt):
        worker.work(cast(Any, source), cast(Any, reply_to), refuse=refuse)
    assert list(task.answers()) == ["answered"]


def test_training_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from types import SimpleNamespace
from client import worker
from common.tasks import Task
metadata = SimpleNamespace(created_at=time.time(), ttl=60.0)
message = SimpleNamespace(metadata=metadata)
task = SimpleNamespace(message=message, is_wanted=lambda: True, answer=lambda reply: None, unreadable=False)
def answer(task):
    draft = Path({str(tmp_path)!r}, "draft")
    draft.write_text(str(os.getpid()))
    draft.rename(Path({str(tmp_path)!r}, "child"))
    time.sleep(60)
worker.work(SimpleNamespace(take=lambda: task), answer, refuse=None)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        wait_until(lambda: (tmp_path / "child").is_file())
    finally:
        process.kill()
        process.wait()
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not alive(child))


def test_memory_beyond_the_policy_fails_in_that_message_alone(tmp_path: Path) -> None:
    task = StubTask(tmp_path)

    def greedy(_: StubTask) -> Message:
        limits.limit_memory(3 * 10**9)
        with pytest.raises(MemoryError):
            bytearray(4 * 10**9)
        return reply_to(task)

    before = resource.getrlimit(resource.RLIMIT_DATA)
    serve(greedy, task)
    assert list(task.answers()) == ["answered"]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool], *, at_most_s: float = 60.0) -> None:
    end = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
