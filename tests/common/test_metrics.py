from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from common.metrics import (
    REGIONS,
    LesionScore,
    RegionScore,
    diagonal_mm,
    dice,
    hd95_mm,
    lesion_scores,
    scores,
    surface_distances,
)

Mask = NDArray[np.bool_]
ONE = {"A": (1,)}
masks = arrays(np.bool_, (6, 5, 4))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 6.0])] * 3)


def cube(
    low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, ...] = (12, 12, 12)
) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def one(
    prediction: Mask, label: Mask, spacing: tuple[float, ...] = (1, 1, 1), *, tolerance_mm: float = 1.0
) -> RegionScore:
    codes = prediction.astype(np.uint8), label.astype(np.uint8)
    return scores(*codes, spacing, ONE, nsd_tolerance_mm=tolerance_mm)["A"]


def test_two_voxels_apart_along_an_anisotropic_axis() -> None:
    """One voxel each, two steps of 3 mm apart: every distance is 6 mm."""
    first, second = cube((2, 2, 2), (3, 3, 3)), cube((2, 2, 4), (3, 3, 5))
    score = one(first, second, (1.0, 2.0, 3.0))
    assert (score.dice, score.hd95_mm, score.assd_mm, score.nsd, score.rule) == (0, 6, 6, 0, "measured")
    assert one(first, second, (3.0, 2.0, 1.0)).hd95_mm == 2


def test_a_cube_moved_by_one_voxel() -> None:
    """3x3x3 against the same moved by one along x (2 mm): overlap 18 of 27, Dice 2 x 18 / 54.

    Of each cube's 26 surface voxels, the 9 of the far face lie 2 mm from the other surface. Of the rest, all
    lie on the other surface but one: the middle of the face that dips into the other cube coincides with its
    buried centre, whose nearest surface voxel is 1 mm away (y and z steps are 1 mm).
    """
    first, second = cube((3, 3, 3), (6, 6, 6)), cube((4, 3, 3), (7, 6, 6))
    score = one(first, second, (2.0, 1.0, 1.0))
    assert score.dice == pytest.approx(36 / 54)
    assert score.hd95_mm == 2
    assert score.assd_mm == pytest.approx((9 * 2 + 1) / 26)
    assert score.nsd == pytest.approx(17 / 26)
    assert one(first, second, (2.0, 1.0, 1.0), tolerance_mm=2.0).nsd == 1


def test_hd95_is_the_larger_directed_percentile_not_the_pooled_one() -> None:
    """The label is the prediction and one far voxel: from the prediction all distances are 0."""
    prediction = cube((0, 0, 0), (4, 4, 1), (4, 4, 40))
    label = prediction.copy()
    label[0, 0, 31:33] = True
    forth, back = surface_distances(prediction, label, (1, 1, 1))
    assert forth.max() == 0
    assert hd95_mm(forth, back) == pytest.approx(np.percentile([0.0] * 16 + [31.0, 32.0], 95))
    assert hd95_mm(forth, back) > np.percentile(np.concatenate([forth, back]), 95)


def test_the_two_average_distances_differ_where_surfaces_do() -> None:
    """16 voxels against the same 16 and two at 31 and 32 mm: none of 16, 63 mm of 18.

    Pooled 63 / 34; the mean of the directed means 0 and 63 / 18 is 63 / 36.
    """
    prediction = cube((0, 0, 0), (4, 4, 1), (4, 4, 40))
    label = prediction.copy()
    label[0, 0, 31:33] = True
    score = one(prediction, label)
    assert score.assd_mm == pytest.approx(63 / 34)
    assert score.masd_mm == pytest.approx(63 / 36)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_along_an_axis_is_that_axis_of_the_spacing(axis: int) -> None:
    """One voxel against its neighbour: the spacing follows the array's axes, not their reverse."""
    first, second = cube((5, 5, 5), (6, 6, 6)), np.roll(cube((5, 5, 5), (6, 6, 6)), 1, axis=axis)
    score = one(first, second, (1.0, 2.5, 6.0))
    assert score.hd95_mm == score.assd_mm == score.masd_mm == (1.0, 2.5, 6.0)[axis]


def test_the_nearest_way_is_the_one_of_fewer_millimetres() -> None:
    """From (0, 0, 0), one step of 6 mm leads to one label voxel and three of 1 mm to the other: 3 mm.

    Back, the near voxel is 3 mm away and the other 6: ASSD (3 + 3 + 6) / 3, MASD (3 + 4.5) / 2, and the 95th
    percentile of 3 and 6 is 3 + 0.95 x 3.
    """
    prediction, label = cube((0, 0, 0), (1, 1, 1)), cube((3, 0, 0), (4, 1, 1)) | cube((0, 0, 1), (1, 1, 2))
    score = one(prediction, label, (1.0, 1.0, 6.0), tolerance_mm=3.0)
    assert score.hd95_mm == pytest.approx(5.85)
    assert (score.assd_mm, score.masd_mm) == (4, 3.75)
    assert score.nsd == pytest.approx(2 / 3)


def test_a_block_cut_off_by_the_images_edge() -> None:
    """Three layers of 4x4 at the edge, against the outermost alone, 2 mm apart.

    The block's surface is all of its 48 voxels but the 4 in the middle layer's middle, since beyond the image
    is outside. To the layer: 16 are at 0 mm, 12 at 2, 16 at 4; the 95th percentile of 44 is 4. Back, all
    16 are on the block's surface.
    """
    block, layer = cube((0, 0, 0), (3, 4, 4), (8, 4, 4)), cube((0, 0, 0), (1, 4, 4), (8, 4, 4))
    for flipped in (False, True):
        masks_ = [mask[::-1] if flipped else mask for mask in (block, layer)]
        score = one(masks_[0], masks_[1], (2.0, 1.0, 1.0))
        assert score.dice == pytest.approx(2 * 16 / 64)
        assert score.hd95_mm == 4
        assert score.assd_mm == pytest.approx((12 * 2 + 16 * 4) / 60)
        assert score.masd_mm == pytest.approx((12 * 2 + 16 * 4) / 44 / 2)
        assert score.nsd == pytest.approx((16 + 16) / 60)


def test_a_tolerance_is_not_missed_by_rounding() -> None:
    """Three voxels of a third of a millimetre, as a header's float32 says it, are 1 mm."""
    third = float(np.float32(1 / 3))
    assert 3 * third > 1
    assert one(cube((2, 2, 2), (3, 3, 3)), cube((5, 2, 2), (6, 3, 3)), (third, 1.0, 1.0)).nsd == 1


def test_what_lies_around_the_structures_changes_nothing() -> None:
    """The same two masks in the middle of a larger image: same distances, measured in the box around them."""
    first, second = cube((1, 2, 0), (5, 6, 7)), cube((2, 2, 1), (7, 5, 7))
    padded = [np.pad(mask, ((9, 4), (0, 11), (5, 5))) for mask in (first, second)]
    padded[0][0, -1, -1] = padded[1][0, -1, -1] = True
    first[11, 0, 11] = second[11, 0, 11] = True
    far = one(first, second, (1.0, 2.0, 0.5))
    assert one(padded[0], padded[1], (1.0, 2.0, 0.5)) == far


def test_voxels_at_the_images_edge_are_surface() -> None:
    """A full image is all inside; its surface is its border, and a voxel in the middle is 1 away from it."""
    full, middle = np.ones((3, 3, 3), dtype=bool), cube((1, 1, 1), (2, 2, 2), (3, 3, 3))
    forth, back = surface_distances(full, middle, (1, 1, 1))
    assert len(forth) == 26
    assert back.tolist() == [1.0]
    assert forth.max() == pytest.approx(sqrt(3))


def test_empty_masks() -> None:
    nothing, something = np.zeros((12, 12, 12), bool), cube((1, 1, 1), (2, 2, 2))
    both = one(nothing, nothing)
    assert (both.dice, both.hd95_mm, both.assd_mm, both.nsd, both.rule) == (1, 0, 0, 1, "both-empty")
    diagonal = sqrt(12**2 + 24**2 + 36**2)
    for first, second, empty in ((nothing, something, "missed"), (something, nothing, "false")):
        score = one(first, second, (1.0, 2.0, 3.0))
        assert (score.dice, score.nsd, score.rule) == (0, 0, empty)
        assert score.hd95_mm == score.assd_mm == score.masd_mm == pytest.approx(diagonal)
    assert dice(nothing, nothing) == 1
    assert diagonal_mm((240, 240, 155), (1, 1, 1)) == pytest.approx(373.13, abs=0.01)


def test_regions_are_unions_of_codes() -> None:
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    label[0, 0, :3] = (1, 2, 3)
    prediction = np.where(label == 3, 1, label)
    found = scores(prediction, label, (1, 1, 1))
    assert set(found) == set(REGIONS)
    assert (found["WT"].dice, found["TC"].dice, found["ED"].dice) == (1, 1, 1)
    assert found["NCR"].dice == pytest.approx(2 / 3)
    assert found["ET"].rule == "missed"


@settings(max_examples=60, deadline=None)
@given(prediction=masks, label=masks, spacing=spacings)
def test_invariants(prediction: Mask, label: Mask, spacing: tuple[float, ...]) -> None:
    forth, back = one(prediction, label, spacing), one(label, prediction, spacing)
    assert forth == back or forth.assd_mm == pytest.approx(back.assd_mm)
    assert 0 <= forth.dice <= 1
    assert 0 <= forth.nsd <= 1
    assert 0 <= forth.hd95_mm <= diagonal_mm(label.shape, spacing)
    assert min(forth.assd_mm, forth.masd_mm) <= diagonal_mm(label.shape, spacing)
    itself = one(label, label, spacing)
    assert (itself.dice, itself.hd95_mm, itself.assd_mm, itself.nsd) == (1, 0, 0, 1)


def lesions(prediction: Mask, label: Mask, *, dilation: int = 3, smallest_mm3: float = 50.0) -> LesionScore:
    codes = prediction.astype(np.uint8), label.astype(np.uint8)
    return lesion_scores(*codes, (1, 1, 1), ONE, dilation=dilation, smallest_mm3=smallest_mm3)["A"]


SIZE = (40, 40, 40)


def test_lesions_by_hand() -> None:
    """Three expert lesions far apart, of 64, 125 and 27 mm3; the last is too small to be scored.

    The first is found exactly (Dice 1, 0 mm), the second is missed (0, diagonal), the third is found and
    so not false; one component lies nowhere near: (1 + 0 + 0) / 3 and two diagonals of three.
    """
    first, missed = cube((2, 2, 2), (6, 6, 6), SIZE), cube((2, 2, 20), (7, 7, 25), SIZE)
    small, false = cube((20, 20, 2), (23, 23, 5), SIZE), cube((30, 30, 30), (36, 36, 36), SIZE)
    score = lesions(first | small | false, first | missed | small)
    assert score.dice == pytest.approx(1 / 3)
    assert score.hd95_mm == pytest.approx(2 / 3 * diagonal_mm(SIZE, (1, 1, 1)))
    assert (score.lesions, score.missed, score.false) == (2, 1, 1)


def test_expert_components_that_nearly_touch_are_one_lesion() -> None:
    """Six voxels apart, both widened by three: they touch. Ten apart they do not, and one is missed."""
    left = cube((2, 2, 2), (6, 6, 6), SIZE)
    for gap, count in ((6, 1), (10, 2)):
        right = cube((6 + gap, 2, 2), (10 + gap, 6, 6), SIZE)
        score = lesions(left, left | right)
        assert (score.lesions, score.missed) == (count, count - 1)
        assert score.dice == pytest.approx(2 * 64 / (64 + 128) if count == 1 else 0.5)


def test_a_component_may_serve_two_lesions() -> None:
    left, right = cube((2, 2, 2), (6, 6, 6), SIZE), cube((16, 2, 2), (20, 6, 6), SIZE)
    bridge = cube((2, 2, 2), (20, 6, 6), SIZE)
    score = lesions(bridge, left | right)
    assert (score.lesions, score.missed, score.false) == (2, 0, 0)
    assert score.dice == pytest.approx(2 * 64 / (64 + bridge.sum()))


def test_lesions_of_empty_masks() -> None:
    nothing, something = np.zeros(SIZE, bool), cube((2, 2, 2), (8, 8, 8), SIZE)
    assert lesions(nothing, nothing).dice == 1
    assert lesions(nothing, nothing).hd95_mm == 0
    for pair in ((nothing, something), (something, nothing)):
        assert lesions(*pair).dice == 0
        assert lesions(*pair).hd95_mm == pytest.approx(diagonal_mm(SIZE, (1, 1, 1)))


def test_a_lone_lesion_too_small_to_score_counts_for_nothing() -> None:
    """Found or not: no lesion is scored and none is false."""
    small = cube((2, 2, 2), (5, 5, 5), SIZE)
    for prediction in (small, np.zeros(SIZE, bool)):
        assert (lesions(prediction, small).dice, lesions(prediction, small).hd95_mm) == (1, 0)
    assert lesions(small, small, smallest_mm3=0).lesions == 1


def test_refusals() -> None:
    cubes = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="shapes"):
        scores(cubes, cubes[1:], (1, 1, 1))
    with pytest.raises(ValueError, match="shapes"):
        lesion_scores(cubes[0], cubes[0], (1, 1, 1))
    with pytest.raises(ValueError, match="three positive"):
        scores(cubes, cubes, (1, 1, 0))
    with pytest.raises(ValueError, match="background"):
        scores(cubes, cubes, (1, 1, 1), {"all": (0, 1)})


def test_a_full_grid_takes_a_fraction_of_a_second(shared_data: Path) -> None:
    """The expert's label against itself moved by 3 mm, on 240x240x155: HD95 is near 3 mm."""
    from common.data.volume import read_label

    folder = shared_data / "glioma_brats2021" / "BraTS2021_01479"
    label = read_label(folder / "BraTS2021_01479-seg.nii.gz").array
    label = np.where(label == 4, 3, label)
    found = scores(np.roll(label, 3, axis=0), label, (1.0, 1.0, 1.0))
    assert 2 <= found["WT"].hd95_mm <= 3
    assert all(score.rule == "measured" for score in found.values())
