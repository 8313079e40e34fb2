"""A whole federation that trains: what is refused before it starts, variants, interruption, a full disk."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.checkpoint import load
from common.errors import CheckpointError, DataError, FedGliaError, InputError, LockedError, SiteError
from common.plan import Plan
from server.run import Event, create, exclusive
from server.start import file_hash
from simulation.federation import Federation, check, simulate
from tests.simulation.conftest import Play, tiny_plan


def last_model(run: Path) -> dict[str, Tensor]:
    return load(run / "checkpoints" / "last.safetensors").tensors


def same_model(one: Path, other: Path) -> bool:
    first, second = last_model(one), last_model(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def scores(run: Path) -> dict[str, Any]:
    """What every site reported in every stage, without seconds."""
    stages = ("before", "federated", "adapted", "local_only", "kept")
    return {
        name: {stage: site.get(stage) for stage in stages} for name, site in summary(run)["sites"].items()
    }


class TestCheck:
    """Nothing is made before everything that can be wrong with the input was looked for."""

    def refusal(self, tmp_path: Path, error: type[FedGliaError], **changes: Any) -> str:  # noqa: ANN401
        plan = changes.pop("plan", tiny_plan())
        with pytest.raises(error) as caught:
            check(Federation(plan, tmp_path / "run", **changes))
        assert caught.value.exit_status == 2
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    def test_a_site_unknown_to_the_plan_names_the_nearest(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        folders = {"adult-a": tiny_cohorts["adult-a"], "sssa": tiny_cohorts["ssa"]}
        words = self.refusal(tmp_path, SiteError, folders=folders)

        assert words == "plan tiny has no site 'sssa'; did you mean 'ssa'?"

    def test_a_degraded_site_unknown_to_the_plan_lists_the_known(self, tmp_path: Path) -> None:
        words = self.refusal(tmp_path, SiteError, degrade={"oslo": "ssa-1.5T"})

        assert words == "plan tiny has no site 'oslo'; there are adult-a, ssa"

    def test_a_site_without_a_folder_is_named_when_others_have_one(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        words = self.refusal(tmp_path, SiteError, folders={"adult-a": tiny_cohorts["adult-a"]})

        assert words.startswith("site 'ssa' of plan tiny has no cases: add --site ssa=FOLDER")

    def test_a_site_that_has_neither_folder_nor_phantom_is_named(self, tmp_path: Path) -> None:
        plan = tiny_plan(sites={"adult-a": {"phantom": "adult-a"}, "oslo": {}})

        assert self.refusal(tmp_path, SiteError, plan=plan).startswith("site 'oslo' of plan tiny")

    def test_an_unknown_degradation_names_the_nearest(self, tmp_path: Path) -> None:
        words = self.refusal(tmp_path, SiteError, degrade={"ssa": "ssa-1.5"})

        assert words == "there is no degradation 'ssa-1.5'; did you mean 'ssa-1.5T'?"

    def test_an_unknown_phantom_names_the_nearest(self, tmp_path: Path) -> None:
        plan = tiny_plan(sites={"adult-a": {"phantom": "adult-x"}, "ssa": {"phantom": "ssa"}})
        words = self.refusal(tmp_path, SiteError, plan=plan)

        assert words.startswith("site 'adult-a': there is no phantom 'adult-x'; did you mean 'adult-")

    def test_a_folder_that_does_not_exist(self, tmp_path: Path, tiny_cohorts: dict[str, Path]) -> None:
        words = self.refusal(tmp_path, DataError, folders={**tiny_cohorts, "ssa": tmp_path / "nowhere"})

        assert words == "nowhere: no such folder of scans"

    def test_a_folder_of_one_patient(self, tmp_path: Path, tiny_cohorts: dict[str, Path]) -> None:
        one = tmp_path / "one"
        shutil.copytree(tiny_cohorts["ssa"], one)
        shutil.rmtree(sorted(one.glob("BraTS-*"))[0])
        words = self.refusal(tmp_path, DataError, folders={**tiny_cohorts, "ssa": one})

        assert words.startswith("cohort ssa: 1 labelled patient; at least 2 are needed")

    def test_a_first_model_that_nobody_gave(self, tmp_path: Path) -> None:
        plan = tiny_plan(model__start="sha256:" + "0" * 64)

        assert "give the file with --start FILE" in self.refusal(tmp_path, CheckpointError, plan=plan)

    def test_a_first_model_of_another_hash(self, tmp_path: Path, finished: Path) -> None:
        file = finished / "checkpoints" / "last.safetensors"
        plan = tiny_plan(model__start="sha256:" + "0" * 64)
        words = self.refusal(tmp_path, CheckpointError, plan=plan, start_file=file)

        assert words.startswith("last.safetensors: is not the model that the plan names")

    def test_flowers_engine_without_ray(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

        assert "needs Ray" in self.refusal(tmp_path, InputError, engine="flower")

    def test_a_run_goes_on_with_the_scans_that_it_began_with(
        self, finished: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        """Without --site the phantoms of the plan would silently take the place of real scans."""
        with pytest.raises(SiteError, match=r"site 'adult-a': run run was started with other cases"):
            check(Federation(tiny_plan(), finished))
        with pytest.raises(SiteError, match="another degradation"):
            check(Federation(tiny_plan(), finished, folders=tiny_cohorts, degrade={"adult-a": "ssa-1.5T"}))

    def test_a_folder_of_somebody_else_is_left_alone(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        (tmp_path / "thesis.docx").write_text("years of work")
        with pytest.raises(InputError, match=r"thesis\.docx"):
            simulate(Federation(tiny_plan(), tmp_path, folders=tiny_cohorts), resume=True, listen=print)

        assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]

    def test_a_second_simulation_on_one_folder_is_refused(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        federation = Federation(tiny_plan(), tmp_path / "run", folders=tiny_cohorts)
        federation.run_folder.mkdir()
        with (
            exclusive(federation.run_folder / "lock", what="x"),
            pytest.raises(LockedError, match="run run: another process is writing it"),
        ):
            simulate(federation, resume=True, listen=print)


class TestPreparation:
    @pytest.fixture(autouse=True)
    def one_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Phantoms are then made in this process."""
        monkeypatch.setattr("simulation.preparation.cores", lambda: 1)

    def test_phantoms_are_made_where_no_folder_is_given_and_only_once(self, tmp_path: Path) -> None:
        """Interrupted as soon as they are there; a half-made cohort of an earlier kill is made anew."""
        draft = tmp_path / "run" / "cohorts" / ".ssa.draft"
        federation = Federation(phantom_plan(), tmp_path / "run", workers=1)
        create(federation.run_folder, federation.plan, resume=False)
        draft.mkdir(parents=True)
        (draft / "half").touch()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                simulate(federation, resume=True, listen=stop_at("run opened"))
            cohorts = tmp_path / "run" / "cohorts"
            made = {path.name: sorted(case.name for case in path.iterdir()) for path in cohorts.iterdir()}
            times = {path: path.stat().st_mtime_ns for path in cohorts.rglob("*")}

            assert made == {
                "adult-a": ["BraTS-ADULTA-00001-000", "BraTS-ADULTA-00002-000", "cohort.toml"],
                "ssa": ["BraTS-SSA-00001-000", "BraTS-SSA-00002-000", "cohort.toml"],
            }
        assert {path: path.stat().st_mtime_ns for path in cohorts.rglob("*")} == times

    def test_the_first_model_of_a_run_is_kept_with_it(self, tmp_path: Path, finished: Path) -> None:
        """So that a resumed run does not need the file that was given."""
        given = finished / "checkpoints" / "round-0001.safetensors"
        plan = phantom_plan().override({"model.start": f"sha256:{file_hash(given)}"})
        federation = Federation(plan, tmp_path / "run", start_file=given, workers=1)
        check(federation)
        with pytest.raises(KeyboardInterrupt):
            simulate(federation, resume=False, listen=stop_at("run opened"))

        check(replace(federation, start_file=None))
        first = load(tmp_path / "run" / "checkpoints" / "round-0000.safetensors")
        assert first.provenance["new_head"] is False
        assert all(torch.equal(value, first.tensors[name]) for name, value in load(given).tensors.items())


def phantom_plan() -> Plan:
    return tiny_plan(
        sites={"adult-a": {"phantom": "adult-a", "cases": 2}, "ssa": {"phantom": "ssa", "cases": 2}}
    )


def stop_at(kind: str) -> Callable[[Event], None]:
    """A listener that stops the run at the first event of a kind, as Ctrl-C would."""

    def listen(event: Event) -> None:
        if event["event"] == kind:
            raise KeyboardInterrupt

    return listen


class TestRun:
    def test_it_leaves_what_the_design_says(self, finished: Path) -> None:
        told = summary(finished)

        assert told["status"] == "completed"
        assert told["engine"] == "local"
        assert told["phantom"] is True
        assert [record["folded"] for record in told["rounds"]] == [["adult-a", "ssa"]] * 2
        assert told["bytes"]["up"] == told["bytes"]["down"] == 4 * told["bytes"]["fp32_model"]
        names = {path.name for path in (finished / "checkpoints").glob("*.safetensors")}
        assert names == {f"{name}.safetensors" for name in ("round-0000", "round-0001", "round-0002")} | {
            "last.safetensors",
            "best.safetensors",
        }
        assert load(finished / "checkpoints" / "last.safetensors").provenance["round"] == 2

    def test_a_site_of_two_patients_runs_without_validation_and_says_so(self, finished: Path) -> None:
        site = summary(finished)["sites"]["ssa"]

        assert site["cases"] == {"train": 1, "val": 0, "test": 1}
        assert "too few patients for validation: the last model is kept, not the best" in site["notes"]
        assert "only 1 patient to test on: no spread can be stated" in site["notes"]
        assert site["validation"] == {"federated": None, "adapted": None}
        assert site["kept"] == "federated"

    def test_resuming_a_finished_run_does_nothing(self, play: Play, finished: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        before = contents(copy)
        heard: list[str] = []
        play(copy, listen=lambda event: heard.append(str(event["event"])))

        assert contents(copy) == before
        assert not {"round opened", "stage opened", "first model received"} & set(heard)
        assert heard[-1] == "run completed"

    def test_two_workers_give_what_one_process_gives(
        self, play: Play, finished: Path, tmp_path: Path
    ) -> None:
        play(tmp_path / "run", workers=2)

        assert same_model(tmp_path / "run", finished)
        assert scores(tmp_path / "run") == scores(finished)

    def test_a_run_stopped_by_ctrl_c_says_so_and_goes_on_as_if_nothing_was(
        self, play: Play, finished: Path, tmp_path: Path
    ) -> None:
        def interrupt(event: Event) -> None:
            if event["event"] == "site answered" and event.get("round") == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "run", listen=interrupt)
        stopped = summary(tmp_path / "run")
        play(tmp_path / "run")

        assert (stopped["status"], len(stopped["rounds"])) == ("stopped", 1)
        assert summary(tmp_path / "run")["status"] == "completed"
        assert same_model(tmp_path / "run", finished)
        assert scores(tmp_path / "run") == scores(finished)

    @pytest.mark.parametrize(
        "changes",
        [
            {"adaptation__proximal_mu": 10.0, "aggregation__codec": "fp16"},
            {"aggregation__fold": "median", "aggregation__codec": "int8"},
            {"adaptation__trains": "head", "aggregation__server_optimiser": "yogi"},
        ],
        ids=["FedProx and fp16", "median and int8", "head and FedYogi"],
    )
    def test_variants_of_the_plan_run(
        self, play: Play, finished: Path, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        run = play(tmp_path / "run", **{**changes, "adaptation__adapt_steps": 0})
        told, full = summary(run), summary(finished)

        assert told["status"] == "completed"
        assert not same_model(run, finished)
        assert all(torch.isfinite(tensor).all() for tensor in last_model(run).values())
        assert told["bytes"]["up"] < full["bytes"]["up"]

    def test_the_environment_is_as_it_was(self, finished: Path) -> None:
        assert not [name for name in os.environ if name.startswith("FEDGLIA_")]


def contents(run: Path) -> dict[str, bytes]:
    """Every file that a resumed run may not change: models, records, answers, releases, what sites keep."""
    logs = {"events.jsonl", "summary.json", "lock", "hub.lock"}
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in logs]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here (it takes root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("left_mb", [0, 9, 23])
    def test_a_run_on_a_full_disk_fails_in_words_and_goes_on_when_there_is_room(
        self, play: Play, finished: Path, small_disk: Path, left_mb: int
    ) -> None:
        """The disk fills up after round 1; with some room left it is the hub or a site that meets the end."""
        run, filler = small_disk / "run", small_disk / "filler"
        with pytest.raises(FedGliaError) as caught:
            play(run, listen=filling(filler, left_bytes=left_mb << 20))

        assert caught.value.exit_status == 1
        assert any(word in str(caught.value) for word in ("No space left", "(disk)"))
        assert load(run / "checkpoints" / "last.safetensors").provenance["round"] == 1
        filler.unlink()
        play(run)
        assert summary(run)["status"] == "completed"
        assert same_model(run, finished)
        assert scores(run) == scores(finished)


def filling(filler: Path, *, left_bytes: int) -> Callable[[Event], None]:
    """A listener that takes all room but `left_bytes` as soon as the first round is closed."""

    def listen(event: Event) -> None:
        if event["event"] == "round closed" and event["round"] == 1:
            free = shutil.disk_usage(filler.parent).free
            filler.write_bytes(bytes(max(free - left_bytes, 0)))

    return listen
