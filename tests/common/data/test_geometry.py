from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.data.geometry import axis_weights, cut, geometry_of, paste, to_box, to_working
from common.data.volume import Volume

sizes = st.integers(2, 12)
steps = st.sampled_from([0.5, 0.9, 1.0, 1.5, 2.0, 3.0])


def turned(axes: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.zeros((3, 3))
    for column, row in enumerate(axes):
        affine[row, column] = signs[column] * spacing[column]
    return affine


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(sizes, sizes, sizes),
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(steps, steps, steps),
    working=st.sampled_from([None, 1.0, 2.0, 2.7]),
    margin=st.integers(0, 3),
    data=st.data(),
)
def test_paste_undoes_cut(
    shape: tuple[int, int, int],
    axes: list[int],
    signs: tuple[int, ...],
    spacing: tuple[float, ...],
    working: float | None,
    margin: int,
    data: st.DataObject,
) -> None:
    inside = np.zeros(shape, dtype=bool)
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(a, n - 1)) for a, n in zip(low, shape, strict=True)]
    inside[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    scan = Volume(inside, turned(tuple(axes), signs, spacing))
    geometry = geometry_of(scan, inside, spacing_mm=working, margin=margin)
    values = np.where(inside, np.arange(inside.size).reshape(shape) + 1, 0)
    boxed = cut(values, geometry)
    assert np.array_equal(paste(boxed, geometry), values)
    resampled = to_working(boxed.astype(np.float32), geometry)
    assert resampled.shape == geometry.working_shape
    if working is None:
        assert np.array_equal(resampled, boxed.astype(np.float32))
        assert np.array_equal(to_box(resampled, geometry), resampled)


def test_cut_is_in_ras_order() -> None:
    """Array axes here are posterior, superior, left; the value is 100 x right + 10 x anterior + superior."""
    right, anterior, superior = np.meshgrid(np.arange(4), np.arange(5), np.arange(3), indexing="ij")
    ras = 100 * right + 10 * anterior + superior
    scan = ras.transpose(1, 2, 0)[::-1, :, ::-1]
    affine = turned((1, 2, 0), (-1, 1, -1), (2.0, 3.0, 1.0))
    geometry = geometry_of(Volume(scan, affine), np.ones(scan.shape, bool), spacing_mm=None, margin=0)
    assert np.array_equal(cut(scan, geometry), ras)
    assert geometry.scan_spacing_mm == (1.0, 2.0, 3.0)


def test_weights_by_hand() -> None:
    """Four voxels of 1 mm to two of 2 mm: pairs are averaged. Three to two of 1.5 mm: the middle is shared.

    Two of 2 mm to four of 1 mm: centres lie at -1/4, 1/4, 3/4 and 5/4 input voxels; the outer ones are held
    at the edge, the others are linear interpolation.
    """
    assert np.allclose(axis_weights(4, 1.0, to_size=2, to_step=2.0), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    assert np.allclose(axis_weights(3, 1.0, to_size=2, to_step=1.5), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    expected = [[1.0, 0], [0.75, 0.25], [0.25, 0.75], [0, 1.0]]
    assert np.allclose(axis_weights(2, 2.0, to_size=4, to_step=1.0), expected)
    assert np.array_equal(axis_weights(5, 1.1, to_size=5, to_step=1.1), np.eye(5))


@given(size=st.integers(1, 30), step=steps, to_size=st.integers(1, 30), to_step=steps)
def test_a_constant_stays_one(size: int, step: float, to_size: int, to_step: float) -> None:
    weights = axis_weights(size, step, to_size=to_size, to_step=to_step)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights >= 0).all()


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_going_finer_is_linear_interpolation_as_in_scipy(rng: np.random.Generator, ratio: float) -> None:
    values = rng.normal(size=20)
    to_size = int(20 / ratio)
    centres = 9.5 + (np.arange(to_size) - (to_size - 1) / 2) * ratio
    theirs = ndimage.map_coordinates(values, [centres], order=1, mode="nearest")
    ours = axis_weights(20, 1.0, to_size=to_size, to_step=ratio) @ values
    assert np.allclose(ours, theirs, atol=1e-5)


def test_going_coarser_does_not_alias() -> None:
    """Stripes of one voxel vanish at three times the spacing; taking every third voxel would keep them."""
    stripes = np.tile([1.0, -1.0], 30)
    coarse = axis_weights(60, 1.0, to_size=20, to_step=3.0) @ stripes
    assert np.abs(coarse).max() < 0.34
