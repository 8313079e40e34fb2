"""How a scanner samples: slice profile, in-plane resolution, Rician noise, and back to the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.phantom import fields
from common.data.phantom.fields import Array

FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True)
class Slices:
    """The voxel that a scanner acquires.

    Attributes:
        axis: array axis across the slices (0 sagittal, 1 coronal, 2 axial).
        thickness_mm: full width at half maximum of the slice profile.
        gap_mm: between slices.
        in_plane_mm: resolution within the slice.
    """

    axis: int = 2
    thickness_mm: float = 1.0
    gap_mm: float = 0.0
    in_plane_mm: float = 1.0

    def along(self, axis: int) -> tuple[float, float]:
        """Width of the profile and distance of the samples along an array axis, in mm."""
        if axis == self.axis:
            return self.thickness_mm, self.thickness_mm + self.gap_mm
        return self.in_plane_mm, self.in_plane_mm


def slice_matrix(size: int, spacing_mm: float, width_mm: float, pitch_mm: float) -> Array:
    """Weights (slices, size) of a Gaussian profile of FWHM `width_mm`, one slice about every `pitch_mm`.

    The identity where slices lie closer than the grid.
    """
    if pitch_mm <= spacing_mm * 1.01:
        return np.eye(size, dtype=np.float32)
    count = max(2, round(size * spacing_mm / pitch_mm))
    centre = (np.arange(count) + 0.5) * (size * spacing_mm / count)
    voxel = (np.arange(size) + 0.5) * spacing_mm
    # A voxel of the grid already is an average over its own width.
    sigma = np.sqrt(max(width_mm**2 - spacing_mm**2, (0.3 * spacing_mm) ** 2)) / FWHM_PER_SIGMA
    weight = np.exp(-0.5 * ((centre[:, None] - voxel) / sigma) ** 2)
    return np.asarray(weight / weight.sum(1, keepdims=True), np.float32)


def interpolation_matrix(size: int, count: int) -> Array:
    """Linear interpolation weights (size, count) from `count` samples back to `size` voxels."""
    if count == size:
        return np.eye(size, dtype=np.float32)
    position = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(position.astype(int), max(count - 2, 0))
    matrix = np.zeros((size, count), np.float32)
    matrix[np.arange(size), low] = 1 - (position - low)
    if count > 1:
        matrix[np.arange(size), low + 1] += position - low
    return matrix


def k_space_matrix(into: int, size: int, kept: int) -> Array:
    """Weights (into, size) of a signal of `size` samples read at `into` points, from `kept` frequencies.

    A scanner samples k-space: resolution within a slice ends where its frequencies end. On the way to
    fewer samples the outer ones are tapered (Hamming), as reconstructions do against ringing.
    """
    if into == size == kept:
        return np.eye(size, dtype=np.float32)
    highest = (kept - 1) // 2
    frequency = np.arange(1, highest + 1)
    window = np.ones(highest)
    if into < size:
        window = 0.54 + 0.46 * np.cos(np.pi * frequency / (highest + 1))
    apart = (np.arange(into)[:, None] + 0.5) / into - (np.arange(size) + 0.5) / size
    # A sum of cosines of a Toeplitz-like argument: few distinct values, but sizes are small.
    waves = np.cos(2 * np.pi * apart[..., None] * frequency) @ window
    return np.asarray((1 + 2 * waves) / size, np.float32)


def rician(signal: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Magnitude of `signal` with complex Gaussian noise: |S + n1 + i n2|."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    noisy: Array = np.hypot(signal + real, imaginary)
    return noisy


def resample(
    image: Array,
    slices: Slices,
    spacing_mm: tuple[float, float, float],
    *,
    noise_sigma: float,
    rng: np.random.Generator,
    coverage: Array | None = None,
) -> Array:
    """`image` as acquired in `slices` with noise, then interpolated back to its own grid.

    Args:
        image: (X, Y, Z) noise-free.
        slices: the acquired voxel.
        spacing_mm: of the grid.
        noise_sigma: standard deviation of the noise in one acquired voxel. Where the grid is coarser
            than the acquisition the noise is averaged down accordingly.
        rng: draws the noise.
        coverage: (X, Y, Z) 1 where `image` is known and 0 where it was cut away; the acquired voxels
            then are averages of what is known, not darkened at the cut.
    """
    down, up, averaged = _matrices(image, slices, spacing_mm)
    acquired = fields.along_axes(image, down)
    if coverage is not None:
        acquired = acquired / np.maximum(fields.along_axes(coverage, down), 0.25)
    if noise_sigma > 0:
        acquired = rician(np.maximum(acquired, 0), noise_sigma * averaged, rng)
    return fields.along_axes(acquired, up)


def _matrices(
    image: Array, slices: Slices, spacing_mm: tuple[float, float, float]
) -> tuple[fields.Matrices, fields.Matrices, float]:
    """Matrices to the acquired voxels and back, and the factor by which the grid averages noise."""
    down, up, averaged = [], [], 1.0
    for axis, size in enumerate(image.shape):
        spacing = spacing_mm[axis]
        width, pitch = slices.along(axis)
        averaged *= min(1.0, pitch / spacing) ** 0.5
        if axis == slices.axis:
            down.append(slice_matrix(size, spacing, width, pitch))
            up.append(interpolation_matrix(size, down[-1].shape[0]))
        else:
            count = size if pitch <= spacing * 1.01 else max(2, round(size * spacing / pitch))
            down.append(k_space_matrix(count, size, count))
            up.append(k_space_matrix(size, count, count))
    return (down[0], down[1], down[2]), (up[0], up[1], up[2]), averaged
