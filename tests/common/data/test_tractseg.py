"""Folders in TractSeg's manner: what is found, how it is prepared, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from common.data.geometry import paste, to_box
from common.data.tractseg import bits_of, check_subject, open_tractseg, prepare, truth_of
from common.data.volume import Volume, read_label, write_volume
from common.errors import DataError
from common.metrics import scores

SHAPE = (20, 24, 18)
AFFINE = np.array(
    [[-2.0, 0.0, 0.0, 19.0], [0.0, 2.0, 0.0, -23.0], [0.0, 0.0, 2.0, -17.0], [0.0, 0.0, 0.0, 1.0]]
)

MOVED = AFFINE + np.array([[0, 0, 0, 5.0], [0] * 4, [0] * 4, [0] * 4])


def box(low: int, high: int) -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[low:high, 6:16, 5:12] = 1
    return mask


def subject(folder: Path, name: str = "s1", *, masks: str = "bundle_masks", peaks: int = 9) -> Path:
    """A subject with T1w, FA, peaks and two bundles that overlap in one slab."""
    place = folder / name
    (place / masks).mkdir(parents=True)
    rng = np.random.default_rng(1)
    brain = np.zeros(SHAPE, bool)
    brain[2:18, 2:22, 2:16] = True
    write_volume(
        place / "T1w.nii.gz",
        Volume(np.where(brain, rng.integers(100, 900, SHAPE), 0).astype(np.int16), AFFINE),
    )
    write_volume(
        place / "FA.nii.gz", Volume(np.where(brain, rng.random(SHAPE), 0).astype(np.float32), AFFINE)
    )
    vectors = np.where(brain[..., None], rng.standard_normal((*SHAPE, peaks)), 0).astype(np.float32)
    write_volume(place / "peaks.nii.gz", Volume(vectors, AFFINE))
    for bundle, mask in (("AF_left", box(4, 10)), ("CST_left", box(9, 14))):
        write_volume(place / masks / f"{bundle}.nii.gz", Volume(mask, AFFINE))
    return place


def test_a_subject_is_found_where_tractseg_itself_puts_it(tmp_path: Path) -> None:
    place = subject(tmp_path, masks="tractseg_output/bundle_segmentations")
    (place / "peaks.nii.gz").rename(place / "tractseg_output" / "peaks.nii.gz")
    write_volume(place / "tumor_mask.nii.gz", Volume(box(0, 3), AFFINE))

    (found,) = open_tractseg(tmp_path)

    assert list(found.bundles) == ["AF_left", "CST_left"]
    assert found.images["peaks"].parent.name == "tractseg_output"
    assert found.lesion is not None
    assert check_subject(found, modalities=("t1", "peaks"), bundles=("AF_left",)) == {"t1": 1, "peaks": 9}


def test_overlapping_bundles_are_bits_of_one_volume(tmp_path: Path) -> None:
    subject(tmp_path)
    (found,) = open_tractseg(tmp_path)

    bits = truth_of(found, ("AF_left", "CST_left")).array

    assert set(np.unique(bits)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(bits & 1, box(4, 10))
    np.testing.assert_array_equal(bits >> 1, box(9, 14))
    assert bits_of(("a", "b")) == {"a": (1, 3), "b": (2, 3)}
    regions = scores(bits, bits, (2, 2, 2), bits_of(("AF_left", "CST_left")))
    assert {name: score.dice for name, score in regions.items()} == {"AF_left": 1.0, "CST_left": 1.0}


def test_prepared_maps_are_scored_inside_the_brain_and_peaks_keep_their_direction(tmp_path: Path) -> None:
    subject(tmp_path)
    (found,) = open_tractseg(tmp_path)
    bundles = ("AF_left", "CST_left")

    t1, peaks = (prepare(found, name, bundles=bundles, spacing_mm=None) for name in ("t1", "peaks"))

    inside = t1.image != 0
    assert t1.image[inside].mean() == pytest.approx(0, abs=0.01)
    assert t1.image[inside].astype(float).std() == pytest.approx(1, abs=0.01)
    assert np.percentile(
        np.linalg.norm(peaks.image.astype(float), axis=0)[peaks.image.any(0)], 99
    ) == pytest.approx(1, abs=0.01)
    assert t1.label is not None
    back = paste(
        to_box((t1.label[None] >> 1).astype(np.float32), t1.geometry)[0].astype(np.uint8), t1.geometry
    )
    np.testing.assert_array_equal(back, box(9, 14))


def test_the_working_grid_may_be_coarser(tmp_path: Path) -> None:
    subject(tmp_path)
    (found,) = open_tractseg(tmp_path)

    case = prepare(found, "fa", bundles=("AF_left",), spacing_mm=4.0)

    assert case.label is not None
    assert case.geometry.spacing_mm == (4.0, 4.0, 4.0)
    assert int(case.label.sum()) * 64 == pytest.approx(int(box(4, 10).sum()) * 8, rel=0.5)


def test_a_peak_that_is_missing_is_nan_in_mrtrix_and_0_here(tmp_path: Path) -> None:
    place = subject(tmp_path, peaks=3)
    vectors = np.asarray(nib.load(place / "peaks.nii.gz").dataobj).copy()
    vectors[5, 6, 7] = np.nan
    nib.save(nib.Nifti1Image(vectors, AFFINE), place / "peaks.nii.gz")
    (found,) = open_tractseg(tmp_path)

    case = prepare(found, "peaks", bundles=("AF_left",), spacing_mm=None)

    assert np.isfinite(case.image).all()
    nib.save(nib.Nifti1Image(vectors[..., 0], AFFINE), place / "FA.nii.gz")
    with pytest.raises(DataError, match="NaN"):
        prepare(found, "fa", bundles=("AF_left",), spacing_mm=None)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no subject found"):
        open_tractseg(tmp_path)
    place = subject(tmp_path)
    (found,) = open_tractseg(tmp_path)
    with pytest.raises(DataError, match="case s1: has no mask of bundle UF_left; it has AF_left, CST_left"):
        check_subject(found, modalities=("t1",), bundles=("UF_left",))
    with pytest.raises(DataError, match="at most 8"):
        truth_of(found, ("AF_left",) * 9)
    (place / "FA.nii.gz").unlink()
    (found,) = open_tractseg(tmp_path)
    with pytest.raises(DataError, match="case s1: has no fa; it has t1, peaks"):
        check_subject(found, modalities=("fa",), bundles=("AF_left",))
    write_volume(place / "bundle_masks" / "CST_left.nii.gz", Volume(box(9, 14), MOVED))
    with pytest.raises(DataError, match="another grid"):
        check_subject(found, modalities=("t1",), bundles=("AF_left", "CST_left"))
    write_volume(place / "x_FA.nii.gz", Volume(box(0, 3), AFFINE))
    write_volume(place / "y_FA.nii.gz", Volume(box(0, 3), AFFINE))
    with pytest.raises(DataError, match="could be x_FA"):
        open_tractseg(tmp_path)


def test_masks_that_do_not_say_which_bundle_they_are_are_refused(tmp_path: Path) -> None:
    place = subject(tmp_path)
    for path in (place / "bundle_masks").iterdir():
        path.unlink()
    (place / "bundle_masks").rmdir()
    (found,) = open_tractseg(tmp_path)
    with pytest.raises(DataError, match="no bundle masks"):
        check_subject(found, modalities=("t1",), bundles=("AF_left",))
    write_volume(place / "bundle_masks.nii.gz", Volume(np.stack([box(4, 10)] * 2, -1), AFFINE))
    with pytest.raises(DataError, match="does not say which bundles"):
        open_tractseg(tmp_path)


def test_two_folders_of_masks_are_refused(tmp_path: Path) -> None:
    place = subject(tmp_path)
    (place / "bundle_segmentations").mkdir()
    with pytest.raises(DataError, match="both hold masks"):
        open_tractseg(tmp_path)


def test_what_shows_nothing_is_refused(tmp_path: Path) -> None:
    place = subject(tmp_path)
    write_volume(place / "FA.nii.gz", Volume(np.zeros(SHAPE, np.float32), AFFINE))
    (found,) = open_tractseg(tmp_path)
    with pytest.raises(DataError, match="0 everywhere"):
        prepare(found, "fa", bundles=("AF_left",), spacing_mm=None)
    write_volume(place / "FA.nii.gz", Volume(np.ones(SHAPE, np.float32), AFFINE))
    with pytest.raises(DataError, match="one value"):
        prepare(found, "fa", bundles=("AF_left",), spacing_mm=None)
    write_volume(place / "peaks.nii.gz", Volume(box(0, 4), AFFINE))
    assert read_label(found.bundles["AF_left"]).array.any()
