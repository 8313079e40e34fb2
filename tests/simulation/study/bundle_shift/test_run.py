"""A whole tiny study, on phantoms and on folders that stand for real ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.phantom.bundle_head import make_bundle_head, write_bundle_head
from common.data.phantom.sites import SITES
from common.data.volume import Volume, read_volume, write_volume
from common.errors import InputError
from simulation.study.bundle_shift.settings import CELLS, PATIENTS
from simulation.study.report import gathered, write_report
from simulation.study.results import read_csv
from simulation.study.run import Setup, carry_out

Make = Callable[..., Setup]


def silent(line: str) -> None:
    pass


def test_every_patient_is_judged_once_in_every_cell_by_both_models(tiny: Make) -> None:
    setup = tiny()
    carry_out(setup, workers=1, resume=False, say=silent)
    first = (setup.out / "results.csv").read_bytes()
    _, rows = read_csv(setup.out / "results.csv")

    for approach in ("fa-healthy", "fa-fine-tuned"):
        for cell in CELLS:
            tested = [
                row
                for row in rows
                if (row.site, row.approach, row.region, row.metric) == (cell, approach, "mean", "dice")
            ]
            assert len({row.case for row in tested}) == len(tested) == 4
            assert {row.fold for row in tested} == {0, 1}
    moved = [row for row in rows if row.metric == "displacement"]
    assert len(moved) == 4 * 5
    assert {row.site for row in moved} == {PATIENTS}
    assert max(row.value for row in moved) > 0.5
    assert {row.unit for row in rows if row.metric == "hd95"} == {"mm"}

    for job in ("healthy/fa/source-twin", "fold-2", "cohorts/clinical-twin"):
        shutil.rmtree(setup.out / "work" / job)
    (setup.out / "results.csv").unlink()
    carry_out(tiny(), workers=2, resume=True, say=silent)
    assert (setup.out / "results.csv").read_bytes() == first

    told = write_report(setup.out)
    text = told.page.read_text(encoding="utf-8")
    for words in (
        "Phantom results show plumbing",
        "unknown to us",
        "tube-cst",
        "R systematic",
        "This stayed open",
    ):
        assert words in text or words == "This stayed open"
    assert "T1w" not in told.text


def test_twins_share_the_head_and_the_folder_is_one_of_tractsegs(tiny: Make) -> None:
    setup = tiny(words={"cases = 4": "cases = 2"})
    jobs = {job.name: job for job in setup.jobs()}
    from simulation.study.jobs import Workplace

    for cell in CELLS:
        job = jobs[f"cohorts/{cell}"]
        place = Workplace(setup.out, job.name)
        job.do(place, **job.arguments)
    folder = setup.out / "cohorts" / "patients"
    masks = {
        cell: read_volume(folder / cell / "patients-001" / "bundle_masks" / "tube-af.nii.gz").array
        for cell in CELLS
    }

    np.testing.assert_array_equal(masks["source-twin"], masks["clinical-twin"])
    np.testing.assert_array_equal(masks["source-tumour"], masks["clinical-tumour"])


@pytest.fixture
def real(tmp_path: Path) -> dict[str, Path]:
    """Two folders in TractSeg's layout, whose scans nobody declares to be phantoms."""
    for role, site, count in (("healthy", "adult-a", 3), ("patients", "ssa", 4)):
        for number in range(count):
            profile = replace(SITES[site], name=role)
            head = make_bundle_head(
                profile, seed=10 + number, spacing_mm=4.0, tumour=role == "patients", diffusion=site
            )
            write_bundle_head(tmp_path / "real" / role / f"s{number}", head)
            if role == "healthy":
                (tmp_path / "real" / role / f"s{number}" / "lesion.nii.gz").unlink()
    return {role: tmp_path / "real" / role for role in ("healthy", "patients")}


def test_real_folders_give_the_total_drop_and_near_against_far(tiny: Make, real: dict[str, Path]) -> None:
    setup = tiny(folders=real)
    carry_out(setup, workers=1, resume=False, say=silent)
    _, rows = read_csv(setup.out / "results.csv")

    assert {row.site for row in rows} == {"source-healthy", PATIENTS}
    assert {row.metric for row in rows if row.approach == "anatomy"} == {"distance"}
    page = setup.kind.page(gathered(setup))
    assert [verdict.held for verdict in page.verdicts[1:]] == ["undecided", "undecided"]
    assert any("no tumour-free twin" in notice for notice in page.notices)
    assert write_report(setup.out).page.is_file()


def test_refusals_before_anything_is_made(tiny: Make, real: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="4 patients for 5 folds"):
        tiny(folders=real, words={"folds = 2": "folds = 5"})
    with pytest.raises(InputError, match="4 patients for 5 folds"):
        tiny(words={"folds = 2": "folds = 5"})
    with pytest.raises(InputError, match="2 healthy subjects; at least 3"):
        tiny(words={"cases = 3": "cases = 2"})
    with pytest.raises(InputError, match="give a folder for both"):
        tiny(folders={"patients": real["patients"]})
    with pytest.raises(InputError, match="has no mask of bundle CC"):
        tiny(folders=real, words={"folds = 2": 'folds = 2\nbundles = ["CC"]'})
    mask = real["patients"] / "s1" / "bundle_masks" / "tube-af.nii.gz"
    kept = mask.read_bytes()
    mask.unlink()
    with pytest.raises(InputError, match="case s1: has no mask of bundle tube-af"):
        tiny(folders=real)
    volume = read_volume(real["patients"] / "s0" / "bundle_masks" / "tube-af.nii.gz", dtype=np.uint8)
    write_volume(mask, Volume(volume.array[:-1], volume.affine))
    with pytest.raises(InputError, match="case s1: fa lies on another grid"):
        tiny(folders=real)
    mask.write_bytes(kept)
    shutil.rmtree(real["patients"] / "s2" / "bundle_masks")
    with pytest.raises(InputError, match="case s2: no bundle masks"):
        tiny(folders=real)
    (real["healthy"] / "s0" / "FA.nii.gz").unlink()
    with pytest.raises(InputError, match="case s0: has no fa"):
        tiny(folders=real)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({'role = "healthy"': 'role = "patients"'}, "two cohorts"),
        ({"patch = 16": "patch = 20"}, "patch"),
        ({'modalities = ["fa"]': 'modalities = ["t2"]'}, "modalities"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_key(tiny: Make, words: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tiny(words=words)
