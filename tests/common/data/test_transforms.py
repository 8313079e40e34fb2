from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.data.cases import Case, Cohort, ImageSource
from common.data.intake import open_cohort
from common.data.transforms import Preparation, PreparedCase, expert_label, prepare, restore
from common.data.volume import Volume, read_label, read_volume, write_volume
from common.errors import DataError
from common.metrics import dice
from tests.common.data.conftest import WriteCase

GLIOMA = ("NCR", "ED", "ET")


def one_hot(case: PreparedCase) -> NDArray[np.float32]:
    assert case.label is not None
    return np.stack([case.label == code for code in range(4)]).astype(np.float32)


@pytest.fixture
def cohort(tmp_path: Path, write_case: WriteCase) -> Cohort:
    write_case(tmp_path, "a", et=4)
    return open_cohort(tmp_path, "site")


def test_image_is_scored_inside_the_brain_and_zero_outside(cohort: Cohort) -> None:
    prepared = prepare(cohort.cases[0], cohort, Preparation(GLIOMA))
    assert prepared.image.dtype == np.float16
    assert prepared.label is not None
    assert prepared.image.shape == (4, *prepared.label.shape) == (4, *prepared.geometry.working_shape)
    assert prepared.present == (True,) * 4
    brain = np.any(prepared.image != 0, axis=0)
    for channel in prepared.image.astype(np.float64):
        assert abs(channel[brain].mean()) < 1e-3
        assert abs(channel[brain].std() - 1) < 1e-3
    # The file's axes are y, -x and z.
    assert prepared.geometry.axes == (1, 0, 2)
    assert prepared.geometry.scan_spacing_mm == (1.0, 1.5, 2.0)


def test_the_label_comes_back_exactly_at_the_scans_own_spacing(cohort: Cohort) -> None:
    case = cohort.cases[0]
    prepared = prepare(case, cohort, Preparation(GLIOMA))
    expected = expert_label(case, cohort, GLIOMA)
    assert np.array_equal(restore(one_hot(prepared), prepared.geometry), expected.array)
    assert case.label is not None
    assert np.array_equal(expected.array == 3, read_label(case.label).array == 4)


def test_structures_not_asked_for_become_background_and_order_gives_codes(cohort: Cohort) -> None:
    label = expert_label(cohort.cases[0], cohort, ("ET", "NCR")).array
    all_of_it = expert_label(cohort.cases[0], cohort, GLIOMA).array
    assert np.array_equal(label == 1, all_of_it == 3)
    assert np.array_equal(label == 2, all_of_it == 1)
    assert label.max() == 2


def test_a_modality_that_was_not_acquired_is_zero(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "a", modalities=("t1n", "t2f"), label=False)
    cohort = open_cohort(tmp_path)
    prepared = prepare(cohort.cases[0], cohort, Preparation(GLIOMA, spacing_mm=2.0))
    assert prepared.present == (True, False, False, True)
    assert not prepared.image[1:3].any()
    assert prepared.image[0].any()
    assert prepared.label is None


def test_outliers_do_not_set_the_scale(cohort: Cohort) -> None:
    case = cohort.cases[0]
    before = prepare(case, cohort, Preparation(GLIOMA)).image[0]
    path = case.images["t1n"].path
    scan = read_volume(path, dtype=np.int32)
    scan.array[12, 15, 8] = 2_000_000
    write_volume(path, scan)
    after = prepare(case, cohort, Preparation(GLIOMA)).image[0]
    assert float(np.abs(after.astype(np.float32)).max()) < 3
    assert np.median(np.abs(after.astype(np.float32) - before)) < 0.02


def test_degradation_is_seeded_by_the_case_and_keeps_brain_and_label(cohort: Cohort) -> None:
    plain = prepare(cohort.cases[0], cohort, Preparation(GLIOMA))
    asked = Preparation(GLIOMA, degradation="ultra-low")
    poor = prepare(cohort.cases[0], cohort, asked)
    again = prepare(cohort.cases[0], replace(cohort, degraded="ultra-low"), Preparation(GLIOMA))
    assert np.array_equal(poor.image, again.image)
    assert not np.array_equal(poor.image, plain.image)
    assert poor.label is not None
    assert plain.label is not None
    assert np.array_equal(poor.label, plain.label)
    assert poor.geometry == plain.geometry


def test_refusals_name_the_case(tmp_path: Path, write_case: WriteCase, cohort: Cohort) -> None:
    case = cohort.cases[0]
    with pytest.raises(DataError, match=r"label map .* has no CSF"):
        prepare(case, cohort, Preparation(("CSF",)))
    with pytest.raises(DataError, match="case a: label code 4 is not in the cohort's label map"):
        prepare(case, replace(cohort, label_map={"NCR": 1, "ED": 2, "ET": 3}), Preparation(GLIOMA))
    with pytest.raises(DataError, match="case a: has none of pet"):
        prepare(case, cohort, Preparation(GLIOMA, modalities=("pet",)))
    with pytest.raises(DataError, match="case b: has no label"):
        expert_label(Case("b", "b", {}), cohort, GLIOMA)
    (case.images["t1c"].path).write_bytes(b"no")
    with pytest.raises(DataError, match=r"case a: a-t1c\.nii\.gz: not a NIfTI"):
        prepare(case, cohort, Preparation(GLIOMA))


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("t2w", lambda array: array[1:], "t2w lies on another grid than t1n"),
        ("seg", lambda array: array[1:], "the label lies on another grid"),
        ("t2w", lambda array: np.full_like(array, 7), "t2w has one value in the whole brain"),
    ],
)
def test_scans_that_do_not_belong_together(cohort: Cohort, part: str, change: object, words: str) -> None:
    case = cohort.cases[0]
    assert case.label is not None
    assert callable(change)
    path = case.label if part == "seg" else case.images[part].path
    scan = read_label(path) if part == "seg" else read_volume(path, dtype=np.int16)
    write_volume(path, Volume(change(scan.array), scan.affine))
    with pytest.raises(DataError, match=f"case a: {words}"):
        prepare(case, cohort, Preparation(GLIOMA))


def test_an_empty_scan(tmp_path: Path) -> None:
    write_volume(tmp_path / "z-t1n.nii", Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)))
    case = Case("z", "z", {"t1n": ImageSource(tmp_path / "z-t1n.nii")})
    with pytest.raises(DataError, match="case z: every voxel is zero"):
        prepare(case, Cohort("s", tmp_path, (case,)), Preparation(GLIOMA))


def test_restore_refuses_another_grid(cohort: Cohort) -> None:
    geometry = prepare(cohort.cases[0], cohort, Preparation(GLIOMA)).geometry
    with pytest.raises(ValueError, match="probabilities of shape"):
        restore(np.zeros((4, 3, 3, 3), np.float32), geometry)


@pytest.mark.parametrize(
    ("spacing_mm", "whole", "structures"), [(None, 1.0, 1.0), (2.0, 0.95, 0.8), (3.0, 0.94, 0.7)]
)
def test_real_gliomas_there_and_back(
    shared_data: Path, spacing_mm: float | None, whole: float, structures: float
) -> None:
    """What a perfect network could reach at a working spacing: the label's own way there and back."""
    cohort = open_cohort(shared_data / "glioma_brats2021")
    means = []
    for case in (cohort.cases[0], cohort.cases[2]):
        prepared = prepare(case, cohort, Preparation(GLIOMA, modalities=("t2f",), spacing_mm=spacing_mm))
        back = restore(one_hot(prepared), prepared.geometry)
        truth = expert_label(case, cohort, GLIOMA).array
        assert back.shape == truth.shape
        assert dice(back > 0, truth > 0) >= whole
        means.append(np.mean([dice(back == code, truth == code) for code in (1, 2, 3)]))
    assert np.mean(means) >= structures


def test_a_low_field_scan_of_four_slices(shared_data: Path) -> None:
    cohort = open_cohort(shared_data / "lowfield_0p055T")
    case = next(case for case in cohort.cases if case.name == "ulf-6A_0p055T")
    prepared = prepare(case, cohort, Preparation(GLIOMA, spacing_mm=3.0))
    assert prepared.present == (True, False, True, True)
    # Four slices of 10 mm make 40 mm: 14 working voxels, of which the outermost reach over the edge.
    assert prepared.geometry.working_shape == (84, 84, 14)
