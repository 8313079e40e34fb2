"""The run directory: made once, written by one process, whole after a kill at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common import checkpoint as checkpoint_module
from common.checkpoint import load
from common.errors import InputError, LockedError, RunError
from server import run as run_module
from server.run import Run, check_free, create, exclusive, opened
from tests.stub_sites import plan_of

PLAN = plan_of()


class Killed(BaseException):
    """Stands for SIGKILL: nothing between here and the test may handle it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    create(folder, PLAN, resume=False)
    with opened(folder) as run:
        yield run


def tensors_of(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((3,), value)}


def close(run: Run, number: int, *, server_state: Mapping[str, Tensor] | None = None) -> None:
    run.close_round(
        number,
        tensors=tensors_of(number),
        record={"round": number, "note": f"try of {number}"},
        server_state=server_state or {},
    )


def killed_in(monkeypatch: pytest.MonkeyPatch, name: str, *, at_call: int) -> None:
    """Make the so-manyth call of a function that `server.run` calls the moment of the kill."""
    module = checkpoint_module if name == "save" else run_module
    real: Callable[..., Any] = getattr(module, name)
    calls = iter(range(1, 1000))

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - stands for any function
        if next(calls) == at_call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


class TestCreate:
    def test_a_new_directory_holds_plan_hash_and_identity(self, run: Run, folder: Path) -> None:
        assert (folder / "plan.sha256").read_text().strip() == PLAN.sha256
        assert run.plan == PLAN
        assert len(run.identity) == 32
        assert run.last_round() is None
        assert run.records() == []

    @pytest.mark.parametrize("resume", [True, False])
    @pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
    def test_missing_or_empty_starts_with_or_without_resume(
        self, folder: Path, *, resume: bool, there: bool
    ) -> None:
        if there:
            folder.mkdir()
        create(folder, PLAN, resume=resume)

        assert (folder / "run.json").is_file()

    def test_resuming_changes_nothing(self, folder: Path) -> None:
        create(folder, PLAN, resume=False)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        create(folder, PLAN, resume=True)

        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_a_run_without_resume_is_refused(self, folder: Path) -> None:
        create(folder, PLAN, resume=False)
        with pytest.raises(InputError, match=r"run: holds a run already; add --resume"):
            create(folder, PLAN, resume=False)

    def test_another_plan_is_refused_by_both_hashes(self, folder: Path) -> None:
        create(folder, PLAN, resume=False)
        other = plan_of(seed=2)
        with pytest.raises(InputError, match=rf"{PLAN.sha256[:12]}.*{other.sha256[:12]}"):
            create(folder, other, resume=True)

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_folder_of_somebody_else_is_refused_and_left_alone(self, folder: Path, *, resume: bool) -> None:
        folder.mkdir()
        (folder / "thesis.docx").write_text("years of work")
        with pytest.raises(InputError, match=r"thesis\.docx"):
            create(folder, PLAN, resume=resume)

        assert [path.name for path in folder.iterdir()] == ["thesis.docx"]

    def test_a_file_in_the_place_of_the_folder_is_refused(self, folder: Path) -> None:
        folder.write_text("a file")
        with pytest.raises(InputError, match="is a file"):
            check_free(folder, PLAN, resume=True)

    @pytest.mark.parametrize("written", [1, 2, 3])
    def test_a_kill_while_it_is_made_leaves_nothing_in_the_way(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, written: int
    ) -> None:
        """Three files are written: killed at each, and with the draft that a kill in mid-write leaves."""
        with monkeypatch.context() as patch:
            killed_in(patch, "write_atomic", at_call=written)
            with pytest.raises(Killed):
                create(folder, PLAN, resume=False)
        (folder / ".plan.toml.1234.tmp").write_text("sche")
        (folder / "lock").touch()
        create(folder, PLAN, resume=False)

        with opened(folder) as run:
            assert run.plan == PLAN
        assert not list(folder.glob(".*.tmp"))


class TestOneWriter:
    def test_a_second_writer_in_this_process_is_refused(self, run: Run) -> None:
        with pytest.raises(LockedError, match="run run: another process is writing it"), opened(run.folder):
            pass

    def test_a_second_writer_in_another_process_is_refused(self, run: Run) -> None:
        script = (
            "import sys; from pathlib import Path; from server.run import opened\n"
            "with opened(Path(sys.argv[1])): pass"
        )
        root = Path(__file__).resolve().parents[2]
        found = subprocess.run(
            [sys.executable, "-c", script, str(run.folder)], cwd=root, capture_output=True, text=True
        )

        assert found.returncode != 0
        assert "LockedError: run run: another process is writing it" in found.stderr

    def test_the_lock_goes_with_the_block(self, folder: Path) -> None:
        create(folder, PLAN, resume=False)
        for _ in range(2):
            with opened(folder):
                pass

    def test_the_lock_goes_with_its_process(self, tmp_path: Path) -> None:
        """A process that is killed while it holds the lock does not keep it."""
        script = (
            "import os, sys; from pathlib import Path; from server.run import exclusive\n"
            "with exclusive(Path(sys.argv[1]), what='x'): os.kill(os.getpid(), 9)"
        )
        root = Path(__file__).resolve().parents[2]
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], cwd=root)
        with exclusive(tmp_path / "lock", what="x"):
            pass


class TestRounds:
    def test_a_closed_round_is_what_was_given(self, run: Run) -> None:
        close(run, 1, server_state={"velocity": torch.ones(3)})
        checkpoint, server_state = run.load_round(1)

        assert run.last_round() == 1
        assert torch.equal(checkpoint.tensors["weight"], torch.ones(3))
        assert torch.equal(server_state["velocity"], torch.ones(3))
        assert checkpoint.provenance["plan"] == {"name": "stub", "sha256": PLAN.sha256}
        assert run.records() == [{"round": 1, "note": "try of 1"}]

    @pytest.mark.parametrize("moment", ["before the record", "before the optimiser", "before the checkpoint"])
    def test_a_kill_while_a_round_closes_leaves_the_round_before(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        close(run, 1, server_state={"velocity": torch.ones(3)})
        where = {
            "before the record": ("write_atomic", 1),
            "before the optimiser": ("save", 1),
            "before the checkpoint": ("save", 2),
        }
        name, at_call = where[moment]
        with monkeypatch.context() as patch:
            killed_in(patch, name, at_call=at_call)
            with pytest.raises(Killed):
                close(run, 2, server_state={"velocity": torch.zeros(3)})

        assert run.last_round() == 1
        assert [record["round"] for record in run.records()] == [1]
        assert torch.equal(run.load_round(1)[1]["velocity"], torch.ones(3))
        close(run, 2)
        assert run.last_round() == 2
        assert [record["round"] for record in run.records()] == [1, 2]

    @given(st.integers(0, 20000))
    def test_every_number_of_rounds_is_found(self, number: int) -> None:
        """The file name has four digits, and more from round 10000 on."""
        assert run_module._CLOSED.fullmatch(Run(Path(), PLAN, "").checkpoint_file(number).name)

    def test_other_files_are_no_rounds(self, run: Run) -> None:
        close(run, 3, server_state={"velocity": torch.ones(3)})
        run.point("last", 3)
        (run.folder / "checkpoints" / ".round-0009.safetensors.12.tmp").touch()

        assert run.last_round() == 3

    def test_a_spool_and_drafts_that_a_kill_left_are_swept(self, folder: Path) -> None:
        create(folder, PLAN, resume=False)
        left = [
            folder / "spool" / "ssa.f32",
            folder / ".summary.json.12.tmp",
            folder / "checkpoints" / ".round-0001.safetensors.12.tmp",
            folder / "stages" / "before" / ".ssa.json.12.tmp",
        ]
        for file in left:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        with opened(folder):
            assert [file.name for file in left if file.exists()] == []


class TestPoint:
    def test_it_names_a_rounds_checkpoint_and_moves(self, run: Run) -> None:
        last = run.folder / "checkpoints" / "last.safetensors"
        for number in (1, 2):
            close(run, number)
            run.point("last", number)

            assert torch.equal(load(last).tensors["weight"], torch.full((3,), float(number)))
        assert run.last_round() == 2

    def test_pointing_again_changes_nothing(self, run: Run) -> None:
        close(run, 1)
        run.point("best", 1)
        run.point("best", 1)

        assert load(run.folder / "checkpoints" / "best.safetensors").provenance["round"] == 1
        assert not list(run.folder.glob("checkpoints/*.tmp"))

    def test_a_draft_that_a_kill_left_is_no_hindrance(self, run: Run) -> None:
        close(run, 1)
        (run.folder / "checkpoints" / "last.tmp").write_text("half")
        run.point("last", 1)

        assert load(run.folder / "checkpoints" / "last.safetensors").provenance["round"] == 1

    def test_without_hard_links_it_copies(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(source: object, target: object) -> None:
            raise OSError(1, "Operation not permitted")

        close(run, 1)
        monkeypatch.setattr(os, "link", refuse)
        run.point("last", 1)

        assert load(run.folder / "checkpoints" / "last.safetensors").provenance["round"] == 1

    def test_a_full_disk_is_told_in_words(self, run: Run) -> None:
        with pytest.raises(RunError, match=r"last\.safetensors: cannot be written .*resume the run"):
            run.point("last", 1)


class TestStages:
    def test_an_answer_is_kept(self, run: Run) -> None:
        assert run.stage_result("before", "ssa") is None
        run.keep_stage_result("before", "ssa", {"scores": {"dice": 0.5}})

        assert run.stage_result("before", "ssa") == {"scores": {"dice": 0.5}}

    def test_seconds_add_up_over_resumes(self, run: Run) -> None:
        assert run.stage_seconds("before") == 0
        for seconds in (1.5, 2.0):
            run.add_stage_seconds("before", seconds)

        assert run.stage_seconds("before") == 3.5

    def test_a_number_that_json_does_not_know_is_never_written(self, run: Run) -> None:
        with pytest.raises(ValueError, match="Out of range float"):
            run.keep_stage_result("before", "ssa", {"scores": float("nan")})

        assert run.stage_result("before", "ssa") is None


class TestEvents:
    def test_an_event_is_a_line_and_is_told(self, folder: Path) -> None:
        heard: list[Mapping[str, Any]] = []
        create(folder, PLAN, resume=False)
        with opened(folder, listen=heard.append) as run:
            run.event("round opened", round=1, sites=["ssa"])
        (line,) = (folder / "events.jsonl").read_text().splitlines()

        assert json.loads(line) == dict(heard[0])
        assert {key: heard[0][key] for key in ("event", "round", "sites")} == {
            "event": "round opened",
            "round": 1,
            "sites": ["ssa"],
        }
