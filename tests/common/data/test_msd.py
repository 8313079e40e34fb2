from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.data.intake import open_cohort
from common.data.msd import TASK01_LABELS, open_decathlon, open_pairs
from common.data.transforms import Preparation, prepare
from common.data.volume import Volume, write_volume
from common.errors import DataError

DATASET = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


def four_channels(path: Path) -> None:
    """Channel k holds values around 100 (k + 1) inside a cube."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    array = np.zeros((8, 9, 10, 4), dtype=np.int16)
    for channel in range(4):
        array[1:7, 1:7, 1:7, channel] = 100 * (channel + 1) + rng.integers(0, 9, (6, 6, 6))
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def task01(tmp_path: Path) -> Path:
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (tmp_path / part).mkdir()
    four_channels(tmp_path / "imagesTr" / "BRATS_001.nii.gz")
    four_channels(tmp_path / "imagesTs" / "BRATS_485.nii.gz")
    label = np.zeros((8, 9, 10), dtype=np.uint8)
    label[2, 2, 2:5] = (1, 2, 3)
    write_volume(tmp_path / "labelsTr" / "BRATS_001.nii.gz", Volume(label, np.eye(4)))
    return tmp_path


@pytest.mark.parametrize("described", [True, False])
def test_task_01_channels_and_codes(task01: Path, described: bool) -> None:
    if described:
        (task01 / "dataset.json").write_text(json.dumps(DATASET))
    cohort = open_cohort(task01, "msd")
    assert [case.name for case in cohort.cases] == ["BRATS_001", "BRATS_485"]
    assert cohort.cases[1].label is None
    assert cohort.label_map == TASK01_LABELS
    images = cohort.cases[0].images
    assert {modality: source.channel for modality, source in images.items()} == {
        "t2f": 0,
        "t1n": 1,
        "t1c": 2,
        "t2w": 3,
    }
    prepared = prepare(cohort.cases[0], cohort, Preparation(("NCR", "ED", "ET")))
    assert prepared.label is not None
    # Files say 1 oedema, 2 necrosis, 3 enhancing; ours are 1 NCR, 2 ED, 3 ET.
    assert sorted(prepared.label[prepared.label > 0].tolist()) == [1, 2, 3]
    assert prepared.present == (True,) * 4


def test_a_dataset_json_that_cannot_be_used(task01: Path) -> None:
    path = task01 / "dataset.json"
    for text, words in [
        ("{", "cannot be read"),
        ("[]", '"modality" is missing'),
        (json.dumps({"modality": {"0": "FLAIR"}}), '"labels" is missing'),
        (json.dumps({"modality": {"0": "CT"}, "labels": {}}), "'CT' is none of"),
        (json.dumps({"modality": {"x": "FLAIR"}, "labels": {}}), "'x' should be a number"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            open_decathlon(task01, name="msd")


def test_an_empty_task_folder(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(DataError, match="holds no"):
        open_decathlon(tmp_path, name="msd")


def test_pairs(tmp_path: Path) -> None:
    for name in ("hippocampus_001", "hippocampus_002"):
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / f"{name}-img.nii.gz", Volume(np.ones((3, 3, 3), np.uint8), np.eye(4)))
    write_volume(
        tmp_path / "hippocampus_001" / "hippocampus_001-seg.nii.gz",
        Volume(np.ones((3, 3, 3), np.uint8), np.eye(4)),
    )
    cohort = open_pairs(tmp_path, name="h")
    assert [case.label is not None for case in cohort.cases] == [True, False]
    assert tuple(cohort.cases[0].images) == ("t1n",)
    assert cohort.label_map == {"anterior": 1, "posterior": 2}


def test_the_real_hippocampi(shared_data: Path) -> None:
    cohort = open_cohort(shared_data / "hippocampus_msd04", "h")
    assert len(cohort.cases) == len(cohort.labelled) == 60
    preparation = Preparation(("anterior", "posterior"), modalities=("t1n",))
    prepared = prepare(cohort.cases[0], cohort, preparation)
    assert prepared.label is not None
    assert set(np.unique(prepared.label).tolist()) == {0, 1, 2}
