"""The metrics against second implementations: MONAI's, and the definitions written out over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from math import dist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy import ndimage

from common.metrics import RegionScore, diagonal_mm, lesion_scores, scores

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
ONE = {"A": (1,)}
SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 6.0])] * 3)
masks = arrays(np.bool_, (6, 5, 4))
sparse = arrays(np.bool_, (8, 6, 5), elements=st.integers(0, 5).map(lambda n: n == 0))


def blobs(seed: int, shape: tuple[int, int, int] = (30, 26, 20)) -> Mask:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return np.asarray(noise > np.quantile(noise, 0.8))


def ours(prediction: Mask, label: Mask, spacing: Spacing) -> RegionScore:
    return scores(prediction.astype(np.uint8), label.astype(np.uint8), spacing, ONE)["A"]


def border(mask: Mask, spacing: Spacing) -> list[tuple[float, ...]]:
    """Places in mm of voxels of which a neighbour by a face is no voxel of the mask."""
    voxels = set(map(tuple, np.argwhere(mask).tolist()))
    steps = [tuple(sign * (axis == along) for axis in range(3)) for along in range(3) for sign in (-1, 1)]
    return [
        tuple(place * step for place, step in zip(voxel, spacing, strict=True))
        for voxel in sorted(voxels)
        if any(tuple(a + b for a, b in zip(voxel, step, strict=True)) not in voxels for step in steps)
    ]


def distances(mask: Mask, other: Mask, spacing: Spacing) -> list[float]:
    """Each border voxel's distance to the other's border, in order of size."""
    there = border(other, spacing)
    return sorted(min(dist(here, place) for place in there) for here in border(mask, spacing))


def percentile_95(values: Sequence[float]) -> float:
    """Between the two values around the place 0.95 (n - 1)."""
    place = 0.95 * (len(values) - 1)
    low, rest = int(place), place - int(place)
    return values[low] + (rest * (values[low + 1] - values[low]) if rest else 0)


def written_out(prediction: Mask, label: Mask, spacing: Spacing) -> dict[str, float]:
    """The definitions at the top of `common/metrics.py`, for masks that both hold a voxel."""
    forth, back = distances(prediction, label, spacing), distances(label, prediction, spacing)
    both = forth + back
    return {
        "dice": 2 * int((prediction & label).sum()) / int(prediction.sum() + label.sum()),
        "hd95_mm": max(percentile_95(forth), percentile_95(back)),
        "assd_mm": sum(both) / len(both),
        "masd_mm": (sum(forth) / len(forth) + sum(back) / len(back)) / 2,
        "nsd": sum(one <= 1 for one in both) / len(both),
    }


def monais(prediction: Mask, label: Mask, spacing: Spacing) -> dict[str, float]:
    """MONAI's numbers; its HD95 passes through float32."""
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, label)]
    a, b, mm = pair[0], pair[1], list(spacing)
    directed = [
        float(compute_average_surface_distance(*order, include_background=True, spacing=mm))
        for order in ((a, b), (b, a))
    ]
    return {
        "dice": float(compute_dice(a, b)),
        "hd95_mm": float(
            compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=mm)
        ),
        "assd_mm": float(
            compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=mm)
        ),
        "masd_mm": sum(directed) / 2,
        "nsd": float(compute_surface_dice(a, b, [1.0], include_background=True, spacing=mm)),
    }


def assert_same(found: RegionScore, expected: dict[str, float], tolerance: float) -> None:
    actual = {name: getattr(found, name) for name in expected}
    assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance)


@settings(max_examples=40, deadline=None)
@given(prediction=masks | sparse.map(lambda mask: mask[:6, :5, :4]), label=masks, spacing=SPACINGS)
def test_small_masks(prediction: Mask, label: Mask, spacing: Spacing) -> None:
    if prediction.any() and label.any():
        found = ours(prediction, label, spacing)
        assert_same(found, written_out(prediction, label, spacing), 1e-12)
        assert_same(found, monais(prediction, label, spacing), 1e-4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 6.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_blobs_against_monai(seed: int, spacing: Spacing) -> None:
    prediction, label = blobs(seed), blobs(seed + 10)
    assert_same(ours(prediction, label, spacing), monais(prediction, label, spacing), 1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_structure_cut_by_the_images_edge_against_monai(axis: int) -> None:
    prediction, label = blobs(3), blobs(3)
    label[(slice(None),) * axis + (slice(0, 2),)] = True
    prediction[(slice(None),) * axis + (slice(-3, None),)] = True
    spacing = (0.5, 2.0, 3.0)
    assert_same(ours(prediction, label, spacing), monais(prediction, label, spacing), 1e-4)


def lesions_written_out(
    prediction: Mask, label: Mask, spacing: Spacing, *, dilation: int, smallest_mm3: float
) -> tuple[list[tuple[float, float]], int]:
    """BraTS 2023 step by step: whole-image masks, one loop over all pairs; no boxes, no early ends.

    Returns:
        Dice and HD95 of each expert lesion that is scored, and the number of false components.
    """
    near, touch = ndimage.generate_binary_structure(3, 2), ndimage.generate_binary_structure(3, 3)
    merged, count = ndimage.label(ndimage.binary_dilation(label, near, iterations=dilation), touch)
    components, predicted = ndimage.label(prediction, touch)
    never_matched = set(range(1, predicted + 1))
    measured: list[tuple[float, float]] = []
    for number in range(1, count + 1):
        lesion = label & (merged == number)
        zone = ndimage.binary_dilation(lesion, near, iterations=dilation)
        found = np.zeros_like(lesion)
        for component in range(1, predicted + 1):
            if (zone & (components == component)).any():
                never_matched.discard(component)
                found |= components == component
        if lesion.sum() * np.prod(spacing) > smallest_mm3:
            score = written_out(found, lesion, spacing) if found.any() else None
            far = diagonal_mm(label.shape, spacing)
            measured.append((score["dice"], score["hd95_mm"]) if score else (0.0, far))
    return measured, len(never_matched)


def compare_lesions(
    prediction: Mask, label: Mask, spacing: Spacing, *, dilation: int, smallest: float
) -> None:
    codes = prediction.astype(np.uint8), label.astype(np.uint8)
    found = lesion_scores(*codes, spacing, ONE, dilation=dilation, smallest_mm3=smallest)["A"]
    measured, false = lesions_written_out(
        prediction, label, spacing, dilation=dilation, smallest_mm3=smallest
    )
    total, far = len(measured) + false, diagonal_mm(label.shape, spacing)
    assert (found.lesions, found.false) == (len(measured), false)
    assert found.missed == sum(one == 0 for one, _ in measured)
    assert found.dice == pytest.approx(sum(one for one, _ in measured) / total if total else 1)
    assert found.hd95_mm == pytest.approx(
        (sum(mm for _, mm in measured) + far * false) / total if total else 0
    )


@settings(max_examples=60, deadline=None)
@given(prediction=sparse, label=sparse, spacing=SPACINGS, smallest=st.sampled_from([0.0, 3.0, 20.0]))
def test_lesions_of_small_masks(prediction: Mask, label: Mask, spacing: Spacing, smallest: float) -> None:
    for dilation in (1, 2):
        compare_lesions(prediction, label, spacing, dilation=dilation, smallest=smallest)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 3), st.booleans()), max_size=8))
def test_lesions_along_a_line(voxels: list[tuple[int, int, bool]]) -> None:
    """A long thin image, in which several lesions and bridges between them fit."""
    prediction, label = np.zeros((2, 24, 4, 2), bool)
    for place, across, expert in voxels:
        (label if expert else prediction)[place, across] = True
    compare_lesions(prediction, label, (1.0, 2.0, 0.5), dilation=1, smallest=1.0)


@pytest.mark.parametrize("seed", range(3))
def test_lesions_of_blobs(seed: int) -> None:
    label, prediction = blobs(seed) & blobs(seed + 50), blobs(seed) & ~blobs(seed + 20)
    compare_lesions(prediction, ndimage.binary_opening(label), (1.0, 1.0, 1.0), dilation=1, smallest=5.0)
