from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import RunError
from common.files import append_line, read_lines, sweep_drafts, write_atomic


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"last.safetensors: cannot be written \(No space left on device\)"):
        write_atomic(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
from common.files import write_atomic
path = Path(sys.argv[1])
print("go", flush=True)
for number in range(10**9):
    write_atomic(path, bytes([number % 256]) * 300_000)
"""


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last"
    root = Path(__file__).resolve().parents[2]
    for attempt in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=root, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.1 + 0.137 * attempt)
            process.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert content == content[:1] * 300_000
    sweep_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_leaves_folders_alone(tmp_path: Path) -> None:
    """A release that a kill left half made is a folder, and is made anew by its own code."""
    (tmp_path / ".demo-r1.tmp").mkdir()
    (tmp_path / ".last.safetensors.0a1b.tmp").touch()
    sweep_drafts(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [".demo-r1.tmp"]


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    assert list(read_lines(log)) == []
    append_line(log, {"round": 1, "text": "a\nb"})
    append_line(log, {"round": 2}, durable=True)

    assert list(read_lines(log)) == [{"round": 1, "text": "a\nb"}, {"round": 2}]


@pytest.mark.parametrize("length", [1, 5, 9, 200_000])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path, length: int) -> None:
    log = tmp_path / "events.jsonl"
    append_line(log, {"round": 1})
    with log.open("ab") as handle:
        handle.write(b'{"round":2, "x": "'.ljust(length, b"y")[:length])

    assert list(read_lines(log)) == [{"round": 1}]
    append_line(log, {"round": 3})
    assert list(read_lines(log)) == [{"round": 1}, {"round": 3}]


def test_a_torn_only_line_is_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_bytes(b'{"rou')
    append_line(log, {"round": 1})

    assert [json.dumps(line) for line in read_lines(log)] == ['{"round": 1}']


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"events\.jsonl: cannot be written"):
        append_line(tmp_path / "missing" / "events.jsonl", {})


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    log = tmp_path / "ledger.jsonl"
    log.write_bytes(b'{"a":1}\n{"a":\n{"a":3}\n')

    with pytest.raises(RunError, match=r"ledger.jsonl: line 2 is damaged"):
        list(read_lines(log))


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
