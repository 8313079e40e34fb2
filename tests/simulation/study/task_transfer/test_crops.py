"""Boxes around structures: what they hold, what they tell, and the way back to the scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cases import Case, Cohort, ImageSource
from common.data.transforms import Preparation, PreparedCase, prepare
from common.data.volume import Volume, write_volume
from simulation.study.task_transfer.crops import Crop, crop_of, restored


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> PreparedCase:
    """A scan of 1 x 1 x 2 mm with a ball of 16 mm in axes L, P, S."""
    folder = tmp_path_factory.mktemp("scan")
    grid = np.stack(np.meshgrid(np.arange(60), np.arange(60), np.arange(30), indexing="ij"))
    away = np.linalg.norm(
        (grid - np.array([35, 25, 14])[:, None, None, None]) * [[[[1]]], [[[1]]], [[[2]]]], axis=0
    )
    label = (away <= 8).astype(np.uint8)
    scan = (100 + 100 * label + np.random.default_rng(1).integers(0, 20, label.shape)).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    write_volume(folder / "scan.nii.gz", Volume(scan, affine))
    write_volume(folder / "seg.nii.gz", Volume(label, affine))
    given = Case("a", "a", {"t1c": ImageSource(folder / "scan.nii.gz")}, label=folder / "seg.nii.gz")
    cohort = Cohort("c", folder, (given,), label_map={"GTV": 1})
    return prepare(given, cohort, Preparation(("GTV",), ("t1c",)))


def label_of(crop: Crop) -> np.ndarray:
    assert crop.seen.label is not None
    return crop.seen.label


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), drawn=st.booleans())
def test_a_crop_has_cubic_voxels_and_no_side_above_its_edge(
    case: PreparedCase, seed: int, drawn: bool
) -> None:
    crop = crop_of(case, edge=32, drawn=drawn, seed=seed)
    assert crop.seen.image.shape[1:] == label_of(crop).shape == crop.geometry.working_shape
    assert max(crop.geometry.working_shape) == 32
    assert len(set(crop.geometry.spacing_mm)) == 1
    assert set(np.unique(label_of(crop))) == {0, 1}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_expert_label_comes_back_to_the_scan(case: PreparedCase, seed: int) -> None:
    """Through a crop of 1 mm voxels or so: only voxels of the border may change."""
    crop = crop_of(case, edge=48, drawn=True, seed=seed)
    back = restored(label_of(crop).astype(np.float32), crop)
    expert = restored_expert(case)
    overlap = 2 * np.count_nonzero(back & expert) / (np.count_nonzero(back) + np.count_nonzero(expert))
    assert back.shape == expert.shape == (60, 60, 30)
    assert crop.outside == 0
    assert overlap > 0.9


def restored_expert(case: PreparedCase) -> np.ndarray:
    from common.data.geometry import paste

    assert case.label is not None
    return paste(case.label, case.geometry)


def test_the_same_seed_draws_the_same_box_and_another_another(case: PreparedCase) -> None:
    first, again, other = (crop_of(case, edge=32, drawn=True, seed=seed).geometry.box for seed in (1, 1, 2))
    assert first == again != other


def test_a_drawn_box_is_smaller_than_the_head(case: PreparedCase) -> None:
    drawn, whole = (crop_of(case, edge=32, drawn=drawn, seed=1) for drawn in (True, False))
    assert drawn.geometry.spacing_mm < whole.geometry.spacing_mm
    assert label_of(drawn).mean() > 2 * label_of(whole).mean()


def test_a_case_without_a_structure_is_seen_whole_and_says_so(case: PreparedCase) -> None:
    from dataclasses import replace

    assert case.label is not None
    crop = crop_of(replace(case, label=np.zeros_like(case.label)), edge=32, drawn=True, seed=1)
    assert crop.empty
    assert not label_of(crop).any()
    assert crop.geometry.box == tuple((0, side) for side in case.image.shape[1:])


def test_intensities_are_z_scores_of_the_crop(case: PreparedCase) -> None:
    seen = crop_of(case, edge=32, drawn=True, seed=1).seen.image.astype(np.float64)
    inside = seen[seen != 0]
    assert abs(inside.mean()) < 0.01
    assert inside.std() == pytest.approx(1, abs=0.01)
