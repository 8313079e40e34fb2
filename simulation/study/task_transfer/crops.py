"""What the networks of such a study see: a box around the structure, resampled to a cube of voxels.

The published hippocampus scans come as crops around the structure. A tumour is shown likewise: in a cube
around its core, as somebody who asks for a contour would draw it, too large and not quite in the middle.
So the network is *told* where the structure is and about how large, in training and when it is judged. A
head without such a box (`drawn` False) tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.geometry import Box, Geometry, cut, paste, to_box, to_working
from common.data.transforms import PreparedCase, restore
from common.seeds import generator

SIZE, SIZE_SPREAD = 1.8, 0.15
"""A drawn box's edge over the longest edge of the structure, and the standard deviation of its logarithm."""

SHIFT = 0.08
"""Largest displacement of a drawn box along each axis, in parts of its edge."""

SMALLEST_MM = 24.0
"""No box is drawn smaller."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of a prepared case, as a network reads it.

    Attributes:
        seen: image (1, x, y, z) with z-scores inside the head, and the binary label, both resampled; no side
            is longer than the cube's edge.
        geometry: of the crop in the prepared case's grid.
        head: of the prepared case in the scan's grid.
        outside: voxels of the structure, in crop voxels, that lie outside the box.
        empty: whether the expert saw no structure; the box is then the whole head.
    """

    seen: PreparedCase
    geometry: Geometry
    head: Geometry
    outside: float
    empty: bool


def crop_of(case: PreparedCase, *, edge: int, drawn: bool, seed: int) -> Crop:
    """The crop of a prepared case.

    Args:
        case: prepared at the scan's own spacing, with a label; every structure of it counts.
        edge: voxels along the crop's longest side.
        drawn: whether a box is drawn around the structure; else all of the case is seen.
        seed: of the box, whose draw depends on it and the case's name alone.
    """
    assert case.label is not None
    structure = case.label > 0
    empty = not structure.any()
    box = _drawn_box(structure, case, seed=seed) if drawn and not empty else _whole(structure)
    geometry = _geometry(box, case, edge=edge)
    inside = cut(structure, geometry)
    label = to_working(inside.astype(np.float32), geometry) >= 0.5
    seen = replace(case, image=_image(case, geometry), label=label.astype(np.uint8))
    lost = float(np.count_nonzero(structure) - np.count_nonzero(inside))
    scale = float(np.prod(geometry.scan_spacing_mm) / np.prod(geometry.spacing_mm))
    return Crop(seen, geometry, case.geometry, outside=lost * scale, empty=empty)


def restored(probability: NDArray[np.float32], crop: Crop) -> NDArray[np.uint8]:
    """The binary map (X, Y, Z) in the scan's own grid that probabilities (x, y, z) of a crop speak for."""
    finest = paste(to_box(probability, crop.geometry), crop.geometry)
    return restore(np.stack([1 - finest, finest]), crop.head)


def _drawn_box(structure: NDArray[np.bool_], case: PreparedCase, *, seed: int) -> Box:
    """A cube, as far as the head goes, that depends on the structure's extent."""
    rng = generator(seed, "box", case.name)
    size, shift = rng.normal(0, SIZE_SPREAD), rng.uniform(-SHIFT, SHIFT, 3)
    spacing_mm = np.array(case.geometry.spacing_mm)
    where = np.argwhere(structure)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    edge_mm = max(SMALLEST_MM, float(((high - low) * spacing_mm).max()) * SIZE * float(np.exp(size)))
    middle = (low + high) / 2 + shift * edge_mm / spacing_mm
    reach = edge_mm / 2 / spacing_mm
    return _box(np.floor(middle - reach), np.ceil(middle + reach), structure.shape)


def _whole(structure: NDArray[np.bool_]) -> Box:
    return _box(np.zeros(3), np.array(structure.shape), structure.shape)


def _box(low: NDArray[Any], high: NDArray[Any], shape: tuple[int, ...]) -> Box:
    starts = [int(max(0, value)) for value in low]
    stops = [int(min(n, value)) for value, n in zip(high, shape, strict=True)]
    return (starts[0], stops[0]), (starts[1], stops[1]), (starts[2], stops[2])


def _geometry(box: Box, case: PreparedCase, *, edge: int) -> Geometry:
    """The crop's place in the prepared case, whose axes are RAS+ already."""
    own = case.geometry.spacing_mm
    lengths = [(stop - start) * step for (start, stop), step in zip(box, own, strict=True)]
    step = max(lengths) / edge
    sides = [max(1, min(edge, round(length / step))) for length in lengths]
    shape = case.image.shape
    return Geometry(
        shape=(shape[1], shape[2], shape[3]),
        affine=tuple(tuple(row) for row in np.diag([*own, 1.0]).tolist()),
        axes=(0, 1, 2),
        flips=(False, False, False),
        box=box,
        scan_spacing_mm=own,
        spacing_mm=(step, step, step),
        working_shape=(sides[0], sides[1], sides[2]),
    )


def _image(case: PreparedCase, geometry: Geometry) -> NDArray[np.float16]:
    """Z-scores inside the part of the head that is seen, 0 outside it."""
    values = cut(np.asarray(case.image[0], dtype=np.float32), geometry)
    inside = to_working((values != 0).astype(np.float32), geometry) >= 0.5
    seen = to_working(values, geometry)
    known = seen[inside]
    middle, spread = (float(known.mean()), float(known.std())) if known.size else (0.0, 1.0)
    scored = np.where(inside, (seen - middle) / max(spread, 1e-6), 0.0)
    return scored[None].astype(np.float16)
