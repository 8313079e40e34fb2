"""Logs that stay small: rotation while a service goes on writing, the end of one, retention."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import service_logs
from common.service_folder import make_folders
from common.service_logs import KEPT, log_file, open_log, rotate, sweep, tail

DAY_S = 86_400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for logs of at most 100 bytes."""
    monkeypatch.setattr(service_logs, "MAX_BYTES", 100)
    make_folders(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "logs").iterdir()}


def fill(folder: Path, name: str, *, days_old: float = 0) -> None:
    path = folder / "logs" / name
    path.write_text(f"{name}\n")
    when = time.time() - days_old * DAY_S
    os.utime(path, (when, when))


def test_a_small_log_is_left_alone(folder: Path) -> None:
    rotate(folder, "node")
    log_file(folder, "node").write_bytes(b"x" * 100)
    rotate(folder, "node")

    assert names(folder) == {"node.log"}


def test_a_service_goes_on_writing_while_its_log_is_put_aside(folder: Path) -> None:
    descriptor = open_log(folder, "node")
    for number in range(8):
        os.write(descriptor, f"{number}".encode() * 101)
        rotate(folder, "node")
    os.write(descriptor, b"now")
    os.close(descriptor)

    logs = folder / "logs"
    assert names(folder) == {"node.log", *(f"node.log.{age}" for age in range(1, KEPT + 1))}
    assert log_file(folder, "node").read_text() == "now"
    assert [(logs / f"node.log.{age}").read_text()[0] for age in range(1, KEPT + 1)] == ["7", "6", "5", "4"]
    assert (logs / "node.log.1").stat().st_mode & 0o777 == 0o600


def test_of_a_log_that_grew_at_once_the_end_is_kept(folder: Path) -> None:
    log_file(folder, "node").write_bytes(b"a" * 1000 + b"z" * 100)
    rotate(folder, "node")

    assert (folder / "logs" / "node.log.1").read_bytes() == b"z" * 100


def test_where_there_is_no_room_for_a_copy_the_log_stays(folder: Path) -> None:
    """A limit on the size of a file stands for the full disk, in a process of its own."""
    log_file(folder, "node").write_bytes(b"x" * 200)
    script = (
        "import resource, signal, sys; from pathlib import Path; from common import service_logs\n"
        "service_logs.MAX_BYTES = 100\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "service_logs.rotate(Path(sys.argv[1]), 'node')"
    )
    found = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)

    assert "OSError: [Errno 27]" in found.stderr
    assert names(folder) == {"node.log"}
    assert log_file(folder, "node").stat().st_size == 200


def test_the_end_of_a_log(folder: Path) -> None:
    assert tail(folder, "node", 3) == ""
    (folder / "logs" / "node.log.1").write_text("one\ntwo\n")
    log_file(folder, "node").write_bytes(b"three\n\x1b[91mfour\x1b[0m\a\xff\n")

    assert tail(folder, "node", 1) == "four\N{REPLACEMENT CHARACTER}"
    assert tail(folder, "node", 3) == "two\nthree\nfour\N{REPLACEMENT CHARACTER}"
    assert tail(folder, "node", 9).startswith("one\n")
    assert tail(folder, "node", 0) == ""


def test_the_end_of_a_large_log_is_not_the_whole(folder: Path) -> None:
    log_file(folder, "node").write_text("line\n" * 100_000)

    assert len(tail(folder, "node", 100_000)) < 1 << 17


def test_old_logs_go_by_age_and_by_number(folder: Path) -> None:
    for name, age in (("node.log.1", 1), ("node.log.2", 2), ("node.log.3", 3), ("worker.log.1", 40)):
        fill(folder, name, days_old=age)
    fill(folder, "node.log", days_old=0)
    fill(folder, "worker.log", days_old=40)
    fill(folder, "notes.txt", days_old=40)

    gone = sweep(folder, older_than_days=30, keep=2)
    assert gone == ("node.log.3", "worker.log", "worker.log.1")
    assert names(folder) == {"node.log", "node.log.1", "node.log.2", "worker.log", "notes.txt"}
    assert log_file(folder, "worker").read_text() == ""
    assert sweep(folder, older_than_days=30, keep=2) == ()


def test_a_draft_that_a_kill_left_goes_with_age(folder: Path) -> None:
    fill(folder, "node.log.1.tmp", days_old=31)

    assert sweep(folder, older_than_days=30, keep=4) == ("node.log.1.tmp",)


def test_there_may_be_no_logs_yet(tmp_path: Path) -> None:
    assert sweep(tmp_path, older_than_days=30, keep=4) == ()
