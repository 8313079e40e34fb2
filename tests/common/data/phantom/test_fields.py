from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.data.phantom import fields


def test_spline_weights_sum_to_one() -> None:
    matrix = fields.spline_matrix(40, 3.0, 17.0)

    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_spline_agrees_with_scipy() -> None:
    matrix = fields.spline_matrix(180, 0.05, 1.0)
    controls = np.random.default_rng(0).standard_normal((matrix.shape[1],))
    position = np.arange(40, 140)

    # SciPy's cubic interpolation without its prefilter is the same B-spline sum, shifted by one control.
    expected = ndimage.map_coordinates(controls, np.array([position * 0.05 + 1]), order=3, prefilter=False)

    np.testing.assert_allclose((matrix @ controls)[position], expected, atol=1e-5)


def test_noise_has_unit_variance_and_is_seeded() -> None:
    shape = (60, 60, 60)
    first = fields.smooth_noise(shape, 1.0, 6.0, np.random.default_rng(1))
    again = fields.smooth_noise(shape, 1.0, 6.0, np.random.default_rng(1))

    np.testing.assert_array_equal(first, again)
    assert first.std() == pytest.approx(1, abs=0.1)


def test_noise_is_nearly_the_same_at_another_spacing() -> None:
    fine = fields.smooth_noise((60, 60, 60), 1.0, 20.0, np.random.default_rng(1))
    coarse = fields.smooth_noise((30, 30, 30), 2.0, 20.0, np.random.default_rng(1))

    assert np.corrcoef(fine[::2, ::2, ::2].ravel(), coarse.ravel())[0, 1] > 0.99


def test_along_axes_is_a_product_on_each_axis(rng: np.random.Generator) -> None:
    array = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    x, y, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 3), (7, 4), (8, 5)))

    expected = np.einsum("cijk,xi,yj,zk->cxyz", array, x, y, z)

    np.testing.assert_allclose(fields.along_axes(array, (x, y, z)), expected, rtol=1e-4, atol=1e-4)


def test_sample_agrees_with_scipy(rng: np.random.Generator) -> None:
    image = rng.standard_normal((1, 7, 8, 9)).astype(np.float32)
    index = rng.uniform(0, 6, (3, 4, 4, 4)).astype(np.float32)

    expected = ndimage.map_coordinates(image[0], index, order=1)

    np.testing.assert_allclose(fields.sample(image, index)[0], expected, atol=1e-4)


def test_a_constant_displacement_shifts_by_voxels(rng: np.random.Generator) -> None:
    image = rng.standard_normal((1, 8, 8, 8)).astype(np.float32)
    push = np.zeros((3, 8, 8, 8), np.float32)
    push[0] = 6.0

    np.testing.assert_allclose(fields.displace(image, push, 3.0)[0, 2:], image[0, :-2], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_jacobian_of_a_linear_stretch_is_its_volume_change(a: float, b: float, c: float) -> None:
    index = fields.voxel_index((5, 5, 5)) * 2.0
    stretch = np.array([a, b, c])[:, None, None, None] * index

    determinant = fields.jacobian_determinant(stretch, 2.0)

    np.testing.assert_allclose(determinant, (1 - a) * (1 - b) * (1 - c), atol=1e-5)
