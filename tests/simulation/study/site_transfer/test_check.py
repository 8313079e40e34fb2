"""What is refused before any training, in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from common.data.volume import Volume, read_label, write_volume
from common.errors import DataError, InputError
from simulation.study.run import Setup
from simulation.study.site_transfer.federated import plan_of
from simulation.study.site_transfer.settings import SiteTransfer

Make = Callable[..., Setup]


def test_fewer_patients_than_folds(tiny: Make, tiny_cohorts: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"cohort ssa: 2 labelled patients; at least 4 are needed"):
        tiny(folders={"ssa": tiny_cohorts["ssa"]}, words={"folds = 2": "folds = 4"})
    with pytest.raises(InputError, match="cohort ssa: 4 patients for 5 folds"):
        tiny(words={"folds = 2": "folds = 5"})


def test_a_folder_without_labels(tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_cohorts["ssa"], tmp_path / "bare")
    for label in bare.glob("*/*-seg.nii.gz"):
        label.unlink()
    with pytest.raises(DataError, match="cohort ssa: no case has a label"):
        tiny(folders={"ssa": bare})


def test_a_missing_region(tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_cohorts["ssa"], tmp_path / "copy")
    words = (copy / "cohort.toml").read_text()
    (copy / "cohort.toml").write_text(words.replace(", ET = 3", ""))
    with pytest.raises(DataError, match="has no ET"):
        tiny(folders={"ssa": copy})


def test_a_region_that_no_label_holds(tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_cohorts["ssa"], tmp_path / "copy")
    for file in copy.glob("*/*-seg.nii.gz"):
        label = read_label(file)
        write_volume(file, Volume(np.where(label.array == 3, 1, label.array).astype(np.uint8), label.affine))
    with pytest.raises(DataError, match="cohort ssa: no label holds ET"):
        tiny(folders={"ssa": copy})


def test_a_case_in_two_cohorts(tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path) -> None:
    both = {"adult": tiny_cohorts["adult-a"], "ssa": shutil.copytree(tiny_cohorts["ssa"], tmp_path / "ssa")}
    shutil.copytree(next(both["adult"].glob("BraTS-*")), both["ssa"] / "BraTS-SSA-00099-000")
    for file in (both["ssa"] / "BraTS-SSA-00099-000").iterdir():
        file.rename(file.with_name(file.name.replace("ADULTA-00001", "SSA-00099")))
    with pytest.raises(DataError, match="cohorts adult and ssa hold the same case"):
        tiny(folders=both)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[plan.task]", "[plan]\nseed = 5\n[plan.task]", r"plan\.seed is the study's to say"),
        ("[plan.task]", "[plan]\nthreads = 4\n[plan.task]", r"plan\.threads is the study's to say"),
        ("augment = false", "augment = false\nbatch_size = 3", "batch_size must be even"),
        ("fed-frozen-decoder", "dann", "'dann' names an approach and a federation"),
        ('on = ["target"]', 'on = ["target", "target"]', "names a role twice"),
        ('on = ["source", "target"]\nalignment', 'on = ["target"]\nalignment', "trains on one role alone"),
        ('role = "target"', 'role = "source"', "roles source and target"),
        ("source_steps = 2", "source_steps = 4", "source_steps must leave steps"),
        ('reference = "combined"', 'reference = "pooled"', "no approach 'pooled'"),
        ("rounds = 2", "rounds = 3", "4 steps cannot be dealt to 3 rounds"),
        ('start = "baseline"\ntrains', 'start = "combined"\ntrains', "starts from 'combined'"),
        ('labels = { local-only = "local only", ', "labels = { ", "one label for each"),
        ('loss = "paper"', 'loss = "hinge"', "adaptation.loss"),
        ("patch = 16", "patch = 20", "adaptation.patch is 20"),
        ('"adaptation.trains" = "frozen-decoder"', '"adaptation.train" = "all"', "adaptation.train"),
    ],
)
def test_a_study_that_does_not_fit_together(tiny: Make, old: str, new: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(words={old: new})


def test_each_site_is_a_domain_where_cohorts_do_not_say_theirs(
    tiny: Make, tiny_cohorts: dict[str, Path], tmp_path: Path
) -> None:
    words = {'plan = { "adaptation.trains" = "frozen-decoder" }': 'plan = { "alignment.method" = "dann" }'}

    def told_by(setup: Setup) -> str:
        study = cast(SiteTransfer, setup.study)
        return plan_of(study, setup.data, "fed-frozen-decoder", fold=0).alignment.domains

    assert told_by(tiny(words=words)) == "field-strength"
    silent = shutil.copytree(tiny_cohorts["adult-a"], tmp_path / "silent")
    declared = (silent / "cohort.toml").read_text()
    (silent / "cohort.toml").write_text(declared.replace("field_strength_t = 3.0\n", ""))
    assert told_by(tiny(words=words, folders={"adult": silent})) == "site"
    alike = {**words, 'phantom = "ssa"': 'phantom = "adult-b"'}
    assert told_by(tiny(words=alike)) == "site"
