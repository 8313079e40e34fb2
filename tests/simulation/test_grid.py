"""The grid on one machine, and all that it touches of Flower's private parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from simulation.grid import GONE, HUB_NODE, RAISED, RUN_ID, TOO_LATE, LocalGrid, assume_identity
from tests.simulation.echo import ECHO, RAISE, SLEEP, load_echo_app
from tests.simulation.processes import left_of_group, needs_proc, wait_until_gone

NODES = (HUB_NODE + 1, HUB_NODE + 2)
CONFIGS = {node: {"name": f"site-{node}"} for node in NODES}
PATIENCE_S = 60.0


@pytest.fixture(params=[0, 2], ids=["in process", "two workers"])
def grid(request: pytest.FixtureRequest) -> Iterator[LocalGrid]:
    with LocalGrid(CONFIGS, load_echo_app, workers=request.param) as grid:
        yield grid


@pytest.fixture
def workers() -> Iterator[LocalGrid]:
    with LocalGrid(CONFIGS, load_echo_app, workers=2) as grid:
        warm_up(grid)
        yield grid


def echo(node: int, *, word: str = "hello", ttl: float | None = None) -> Message:
    return Message(RecordDict({"words": ConfigRecord({"word": word})}), node, ECHO, ttl=ttl)


def sleep(node: int, note: Path, *, seconds: float, ttl: float | None = None) -> Message:
    words = ConfigRecord({"note": str(note), "seconds": seconds})
    return Message(RecordDict({"words": words}), node, SLEEP, ttl=ttl)


def ask(grid: LocalGrid, *messages: Message) -> list[Message]:
    """Replies in the order of the messages; fails if one stays away."""
    replies = list(grid.send_and_receive(messages, timeout=PATIENCE_S))
    by_id = {reply.metadata.reply_to_message_id: reply for reply in replies}
    return [by_id[message.metadata.message_id] for message in messages]


def facts(reply: Message) -> dict[str, object]:
    return dict(reply.content.config_records["facts"])


def warm_up(grid: LocalGrid) -> list[int]:
    """Makes sure that both workers have loaded their app; returns their process ids."""
    return sorted({int(str(facts(reply)["pid"])) for _ in range(2) for reply in ask(grid, *map(echo, NODES))})


def wait_for(note: Path, lines: int) -> list[list[str]]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = [line.split() for line in note.read_text().splitlines()] if note.exists() else []
        if len(found) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{note} did not get {lines} lines")


class TestContractWithFlower:
    def test_a_message_takes_its_sender_from_the_identity(self) -> None:
        assume_identity(42)
        message = echo(NODES[0])
        assume_identity(HUB_NODE)

        assert (TaskIdentity.run_id, TaskIdentity.node_id) == (RUN_ID, HUB_NODE)
        assert (message.metadata.run_id, message.metadata.src_node_id) == (RUN_ID, 42)
        assert message.metadata.src_task_id == 1

    def test_a_fresh_message_has_no_id_and_takes_ours(self) -> None:
        message = echo(NODES[0])
        before = message.metadata.message_id
        message.metadata.__dict__["_message_id"] = "ours"

        assert (before, message.metadata.message_id) == ("", "ours")

    def test_a_message_can_be_made_from_metadata(self) -> None:
        message = echo(NODES[0], ttl=5.0)
        other = RecordDict({"words": ConfigRecord({"word": "other"})})
        twin = Message(other, metadata=message.metadata)  # type: ignore[call-overload]

        assert twin.content is other
        assert twin.metadata.dst_node_id == NODES[0]
        assert twin.metadata.ttl == 5.0

    def test_a_reply_names_its_question_and_turns_the_addresses(self) -> None:
        message = echo(NODES[0])
        message.metadata.__dict__["_message_id"] = "ours"
        reply = Message(RecordDict(), reply_to=message)

        assert reply.metadata.reply_to_message_id == "ours"
        assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (NODES[0], HUB_NODE)

    def test_the_error_codes_are_those_of_flower(self) -> None:
        assert (RAISED, TOO_LATE, GONE) == (2, 4, 5)
        assert ErrorCode.NODE_UNAVAILABLE == GONE


class TestBothModes:
    def test_every_site_answers_as_itself(self, grid: LocalGrid) -> None:
        replies = ask(grid, echo(NODES[0], word="one"), echo(NODES[1], word="two"))

        told = [[facts(reply)[key] for key in ("word", "node", "name")] for reply in replies]
        assert told == [["one", NODES[0], "site-2"], ["two", NODES[1], "site-3"]]
        assert [reply.metadata.src_node_id for reply in replies] == list(NODES)
        assert TaskIdentity.node_id == HUB_NODE

    def test_content_is_a_copy(self, grid: LocalGrid) -> None:
        content = RecordDict({"words": ConfigRecord({"word": "shared"})})
        messages = [Message(content, node, ECHO) for node in (*NODES, *NODES)]

        assert [facts(reply)["word"] for reply in ask(grid, *messages)] == ["shared"] * 4
        assert content.config_records["words"]["word"] == "shared"

    def test_a_reply_is_given_once(self, grid: LocalGrid) -> None:
        message = echo(NODES[0])
        ask(grid, message)

        assert list(grid.pull_messages([message.metadata.message_id])) == []

    def test_an_exception_is_an_error_reply_without_words(self, grid: LocalGrid) -> None:
        failed, fine = ask(grid, Message(RecordDict(), NODES[0], RAISE), echo(NODES[1]))

        assert failed.has_error()
        assert failed.error.code == RAISED
        assert "CANARY" not in str(failed.error)
        assert facts(fine)["word"] == "hello"
        assert facts(ask(grid, echo(NODES[0]))[0])["node"] == NODES[0]

    def test_a_kind_that_the_app_does_not_know_is_an_error_reply(self, grid: LocalGrid) -> None:
        assert ask(grid, Message(RecordDict(), NODES[0], "query.unknown"))[0].error.code == RAISED

    def test_a_message_whose_time_is_over_never_reaches_its_site(
        self, grid: LocalGrid, tmp_path: Path
    ) -> None:
        """Two messages for one node: the first outlives both."""
        note = tmp_path / "note"
        first = sleep(NODES[0], note, seconds=0.5, ttl=0.2)
        second = sleep(NODES[0], note, seconds=0.0, ttl=0.2)

        assert [reply.error.code for reply in ask(grid, first, second)] == [TOO_LATE, TOO_LATE]
        assert facts(ask(grid, echo(NODES[0]))[0])["word"] == "hello"
        begun = note.read_text().count("begin") if note.exists() else 0
        assert begun <= 1


class TestWorkers:
    def test_a_node_works_on_one_message_at_a_time(self, workers: LocalGrid, tmp_path: Path) -> None:
        note = tmp_path / "note"
        ask(workers, *(sleep(NODES[0], note, seconds=0.05) for _ in range(4)))

        assert [line[0] for line in wait_for(note, 8)] == ["begin", "end"] * 4

    def test_two_nodes_work_at_once(self, workers: LocalGrid, tmp_path: Path) -> None:
        note = tmp_path / "note"
        ask(workers, *(sleep(node, note, seconds=0.5) for node in NODES))

        assert [line[0] for line in wait_for(note, 4)] == ["begin", "begin", "end", "end"]

    def test_a_worker_killed_at_work_costs_its_message_alone(
        self, workers: LocalGrid, tmp_path: Path
    ) -> None:
        note = tmp_path / "note"
        message = sleep(NODES[0], note, seconds=60)
        (identity,) = workers.push_messages([message])
        pid = int(wait_for(note, 1)[0][1])
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + PATIENCE_S
        replies: list[Message] = []
        while not replies and time.monotonic() < end:
            replies = list(workers.pull_messages([identity]))

        assert [reply.error.code for reply in replies] == [GONE]
        assert replies[0].metadata.src_node_id == NODES[0]
        assert len(warm_up(workers)) == 2
        assert pid not in warm_up(workers)

    @needs_proc
    def test_a_worker_killed_while_idle_costs_nothing(self, workers: LocalGrid) -> None:
        before = warm_up(workers)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert wait_until_gone(before) == []
        end = time.monotonic() + PATIENCE_S  # a dead process's pipe may close a moment later
        while not all(desk.worker.ended for desk in workers._desks) and time.monotonic() < end:
            time.sleep(0.01)
        replies = ask(workers, *map(echo, NODES))

        assert [facts(reply)["word"] for reply in replies] == ["hello", "hello"]
        assert not {facts(reply)["pid"] for reply in replies} & set(before)

    def test_a_message_whose_time_is_over_frees_its_worker(self, workers: LocalGrid, tmp_path: Path) -> None:
        note = tmp_path / "note"
        replies = ask(workers, *(sleep(node, note, seconds=60, ttl=0.5) for node in NODES))
        pids = [int(line[1]) for line in wait_for(note, 2)]

        assert [reply.error.code for reply in replies] == [TOO_LATE, TOO_LATE]
        assert not set(warm_up(workers)) & set(pids)

    @needs_proc
    def test_close_ends_every_worker_whatever_it_does(self, tmp_path: Path) -> None:
        with LocalGrid(CONFIGS, load_echo_app, workers=2) as grid:
            pids = warm_up(grid)
            grid.push_messages([sleep(NODES[0], tmp_path / "note", seconds=60)])
            wait_for(tmp_path / "note", 1)
            began = time.monotonic()
        assert time.monotonic() - began < 5

        assert wait_until_gone(pids) == []
        assert list(grid.pull_messages(["none"])) == []

    @needs_proc
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
    def test_no_orphan_is_left(self, tmp_path: Path, how: signal.Signals) -> None:
        """Ctrl-C reaches the whole group, as from a terminal; SIGKILL the parent alone."""
        note = tmp_path / "note"
        parent = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(note)],
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        pids = [int(line[1]) for line in wait_for(note, 2)]
        if how is signal.SIGINT:
            os.killpg(parent.pid, how)
        else:
            parent.kill()
        parent.wait(timeout=PATIENCE_S)

        assert wait_until_gone(pids) == []
        assert left_of_group(parent.pid) == []


BUSY = """
import signal
import sys
from pathlib import Path
from tests.simulation.test_grid import *
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with LocalGrid(CONFIGS, load_echo_app, workers=2) as grid:
        list(grid.send_and_receive([sleep(node, Path(sys.argv[1]), seconds=60) for node in NODES]))
"""
