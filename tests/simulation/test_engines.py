"""The same federation on the engine in this process and on Flower's own (Ray): the same tensors."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.checkpoint import load
from common.errors import QuorumError
from simulation.federation import Federation, check, simulate
from tests.simulation.conftest import tiny_plan
from tests.simulation.processes import left_of_group, needs_proc
from tests.simulation.test_federation import scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.flower,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


def test_both_engines_end_with_the_same_tensors(
    tmp_path: Path, tiny_cohorts: dict[str, Path], finished: Path
) -> None:
    federation = Federation(tiny_plan(), tmp_path / "run", folders=tiny_cohorts, engine="flower")
    check(federation)
    simulate(federation, resume=False, listen=lambda event: None)
    told = json.loads((federation.run_folder / "summary.json").read_text())
    for name in ("round-0000", "round-0001", "round-0002", "last", "best"):
        one, other = (
            load(run / "checkpoints" / f"{name}.safetensors").tensors
            for run in (federation.run_folder, finished)
        )
        assert one.keys() == other.keys()
        assert [tensor for tensor in one if not torch.equal(one[tensor], other[tensor])] == []

    assert (told["status"], told["engine"]) == ("completed", "flower")
    assert scores(federation.run_folder) == scores(finished)


def test_a_run_that_fails_there_fails_in_the_same_words(
    tmp_path: Path, tiny_cohorts: dict[str, Path]
) -> None:
    """A site whose scans went away after the check: the run ends, and does not wait for ever."""
    folders = {**tiny_cohorts, "ssa": tmp_path / "ssa"}
    shutil.copytree(tiny_cohorts["ssa"], folders["ssa"])
    plan = tiny_plan(rounds__deadline_s=45.0)
    federation = Federation(plan, tmp_path / "run", folders=folders, engine="flower")
    check(federation)
    shutil.rmtree(folders["ssa"])

    with pytest.raises(QuorumError, match="missing: ssa"):
        simulate(federation, resume=False, listen=lambda event: None)


HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from common.cli import main
main()
"""


@needs_proc
def test_ctrl_c_ends_it_soon_and_leaves_no_process(tmp_path: Path, tiny_cohorts: dict[str, Path]) -> None:
    """The hub is in a thread there, which no signal reaches."""
    plan, run = tmp_path / "tiny.toml", tmp_path / "run"
    plan.write_text(tiny_plan(rounds__count=100).as_toml())
    sites = [word for name, folder in tiny_cohorts.items() for word in ("--site", f"{name}={folder}")]
    command = ["simulate", str(plan), "--out", str(run), "--engine", "flower", *sites]
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, *command],
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while not (run / "rounds").is_dir() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(timeout=30) == 130
    assert left_of_group(process.pid) == []
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
