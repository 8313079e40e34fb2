from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.brats import LABELS_2021, LABELS_2023, infer_label_map, open_brats, patient_of
from common.data.cases import MODALITIES, Case
from common.data.volume import Volume, write_volume
from common.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    "parts",
    [
        ("-t1n.nii.gz", "-t1c.nii.gz", "-t2w.nii.gz", "-t2f.nii.gz", "-seg.nii.gz"),
        ("_t1.nii.gz", "_t1ce.nii.gz", "_t2.nii.gz", "_flair.nii.gz", "_seg.nii.gz"),
        ("_t1.nii", "_t1ce.nii", "_t2.nii", "_FLAIR.nii", "_seg.nii"),
        ("-t1w.nii.gz", "-t1gd.nii.gz", "-t2w.nii.gz", "-flair.nii.gz", "-seg.nii.gz"),
    ],
)
def test_file_styles(tmp_path: Path, parts: tuple[str, ...]) -> None:
    touch(tmp_path / "BraTS20_Training_001", *(f"BraTS20_Training_001{part}" for part in parts))
    cohort = open_brats(tmp_path, name="site")
    (case,) = cohort.cases
    assert (case.name, case.patient) == ("BraTS20_Training_001", "BraTS20_Training_001")
    assert tuple(case.images) == MODALITIES
    assert case.label is not None
    assert case.images["t1c"].path.name.endswith(parts[1])


def test_time_points_are_one_patient_and_other_names_are_their_own() -> None:
    assert patient_of("BraTS-GLI-00012-000") == patient_of("BraTS-GLI-00012-001") == "BraTS-GLI-00012"
    assert patient_of("BraTS-SSA-00012-000") == "BraTS-SSA-00012"
    assert patient_of("BraTS2021_01476") == "BraTS2021_01476"


def test_folders_flat_files_and_one_case_alone(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/b-t1n.nii.gz",
        "a/a-t1n.nii.gz",
        "c-t1n.nii.gz",
        "._c-t1c.nii.gz",
        ".x/x-t1n.nii.gz",
        "notes.txt",
    )
    assert [case.name for case in open_brats(tmp_path, name="s").cases] == ["a", "b", "c"]
    assert [case.name for case in open_brats(tmp_path / "a", name="s").cases] == ["a"]


def test_a_label_without_images_is_left_out_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "a/a-t1n.nii.gz", "b/b-seg.nii.gz")
    cohort = open_brats(tmp_path, name="s")
    assert [case.name for case in cohort.cases] == ["a"]
    assert cohort.notes == ("b: a label and no image; left out",)


def test_refusals(tmp_path: Path) -> None:
    touch(tmp_path, "a/a-t1n.nii.gz", "a/a-t1n.nii", "empty/readme.txt")
    with pytest.raises(DataError, match=r"case a: two files for t1n, a-t1n\.nii and a-t1n\.nii\.gz"):
        open_brats(tmp_path, name="s")
    with pytest.raises(DataError, match="empty: no case found"):
        open_brats(tmp_path / "empty", name="s")


def labelled(folder: Path, name: str, *codes: int) -> Case:
    array = np.zeros((3, 3, 3), dtype=np.uint8)
    array.ravel()[: len(codes)] = codes
    path = folder / f"{name}-seg.nii.gz"
    write_volume(path, Volume(array, np.eye(4)))
    return Case(name, name, {}, label=path)


def test_label_map_from_the_codes_of_the_whole_cohort(tmp_path: Path) -> None:
    old = [labelled(tmp_path, "a", 1, 2), labelled(tmp_path, "b", 1, 2, 4)]
    new = [labelled(tmp_path, "c", 1, 2, 3), labelled(tmp_path, "d")]
    assert infer_label_map(old) == (LABELS_2021, None)
    assert infer_label_map(new) == (LABELS_2023, None)
    open_year, note = infer_label_map(old[:1])
    assert open_year == LABELS_2023
    assert note is not None
    assert "no label file holds ET" in note
    assert infer_label_map([Case("e", "e", {})]) == (None, None)


def test_labels_that_fit_no_year_name_the_case(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="case b: label code 9 is none of BraTS"):
        infer_label_map([labelled(tmp_path, "a", 1), labelled(tmp_path, "b", 1, 9)])
    with pytest.raises(DataError, match="case d has label code 3 and case c has 4"):
        infer_label_map([labelled(tmp_path, "c", 4), labelled(tmp_path, "d", 3)])
    touch(tmp_path, "e-seg.nii.gz")
    with pytest.raises(DataError, match=r"case e: e-seg\.nii\.gz: not a NIfTI"):
        infer_label_map([Case("e", "e", {}, label=tmp_path / "e-seg.nii.gz")])


def test_a_label_that_changed_is_read_again(tmp_path: Path) -> None:
    case = labelled(tmp_path, "a", 1, 2, 4)
    assert infer_label_map([case])[0] == LABELS_2021
    labelled(tmp_path, "a", 1, 2, 3, 3)
    assert infer_label_map([case])[0] == LABELS_2023
