"""A run killed at twenty random moments ends with the tensors of one that was never interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.checkpoint import load
from server.run import exclusive
from tests.simulation.processes import left_of_group, needs_proc

pytestmark = [pytest.mark.slow, needs_proc]

KILLS = 20
SEED = 20260721
PATIENCE_S = 120.0
ROOT = Path(__file__).resolve().parents[2]
FEDGLIA = (sys.executable, "-c", "from common.cli import main; main()")
PLAN = """
schema = 1
name = "killed"
[task]
spacing_mm = 4.0
[model]
start = "scratch"
[adaptation]
local_steps = 2
adapt_steps = 2
patch = 32
[rounds]
count = 8
quorum = 2
deadline_s = 120
[evaluation]
local_only = false
[sites.adult-a]
[sites.ssa]
"""

STARTER = """
import os, sys
import torch._dynamo  # which the first step of an optimiser imports
import simulation.federation, simulation.report, simulation.site_app
from common.cli import main

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        sys.argv = ["fedglia", *line.rstrip().split("\\t")]
        main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Forks one command after the other from a process that has loaded everything: a start takes no seconds."""


@dataclass(frozen=True)
class Bed:
    """A plan file and cohorts, from which runs are started as a user starts them."""

    plan: Path
    cohorts: dict[str, Path]

    def command(self, run: Path, *options: str) -> list[str]:
        """Words after `fedglia`."""
        sites = [word for name, folder in self.cohorts.items() for word in ("--site", f"{name}={folder}")]
        return ["simulate", str(self.plan), "--out", str(run), "--resume", *sites, *options]

    def start(self, run: Path, *options: str) -> subprocess.Popen[str]:
        """A command in a fresh process and a process group of its own."""
        return subprocess.Popen(
            [*FEDGLIA, *self.command(run, *options)],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


class Starter:
    """Starts commands one after the other; `said` is the file that gets what they print."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self._process = process
        self._said = said

    def start(self, words: Sequence[str]) -> int:
        """The process id, which is also that of the process group."""
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        return self._number()

    def wait(self) -> int:
        """Exit status of the command that was started last."""
        return self._number()

    def finish(self, words: Sequence[str]) -> None:
        self.start(words)
        assert self.wait() == 0, self._said.read_text()

    def _number(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._said.read_text()
        return int(line)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory, tiny_cohorts: dict[str, Path]) -> Bed:
    plan = tmp_path_factory.mktemp("plan") / "killed.toml"
    plan.write_text(PLAN)
    return Bed(plan, tiny_cohorts)


@contextmanager
def starter(said: Path) -> Iterator[Starter]:
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            yield Starter(process, said)
        finally:
            process.kill()
            process.communicate()


def events(run: Path) -> list[dict[str, Any]]:
    """Complete lines of the log; the last may be half written."""
    file = run / "events.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


def wait_until_at_work(run: Path, *, times: int) -> None:
    """Until the run was opened so many times, and went to work since: the last start-up is over."""
    end = time.monotonic() + PATIENCE_S
    while not at_work([event["event"] for event in events(run)], times):
        assert time.monotonic() < end, "the run did not start"
        time.sleep(0.005)


def at_work(kinds: list[str], times: int) -> bool:
    opened = [index for index, kind in enumerate(kinds) if kind == "run opened"]
    since = kinds[opened[times - 1] :] if len(opened) >= times else []
    return bool({"stage opened", "round opened", "run completed"} & set(since))


def scores(run: Path) -> dict[str, Any]:
    files = sorted((run / "stages").glob("*/*.json"))
    return {f"{file.parent.name} {file.stem}": json.loads(file.read_text())["scores"] for file in files}


def differing(run: Path, other: Path, names: Sequence[str]) -> list[str]:
    """Tensors that are not the same bit for bit, of the checkpoints in both runs."""
    found = []
    for name in names:
        one, two = (load(each / "checkpoints" / f"{name}.safetensors").tensors for each in (run, other))
        assert one.keys() == two.keys()
        found += [f"{name} {tensor}" for tensor in one if not torch.equal(one[tensor], two[tensor])]
    return found


def worked_s(run: Path) -> float:
    """Seconds from the end of the start-up to the end of a run that nobody killed."""
    times = {event["event"]: event["time"] for event in reversed(events(run))}
    return float(times["run completed"] - times["stage opened"])


def kill_often(
    start: Starter, bed: Bed, folder: Path, *, waits_s: Sequence[float]
) -> tuple[list[Path], list[int]]:
    """Start, kill and resume a run as often as there are waits, each counted from the end of a start-up.

    Every fourth process has two workers, the others run the sites in their own process. Where the run ends
    before its next kill, a new one takes the rest.

    Returns:
        The runs, all finished; the process groups that were killed.
    """
    runs, times = [folder / "run-0"], 0
    groups: list[int] = []
    while len(groups) < len(waits_s):
        group = start.start(bed.command(runs[-1], "--workers", "2" if len(groups) % 4 == 3 else "1"))
        times += 1
        wait_until_at_work(runs[-1], times=times)
        time.sleep(waits_s[len(groups)])
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(group, signal.SIGKILL)
        if start.wait() == -signal.SIGKILL:
            groups.append(group)
        else:
            runs, times = [*runs, folder / f"run-{len(runs)}"], 0
    start.finish(bed.command(runs[-1], "--workers", "2"))
    return runs, groups


def test_twenty_kills_change_nothing(bed: Bed, tmp_path: Path) -> None:
    """All waits together are longer than a run works, since each kill loses what was not yet kept."""
    reference = tmp_path / "reference"
    with starter(tmp_path / "said.txt") as start:
        start.finish(bed.command(reference, "--workers", "1"))
        waits = np.random.default_rng(SEED).exponential(size=KILLS)
        waits_s = waits * 2.0 * worked_s(reference) / waits.sum()
        runs, groups = kill_often(start, bed, tmp_path, waits_s=list(waits_s))

    assert len(groups) == KILLS
    assert [pid for group in groups for pid in left_of_group(group)] == []
    everything = ("last", "best", *(f"round-{number:04d}" for number in range(9)))
    for run in runs:
        assert differing(run, reference, everything) == []
        assert scores(run) == scores(reference)
        assert len(scores(run)) == 6
        assert not [*run.glob("**/.*.tmp"), *run.glob("spool/*")]
    resumed_at = {event["round"] for event in events(runs[0]) if event["event"] == "run opened"}
    assert len(resumed_at) >= 3, "the kills all fell into the same rounds"


def test_a_second_process_on_a_run_is_refused_in_words(bed: Bed, tmp_path: Path) -> None:
    """The first is held still meanwhile, and ends as if nothing had been."""
    run = tmp_path / "run"
    first = bed.start(run, "--workers", "1", "--rounds", "1")
    wait_until_at_work(run, times=1)
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        second = bed.start(run, "--workers", "1", "--rounds", "1")
        _, said = second.communicate(timeout=PATIENCE_S)
    finally:
        os.killpg(first.pid, signal.SIGCONT)

    assert second.returncode == 1
    assert said.splitlines()[-1] == (
        "error: run run: another process is writing it; wait for it or stop it first"
    )
    _, said = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, said


def test_phantoms_in_the_making_end_with_their_run(tmp_path: Path) -> None:
    """Only the parent is killed: its workers must neither go on nor keep the run locked."""
    plan = tmp_path / "phantoms.toml"
    sites = '[sites.adult-a]\nphantom = "adult-a"\ncases = 50\n[sites.ssa]\nphantom = "ssa"\ncases = 50\n'
    plan.write_text(PLAN.partition("[sites")[0] + sites)
    run = tmp_path / "run"
    command = [*FEDGLIA, "simulate", str(plan), "--out", str(run)]
    parent = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_S
    while not list(run.glob("cohorts/.*.draft/BraTS-*")) and time.monotonic() < end:
        time.sleep(0.05)
    parent.kill()
    parent.wait()

    assert left_of_group(parent.pid) == []
    assert not list(run.glob("cohorts/[!.]*"))
    with exclusive(run / "lock", what="run"):
        pass
