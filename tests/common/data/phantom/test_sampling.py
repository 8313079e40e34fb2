from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.phantom.sampling import (
    Slices,
    interpolation_matrix,
    k_space_matrix,
    resample,
    rician,
    slice_matrix,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 60), st.floats(1, 3), st.floats(0.5, 8), st.floats(0.5, 9))
def test_a_slice_is_a_weighted_average(size: int, spacing: float, width: float, pitch: float) -> None:
    matrix = slice_matrix(size, spacing, width, pitch)

    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    assert (matrix >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 50), st.integers(2, 50))
def test_interpolation_keeps_a_constant(size: int, count: int) -> None:
    np.testing.assert_allclose(interpolation_matrix(size, count).sum(1), 1, atol=1e-5)


def test_k_space_keeps_low_frequencies_and_ends_high_ones() -> None:
    x = 2 * np.pi * (np.arange(40) + 0.5) / 40
    there_and_back = k_space_matrix(40, 20, 20) @ k_space_matrix(20, 40, 20)

    np.testing.assert_allclose(there_and_back @ np.ones(40), 1, atol=1e-5)
    np.testing.assert_allclose(there_and_back @ np.cos(x), np.cos(x), atol=0.04)
    np.testing.assert_allclose(there_and_back @ np.cos(12 * x), 0, atol=1e-5)


def test_profile_width_is_the_slice_thickness() -> None:
    profile = slice_matrix(200, 1.0, 6.0, 10.0)[10]
    centre_mm = 105.0
    voxel_mm = np.arange(200) + 0.5

    half = np.interp(centre_mm + 3, voxel_mm, profile) / np.interp(centre_mm, voxel_mm, profile)

    assert half == pytest.approx(0.5, abs=0.03)


def test_rician_mean_of_pure_noise_is_rayleighs(rng: np.random.Generator) -> None:
    noise = rician(np.zeros((60, 60, 60), np.float32), 2.0, rng)

    assert noise.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)


def test_fine_slices_without_noise_change_nothing(rng: np.random.Generator) -> None:
    image = rng.random((12, 13, 14), np.float32)

    np.testing.assert_array_equal(resample(image, Slices(), (1.0,) * 3, noise_sigma=0, rng=rng), image)


def test_a_coarser_grid_averages_noise(rng: np.random.Generator) -> None:
    image = np.full((40, 40, 40), 100.0, np.float32)

    fine = resample(image, Slices(), (1.0,) * 3, noise_sigma=3.0, rng=rng)
    coarse = resample(image, Slices(), (2.0,) * 3, noise_sigma=3.0, rng=rng)

    # Eight acquired voxels in one: noise falls by the root of 8.
    assert fine.std() / coarse.std() == pytest.approx(np.sqrt(8), rel=0.05)


def test_a_cut_does_not_darken_what_is_beside_it(rng: np.random.Generator) -> None:
    coverage = np.zeros((24, 24, 24), np.float32)
    coverage[6:18, 6:18, 6:18] = 1
    slices = Slices(axis=2, thickness_mm=4, in_plane_mm=2)

    image = resample(5 * coverage, slices, (1.0,) * 3, noise_sigma=0, rng=rng, coverage=coverage)

    np.testing.assert_allclose(image[7:17, 7:17, 7:17], 5, rtol=0.15)
