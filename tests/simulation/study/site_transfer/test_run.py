"""A whole tiny study: the same numbers by any way, shared splits, and what is left on disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch

from common.checkpoint import load
from common.errors import InputError
from simulation.study.results import read_csv
from simulation.study.run import Setup, carry_out, opened
from simulation.study.site_transfer.settings import SiteTransfer, site_of

Make = Callable[..., Setup]


def silent(line: str) -> None:
    pass


def test_centralised_approaches_give_one_number_a_patient_and_resume_to_the_same_file(tiny: Make) -> None:
    setup = tiny(preset="smoke")
    carry_out(setup, workers=1, resume=False, say=silent)
    first = (setup.out / "results.csv").read_bytes()
    _, rows = read_csv(setup.out / "results.csv")
    tested = [row for row in rows if (row.site, row.metric, row.region) == ("ssa", "dice", "mean")]
    for approach in ("baseline", "combined", "frozen-decoder", "dann"):
        of_it = [row for row in tested if row.approach == approach]
        assert len({row.case for row in of_it}) == len(of_it) == 4
        assert {row.fold for row in of_it} == {0, 1}
    folds_by_case = {(row.case, row.fold) for row in tested}
    assert len(folds_by_case) == 4  # the baseline's rows carry the fold in which the others test the patient
    for job in ("once/baseline", "fold-2/dann"):
        shutil.rmtree(setup.out / "work" / job)
    (setup.out / "results.csv").unlink()
    carry_out(tiny(preset="smoke"), workers=2, resume=True, say=silent)
    assert (setup.out / "results.csv").read_bytes() == first
    assert opened(setup.out).study == setup.study
    kept = load(setup.out / "work" / "fold-1" / "dann" / "model.safetensors")
    assert not [name for name in kept.tensors if name.startswith("discriminator")]
    assert not list((setup.out / "work").glob("**/draft.safetensors"))


def test_a_job_killed_between_two_stretches_goes_on_to_the_same_weights(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation.study import stretches
    from simulation.study.jobs import Workplace
    from simulation.study.site_transfer import centralised
    from simulation.study.site_transfer.pieces import make_cohort

    setup = tiny(preset="smoke")
    study = cast(SiteTransfer, setup.study)
    for source in setup.data.sources:
        place = Workplace(setup.out, f"cohorts/{source.name}")
        make_cohort(place, study=study, data=setup.data, source=source)

    def train(name: str) -> dict[str, torch.Tensor]:
        place = Workplace(setup.out, name)
        place.folder.mkdir(parents=True, exist_ok=True)
        centralised.carry_out(place, study=study, data=setup.data, name="dann", fold=0)
        return load(place.folder / "model.safetensors").tensors

    unbroken = train("unbroken")
    keep = stretches.keep_draft
    calls = []

    def killed(*arguments: object) -> None:
        keep(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(stretches, "keep_draft", killed)
    with pytest.raises(KeyboardInterrupt):
        train("broken")
    monkeypatch.setattr(stretches, "keep_draft", keep)
    resumed = train("broken")
    assert calls == [1]
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.slow
def test_federated_rows_are_what_sites_reported_on_the_same_patients(tiny: Make) -> None:
    one, two = tiny("one"), tiny("two")
    carry_out(one, workers=1, resume=False, say=silent)
    carry_out(two, workers=2, resume=False, say=silent)
    assert (one.out / "results.csv").read_bytes() == (two.out / "results.csv").read_bytes()
    _, rows = read_csv(one.out / "results.csv")

    def cases(approach: str) -> set[tuple[str, str, int]]:
        return {(row.site, row.case, row.fold) for row in rows if row.approach == approach}

    for approach in ("local-only", "fedavg", "fedavg-local", "fed-frozen-decoder"):
        assert cases(approach) == cases("combined")
    study = cast(SiteTransfer, one.study)
    for source in one.data.sources:
        site = site_of(one.out, source)
        splits = [site.split(study.plan_for(one.data, fold=fold)) for fold in (0, 1)]
        for split in splits:
            train, test = ({case.patient for case in part} for part in (split.train, split.test))
            assert not train & test
    metrics = {row.metric for row in rows if row.approach == "fedavg"}
    assert metrics == {row.metric for row in rows if row.approach == "combined"}


@pytest.mark.slow
def test_a_study_killed_at_any_moment_resumes_to_the_same_table(tiny_file: Path, tmp_path: Path) -> None:
    fedglia = Path(sys.executable).with_name("fedglia")
    command = [str(fedglia), "study", "run", str(tiny_file), "--preset", "smoke", "--jobs", "2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    for wait_s in (4.0, 7.0, 10.0):
        process = subprocess.Popen(
            [*command, "--out", str(broken), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(wait_s)
        process.kill()
        process.wait()
    subprocess.run([*command, "--out", str(broken), "--resume"], check=True, capture_output=True)
    assert (broken / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_folder_in_use_is_refused(tiny: Make, tmp_path: Path) -> None:
    setup = tiny(preset="smoke")
    (setup.out / "work").mkdir(parents=True)
    with pytest.raises(InputError, match="is not empty and holds no study"):
        carry_out(setup, workers=1, resume=False, say=silent)
    shutil.rmtree(setup.out)
    setup.out.write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        carry_out(setup, workers=1, resume=False, say=silent)
    setup.out.unlink()
    setup.out.mkdir()
    (setup.out / "study.json").write_text("{}")
    with pytest.raises(InputError, match="add --resume"):
        carry_out(setup, workers=1, resume=False, say=silent)
    with pytest.raises(InputError, match="another study, preset, seed or data"):
        carry_out(setup, workers=1, resume=True, say=silent)
    (setup.out / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        carry_out(setup, workers=1, resume=True, say=silent)
    with pytest.raises(InputError, match="holds no study"):
        opened(tmp_path / "nowhere")


def test_what_a_study_killed_while_it_was_made_left_is_taken_over(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation.study import run

    setup = tiny(preset="smoke")
    setup.out.mkdir()
    for name in ("lock", "study.toml", ".study.json.abc.tmp"):
        (setup.out / name).write_text("half")
    monkeypatch.setattr(run, "run_jobs", lambda *a, **k: None)
    monkeypatch.setattr(Setup, "jobs", lambda self: [])
    carry_out(setup, workers=1, resume=True, say=silent)
    assert opened(setup.out).study == setup.study
    moved = setup.out.rename(setup.out.with_name("moved"))
    assert opened(moved).study == setup.study


def test_a_case_that_came_makes_it_another_study(
    tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation.study import run

    monkeypatch.setattr(run, "run_jobs", lambda *a, **k: None)
    monkeypatch.setattr(Setup, "jobs", lambda self: [])
    folder = shutil.copytree(tiny_cohorts["adult-a"], tmp_path / "real")
    setup = tiny(preset="smoke", folders={"adult": folder})
    carry_out(setup, workers=1, resume=False, say=silent)
    carry_out(setup, workers=1, resume=True, say=silent)
    shutil.rmtree(next(folder.glob("BraTS-*")))
    with pytest.raises(InputError, match="a file that came or went counts"):
        carry_out(setup, workers=1, resume=True, say=silent)
    shutil.rmtree(folder)
    assert opened(setup.out).data.sources[0].phantom is None  # the report does not need the scans
