"""Smooth random fields on a voxel grid, and moving arrays along displacement fields.

A field is a cubic B-spline on random control points, evaluated by one small matrix per axis. That is
twice continuously differentiable (a trilinear field has kinks that fold a deformation) and costs
milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Real numbers; float32 unless a function says otherwise."""

Shape = tuple[int, int, int]
Matrices = tuple[Array, Array, Array]


def spline_matrix(size: int, spacing_mm: float, pitch_mm: float) -> Array:
    """Cubic B-spline weights (size, controls) of `size` voxels on control points every `pitch_mm`."""
    position = np.arange(size) * spacing_mm / pitch_mm
    cell = np.floor(position).astype(int)
    t = position - cell
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    matrix = np.zeros((size, int(cell[-1]) + 4), np.float32)
    for offset, weight in enumerate(weights):
        matrix[np.arange(size), cell + offset] = weight
    return matrix


def along_axes(array: Array, matrices: Matrices) -> Array:
    """`array` (..., a, b, c) with one matrix (x, a), (y, b), (z, c) applied to each of its last axes."""
    array = array @ matrices[2].T
    array = matrices[1] @ array
    lead = array.shape[:-3]
    flat = array.reshape(*lead, array.shape[-3], -1)
    moved = matrices[0] @ flat
    return np.ascontiguousarray(moved.reshape(*lead, -1, *array.shape[-2:]), dtype=np.float32)


def smooth_noise(
    shape: Shape, spacing_mm: float | tuple[float, float, float], scale_mm: float, rng: np.random.Generator
) -> Array:
    """A field of about zero mean and unit variance whose features measure about `scale_mm`.

    The draw depends on the extent in mm more than on the voxel size, so one seed gives nearly the same
    field at every spacing.
    """
    voxel_mm = np.broadcast_to(spacing_mm, 3).tolist()
    matrices = [
        spline_matrix(size, voxel, max(scale_mm, voxel)) for size, voxel in zip(shape, voxel_mm, strict=True)
    ]
    controls = rng.standard_normal([matrix.shape[1] for matrix in matrices], dtype=np.float32)
    gain = np.prod([np.sqrt((matrix**2).sum(1).mean()) for matrix in matrices])
    return along_axes(controls, (matrices[0], matrices[1], matrices[2])) / np.float32(gain)


def sample(channels: Array, index: Array) -> Array:
    """`channels` (C, X, Y, Z) read by trilinear interpolation at voxel positions `index` (3, x, y, z).

    Positions outside read the border voxel.
    """
    size = np.array(channels.shape[1:], np.float32)[:, None, None, None]
    normalised = index * (2 / (size - 1)) - 1
    grid = torch.from_numpy(np.ascontiguousarray(np.moveaxis(normalised[::-1], 0, -1), np.float32))
    read = torch.nn.functional.grid_sample(
        torch.from_numpy(channels)[None], grid[None], padding_mode="border", align_corners=True
    )
    out: Array = read[0].numpy()
    return out


def sigmoid(x: Array) -> Array:
    """Soft step from 0 to 1 around 0."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))


def voxel_index(shape: Shape) -> Array:
    """Voxel positions (3, X, Y, Z) of a grid."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))


def displace(channels: Array, displacement_mm: Array, spacing_mm: float) -> Array:
    """`channels` pushed along `displacement_mm` (3, X, Y, Z): voxel x shows what lay at x - u(x)."""
    shape = (channels.shape[1], channels.shape[2], channels.shape[3])
    return sample(channels, voxel_index(shape) - displacement_mm / np.float32(spacing_mm))


def jacobian_determinant(displacement_mm: Array, spacing_mm: float) -> Array:
    """Determinant of the gradient of x - u(x), shape (X, Y, Z); positive everywhere means nothing folds."""
    gradient = np.stack([np.stack(np.gradient(-u, spacing_mm)) for u in displacement_mm])
    for axis in range(3):
        gradient[axis, axis] += 1
    a, b, c = gradient
    determinant: Array = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return determinant
