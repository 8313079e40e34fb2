"""From a scan's grid to the working grid and back.

The working grid has RAS+ axes, covers a box of the scan, and may have another spacing; its middle is the
box's middle. Resampling is one small matrix per axis. Output voxel j, as wide as the larger of the two
spacings, takes of each input voxel i the part that it covers:

    w[j, i] = length of overlap([x_j - w/2, x_j + w/2], [i - 1/2, i + 1/2]),  w = max(1, step_out / step_in)

(in units of input voxels, rows normalised). Going coarser this is area averaging, so nothing aliases; going
finer, or between voxels, it is linear interpolation; on the same grid it is the identity, exactly. The
matrices are applied as sparse ones, whose sums run in one order; those of a dense product depend on the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from common.data.volume import Volume, orientation

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Geometry:
    """All that is needed to go back from the working grid to the scan's own.

    Attributes:
        shape: the scan's voxels along its array axes.
        affine: the scan's affine, row by row.
        axes: order of the scan's axes that makes them RAS+.
        flips: which of the reordered axes are then reversed.
        box: first and one-past-last voxel along each RAS+ axis that the working grid covers.
        scan_spacing_mm: the scan's spacing along the RAS+ axes.
        spacing_mm: the working grid's spacing.
        working_shape: the working grid's voxels.
    """

    shape: Shape
    affine: tuple[tuple[float, ...], ...]
    axes: Shape
    flips: tuple[bool, bool, bool]
    box: Box
    scan_spacing_mm: Triple
    spacing_mm: Triple
    working_shape: Shape


def geometry_of(
    scan: Volume, inside: NDArray[np.bool_], *, spacing_mm: float | None, margin: int
) -> Geometry:
    """The working grid around the True voxels of `inside`.

    Args:
        scan: the grid; its voxels are not looked at.
        inside: (X, Y, Z) on that grid, with at least one True.
        spacing_mm: working spacing along all axes; None keeps the scan's.
        margin: voxels of the scan added on each side, as far as there are any.
    """
    axes, flips = orientation(scan.affine)
    canonical = _canonical(inside, axes=axes, flips=flips)
    box = tuple(_extent(canonical, axis=axis, margin=margin) for axis in range(3))
    own = tuple(scan.spacing_mm[axis] for axis in axes)
    working = own if spacing_mm is None else (float(spacing_mm),) * 3
    lengths = [(stop - start) * step for (start, stop), step in zip(box, own, strict=True)]
    shape = tuple(max(1, math.ceil(n / step - 1e-6)) for n, step in zip(lengths, working, strict=True))
    return Geometry(
        shape=scan.shape,
        affine=tuple(tuple(row) for row in scan.affine.tolist()),
        axes=_three(axes),
        flips=(flips[0], flips[1], flips[2]),
        box=(box[0], box[1], box[2]),
        scan_spacing_mm=(own[0], own[1], own[2]),
        spacing_mm=(working[0], working[1], working[2]),
        working_shape=_three(shape),
    )


def cut(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The box of a scan's array, in RAS+ axes and at the scan's spacing; contiguous."""
    canonical = _canonical(array, axes=geometry.axes, flips=geometry.flips)
    return np.ascontiguousarray(canonical[_slices(geometry.box)])


def paste(boxed: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The inverse of `cut`: an array on the scan's own grid, 0 outside the box."""
    canonical = np.zeros([geometry.shape[axis] for axis in geometry.axes], dtype=boxed.dtype)
    canonical[_slices(geometry.box)] = boxed
    flipped = np.flip(canonical, tuple(axis for axis in range(3) if geometry.flips[axis]))
    return np.ascontiguousarray(flipped.transpose(np.argsort(geometry.axes)))


def to_working(boxed: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Resamples (..., x, y, z) from the box at the scan's spacing to the working grid."""
    sizes = [stop - start for start, stop in geometry.box]
    return _resampled(
        boxed,
        sizes=sizes,
        steps=geometry.scan_spacing_mm,
        to_sizes=geometry.working_shape,
        to_steps=geometry.spacing_mm,
    )


def to_box(working: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Resamples (..., x, y, z) from the working grid to the box at the scan's spacing."""
    sizes = [stop - start for start, stop in geometry.box]
    return _resampled(
        working,
        sizes=geometry.working_shape,
        steps=geometry.spacing_mm,
        to_sizes=sizes,
        to_steps=geometry.scan_spacing_mm,
    )


def axis_weights(size: int, step: float, *, to_size: int, to_step: float) -> NDArray[np.float32]:
    """The matrix (to_size, size) of the module's formula, for two axes with one middle."""
    ratio = to_step / step
    centres = (size - 1) / 2 + (np.arange(to_size) - (to_size - 1) / 2) * ratio
    centres = np.clip(centres, 0, size - 1)[:, None]
    half = max(1.0, ratio) / 2
    voxels = np.arange(size)[None, :]
    overlap = np.minimum(centres + half, voxels + 0.5) - np.maximum(centres - half, voxels - 0.5)
    overlap = np.clip(overlap, 0, None)
    weights: NDArray[np.float32] = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _resampled(
    array: NDArray[np.float32],
    *,
    sizes: Sequence[int],
    steps: Sequence[float],
    to_sizes: Sequence[int],
    to_steps: Sequence[float],
) -> NDArray[np.float32]:
    for axis in range(3):
        if (sizes[axis], steps[axis]) == (to_sizes[axis], to_steps[axis]):
            continue
        weights = axis_weights(sizes[axis], steps[axis], to_size=to_sizes[axis], to_step=to_steps[axis])
        at = array.ndim - 3 + axis
        moved = np.moveaxis(array, at, 0)
        product = csr_array(weights) @ moved.reshape(len(moved), -1)
        array = np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, at)
    return np.ascontiguousarray(array, dtype=np.float32)


def _canonical(array: NDArray[Any], *, axes: Sequence[int], flips: Sequence[bool]) -> NDArray[Any]:
    return np.flip(array.transpose(*axes), tuple(axis for axis in range(3) if flips[axis]))


def _extent(inside: NDArray[np.bool_], *, axis: int, margin: int) -> tuple[int, int]:
    others = tuple(other for other in range(3) if other != axis)
    where = np.flatnonzero(inside.any(axis=others))
    return max(0, int(where[0]) - margin), min(inside.shape[axis], int(where[-1]) + 1 + margin)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _three(values: Sequence[int]) -> Shape:
    return (values[0], values[1], values[2])
