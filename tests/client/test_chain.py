"""A record that shows when it was changed: the ways that can be shown, and those that cannot."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import chain
from client.chain import append, read, verify
from common.errors import RunError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Five lines."""
    return made(tmp_path / "egress.jsonl", lines=5)


def made(path: Path, *, lines: int) -> Path:
    for number in range(lines):
        append(path, {"round": number, "run": "ab"})
    return path


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


class TestInOrder:
    def test_each_line_names_the_one_before(self, path: Path) -> None:
        lines = list(read(path))

        assert [line["n"] for line in lines] == [1, 2, 3, 4, 5]
        assert lines[0]["before"] == chain.BEGINNING
        assert all(b["before"] == a["hash"] for a, b in pairwise(lines))
        assert verify(path).bad_line is None
        assert verify(path).lines == 5

    def test_nothing_is_in_order(self, tmp_path: Path) -> None:
        assert verify(tmp_path / "egress.jsonl").bad_line is None
        assert not list(tmp_path.iterdir())

    def test_only_the_owner_reads_it(self, path: Path) -> None:
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}

    def test_two_processes_write_one_record(self, tmp_path: Path) -> None:
        path = tmp_path / "egress.jsonl"
        context = multiprocessing.get_context("fork")
        writers = [context.Process(target=made, args=(path,), kwargs={"lines": 20}) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(timeout=60)

        assert (verify(path).lines, verify(path).bad_line) == (60, None)


def changed(path: Path) -> int:
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":7'))
    return 3


def taken_out(path: Path) -> int:
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    return 3


def moved(path: Path) -> int:
    lines = lines_of(path)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    return 2


def put_in(path: Path) -> int:
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))
    return 4


def damaged(path: Path) -> int:
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:3], b"\x00\xff\n", *lines[4:]]))
    return 4


def cut(path: Path) -> int:
    path.write_bytes(b"".join(lines_of(path)[:3]))
    return 4


def emptied(path: Path) -> int:
    path.write_bytes(b"")
    return 1


def deleted(path: Path) -> int:
    path.unlink()
    return 1


def spaced(path: Path) -> int:
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round": 1'))
    return 2


def last_changed(path: Path) -> int:
    path.write_bytes(path.read_bytes().replace(b'"round":4', b'"round":7'))
    return 5


def headless(path: Path) -> int:
    path.with_suffix(".head").unlink()
    return 6


def head_damaged(path: Path) -> int:
    path.with_suffix(".head").write_text("{}")
    return 6


def head_of_another(path: Path) -> int:
    path.with_suffix(".head").write_text('{"hash": "00", "lines": 5}')
    return 6


CHANGES: list[Callable[[Path], int]] = [
    changed,
    spaced,
    taken_out,
    moved,
    put_in,
    damaged,
    cut,
    emptied,
    deleted,
    last_changed,
    headless,
    head_damaged,
    head_of_another,
]


class TestChanged:
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_the_first_bad_line_is_named(self, path: Path, change: Callable[[Path], int]) -> None:
        bad_line = change(path)
        verdict = verify(path)

        assert verdict.bad_line == bad_line
        assert verdict.words

    @pytest.mark.parametrize(
        "change", [cut, emptied, deleted, last_changed, headless, head_damaged, head_of_another]
    )
    def test_a_record_whose_end_is_not_its_own_is_not_gone_on_with(
        self, path: Path, change: Callable[[Path], int]
    ) -> None:
        change(path)
        with pytest.raises(RunError, match="does not end where") as raised:
            append(path, {})

        assert raised.value.code == "ledger"

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(at=st.integers(0), bit=st.integers(0, 7))
    def test_any_bit_flipped_is_found(self, path: Path, at: int, bit: int) -> None:
        whole = path.read_bytes()
        where = at % len(whole)
        path.write_bytes(whole[:where] + bytes([whole[where] ^ (1 << bit)]) + whole[where + 1 :])
        verdict = verify(path)
        path.write_bytes(whole)

        # A torn line is no lie; but the head counts it, so it is found all the same.
        assert verdict.bad_line == whole[:where].count(b"\n") + 1

    def test_both_files_of_an_earlier_day_are_found_by_a_hash_noted_since(self, tmp_path: Path) -> None:
        """Without one they are not: whoever may write both can put older copies back."""
        path = made(tmp_path / "egress.jsonl", lines=3)
        older = {file: file.read_bytes() for file in tmp_path.iterdir()}
        noted = append(path, {"round": 9}).hash
        assert verify(path, expected=noted).bad_line is None
        for file, content in older.items():
            file.write_bytes(content)

        assert verify(path).bad_line is None
        assert verify(path, expected=noted).bad_line == 4


class TestKilled:
    def test_between_the_line_and_the_head(self, path: Path) -> None:
        head = path.with_suffix(".head")
        before = head.read_bytes()
        append(path, {"round": 5})
        head.write_bytes(before)
        assert verify(path).bad_line is None
        append(path, {"round": 6})

        assert (verify(path).lines, verify(path).bad_line) == (7, None)

    def test_before_the_first_head(self, tmp_path: Path) -> None:
        path = made(tmp_path / "egress.jsonl", lines=1)
        path.with_suffix(".head").unlink()
        append(path, {})

        assert (verify(path).lines, verify(path).bad_line) == (2, None)

    def test_within_a_line(self, path: Path) -> None:
        with path.open("ab") as handle:
            handle.write(b'{"round": 5, "before": "')
        assert (verify(path).lines, verify(path).bad_line) == (5, None)
        append(path, {"round": 5})

        assert (verify(path).lines, verify(path).bad_line) == (6, None)

    def test_a_disk_with_room_for_lines_alone_gathers_no_more_than_one_uncounted(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object, **named: object) -> None:
            raise RunError("no room", code="disk")

        with monkeypatch.context() as patched:
            patched.setattr(chain, "write_atomic", full)
            for _ in range(3):
                with pytest.raises(RunError, match="no room"):
                    append(path, {})
        append(path, {})

        assert (verify(path).lines, verify(path).bad_line) == (7, None)

    def test_lines_longer_than_a_block_are_gone_on_with(self, tmp_path: Path) -> None:
        path = tmp_path / "egress.jsonl"
        for length in (200_000, 10, 200_000):
            append(path, {"names": "x" * length})

        assert (verify(path).lines, verify(path).bad_line) == (3, None)
