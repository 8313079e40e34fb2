from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from scipy import ndimage

from common.metrics import (
    REGIONS,
    LesionScore,
    RegionScore,
    assd_mm,
    diagonal_mm,
    dice,
    hd95_mm,
    lesion_scores,
    nsd,
    scores,
    surface_distances,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")

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


def blobs(seed: int, shape: tuple[int, int, int] = (30, 26, 20)) -> Mask:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return np.asarray(noise > np.quantile(noise, 0.8))


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
    for first, second in ((nothing, something), (something, nothing)):
        score = one(first, second, (1.0, 2.0, 3.0))
        assert (score.dice, score.nsd, score.rule) == (0, 0, "one-empty")
        assert score.hd95_mm == score.assd_mm == pytest.approx(diagonal)
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
    assert found["ET"].rule == "one-empty"


@settings(max_examples=60, deadline=None)
@given(prediction=masks, label=masks, spacing=spacings)
def test_invariants(prediction: Mask, label: Mask, spacing: tuple[float, ...]) -> None:
    forth, back = one(prediction, label, spacing), one(label, prediction, spacing)
    assert forth == back or forth.assd_mm == pytest.approx(back.assd_mm)
    assert 0 <= forth.dice <= 1
    assert 0 <= forth.nsd <= 1
    assert 0 <= forth.hd95_mm <= diagonal_mm(label.shape, spacing)
    itself = one(label, label, spacing)
    assert (itself.dice, itself.hd95_mm, itself.assd_mm, itself.nsd) == (1, 0, 0, 1)


@settings(max_examples=20, deadline=None)
@given(prediction=masks, label=masks, spacing=spacings)
def test_agrees_with_monai_on_small_masks(prediction: Mask, label: Mask, spacing: tuple[float, ...]) -> None:
    if prediction.any() and label.any():
        _compare_with_monai(prediction, label, spacing)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 6.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_monai_on_blobs(seed: int, spacing: tuple[float, ...]) -> None:
    _compare_with_monai(blobs(seed), blobs(seed + 10), spacing)


def _compare_with_monai(prediction: Mask, label: Mask, spacing: tuple[float, ...]) -> None:
    ours = one(prediction, label, spacing)
    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, label))
    theirs = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=list(spacing))
    # MONAI interpolates the percentile in float32: 0.7499886 where 0.75 is exact.
    assert ours.hd95_mm == pytest.approx(float(theirs), rel=1e-4, abs=1e-4)
    pooled = compute_average_surface_distance(
        a, b, include_background=True, symmetric=True, spacing=list(spacing)
    )
    assert ours.assd_mm == pytest.approx(float(pooled), rel=1e-5, abs=1e-5)
    _, distances, _ = get_edge_surface_distance(
        torch.from_numpy(prediction), torch.from_numpy(label), spacing=list(spacing), symmetric=True
    )
    within = sum(float((one_way <= 1.0).sum()) for one_way in distances)
    assert ours.nsd == pytest.approx(within / sum(len(one_way) for one_way in distances))
    forth, back = surface_distances(prediction, label, spacing)
    assert assd_mm(forth, back) == ours.assd_mm
    assert nsd(forth, back, tolerance_mm=1.0) == ours.nsd


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


@pytest.mark.parametrize("seed", range(3))
def test_lesions_against_the_algorithm_written_plainly(seed: int) -> None:
    label, prediction = blobs(seed) & blobs(seed + 50), blobs(seed) & ~blobs(seed + 20)
    label = ndimage.binary_opening(label)
    score = lesions(prediction, label, dilation=1, smallest_mm3=5)
    dices, false = _plain_lesion_dices(prediction, label, dilation=1, smallest=5)
    assert score.false == false
    assert score.lesions == len(dices)
    assert score.dice == pytest.approx(sum(dices) / (len(dices) + false))


def _plain_lesion_dices(
    prediction: Mask, label: Mask, *, dilation: int, smallest: int
) -> tuple[list[float], int]:
    """Whole-image masks, one loop over all pairs; no boxes, no early ends."""
    near, touch = ndimage.generate_binary_structure(3, 2), ndimage.generate_binary_structure(3, 3)
    merged, count = ndimage.label(ndimage.binary_dilation(label, near, iterations=dilation), touch)
    components, predicted = ndimage.label(prediction, touch)
    never_matched = set(range(1, predicted + 1))
    dices = []
    for number in range(1, count + 1):
        lesion = label & (merged == number)
        zone = ndimage.binary_dilation(lesion, near, iterations=dilation)
        found = np.zeros_like(lesion)
        for component in range(1, predicted + 1):
            if (zone & (components == component)).any():
                never_matched.discard(component)
                found |= components == component
        if lesion.sum() > smallest:
            dices.append(2 * (found & lesion).sum() / (found.sum() + lesion.sum()))
    return dices, len(never_matched)


def test_refusals() -> None:
    cubes = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="shapes"):
        scores(cubes, cubes[1:], (1, 1, 1))
    with pytest.raises(ValueError, match="shapes"):
        lesion_scores(cubes[0], cubes[0], (1, 1, 1))
    with pytest.raises(ValueError, match="three positive"):
        scores(cubes, cubes, (1, 1, 0))


def test_a_full_grid_takes_a_fraction_of_a_second(shared_data: Path) -> None:
    """The expert's label against itself moved by 3 mm, on 240x240x155: HD95 is near 3 mm."""
    from common.data.volume import read_label

    folder = shared_data / "glioma_brats2021" / "BraTS2021_01479"
    label = read_label(folder / "BraTS2021_01479-seg.nii.gz").array
    label = np.where(label == 4, 3, label)
    found = scores(np.roll(label, 3, axis=0), label, (1.0, 1.0, 1.0))
    assert 2 <= found["WT"].hd95_mm <= 3
    assert all(score.rule == "measured" for score in found.values())
