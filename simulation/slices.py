"""A slice of a scan as a picture: in radiological convention, grey under outlines, in millimetres.

Seen from the feet: the patient's right on the viewer's left, the front up. Outlines are paths in
millimetres, so that proportions are those of the head whatever the voxels' shape.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from common.data.volume import Volume, orientation

LINE_MM = 1.2
"""Width of an outline, which lies inside what it outlines, so that neighbours do not hide each other."""

MARGIN_VOXELS = 3
WINDOW_PERCENTILES = (1.0, 99.7)

Mask = NDArray[np.bool_]


def upright(volume: Volume) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """The array as (rows, columns, slices) in radiological convention, and the spacing along each, mm.

    Rows go from the front to the back, columns from the patient's right to the left, slices from below up.
    A rotated grid is turned to the nearest of these, not resampled.
    """
    axes, flips = orientation(volume.affine)
    ras = np.flip(volume.array.transpose(axes), tuple(axis for axis, flip in enumerate(flips) if flip))
    x_mm, y_mm, z_mm = (volume.spacing_mm[axis] for axis in axes)
    return ras[::-1, ::-1].transpose(1, 0, 2), (y_mm, x_mm, z_mm)


def largest_section(truth: NDArray[Any], found: NDArray[Any]) -> int:
    """The slice with the expert's largest cross-section; the model's where the expert saw nothing."""
    for label in (truth, found):
        areas = np.count_nonzero(label, axis=(0, 1))
        if areas.any():
            return int(areas.argmax())
    return int(truth.shape[2]) // 2


def head_box(grey: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns in which any slice shows something, with a margin."""
    seen = (grey != 0).any(axis=2)
    return _around(seen.any(axis=1)), _around(seen.any(axis=0))


def outline(mask: Mask, *, spacing_mm: tuple[float, float], inset_mm: float) -> str:
    """An SVG path along the voxel edges of `mask` (rows, columns), moved inwards by `inset_mm`.

    The path is in mm from the top left corner of the image; it is empty where the mask is.
    """
    height, width = spacing_mm
    inside = np.pad(mask, 1)[1:-1, 1:-1]
    above, below = np.pad(mask, ((1, 0), (0, 0)))[:-1], np.pad(mask, ((0, 1), (0, 0)))[1:]
    before, behind = np.pad(mask, ((0, 0), (1, 0)))[:, :-1], np.pad(mask, ((0, 0), (0, 1)))[:, 1:]
    parts = []
    for edges, side, shift in ((inside & ~above, 0, inset_mm), (inside & ~below, 1, -inset_mm)):
        for row, start, stop in _runs(edges):
            y_mm = (row + side) * height + shift
            parts.append(f"M{_short(start * width)} {_short(y_mm)}H{_short(stop * width)}")
    for edges, side, shift in ((inside & ~before, 0, inset_mm), (inside & ~behind, 1, -inset_mm)):
        for column, start, stop in _runs(edges.T):
            x_mm = (column + side) * width + shift
            parts.append(f"M{_short(x_mm)} {_short(start * height)}V{_short(stop * height)}")
    return "".join(parts)


def outlines(
    plane: NDArray[Any],
    structures: Sequence[str],
    spacing_mm: tuple[float, float],
    *,
    line_mm: float = LINE_MM,
) -> dict[str, str]:
    """Structure -> its outline in a slice of codes (rows, columns), which count from 1."""
    return {
        name: outline(plane == code, spacing_mm=spacing_mm, inset_mm=line_mm / 2)
        for code, name in enumerate(structures, start=1)
    }


def shades(plane: NDArray[Any], grey: NDArray[Any]) -> NDArray[np.uint8]:
    """The slice as levels of grey, in one scale for the whole scan `grey`; 0 is outside the head."""
    inside = grey[grey != 0]
    low, high = np.percentile(inside, WINDOW_PERCENTILES) if inside.size else (0.0, 1.0)
    share = np.clip((plane - low) / max(float(high - low), 1e-12), 0, 1)
    return np.asarray(np.where(plane != 0, 16 + 196 * share, 0).round().astype(np.uint8))


def png(levels: NDArray[np.uint8]) -> str:
    """Levels of grey as a PNG in a data URI."""
    picture = io.BytesIO()
    imsave(picture, levels, cmap="gray", vmin=0, vmax=255, format="png", pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode("ascii")


def _around(line: Mask) -> slice:
    found = np.flatnonzero(line)
    if len(found) == 0:
        return slice(0, len(line))
    return slice(max(int(found[0]) - MARGIN_VOXELS, 0), min(int(found[-1]) + 1 + MARGIN_VOXELS, len(line)))


def _runs(edges: Mask) -> Iterator[tuple[int, int, int]]:
    """(line, start, stop) of each run of True along the second axis."""
    change = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lines, starts = np.nonzero(change == 1)
    stops = np.nonzero(change == -1)[1]
    yield from zip(lines.tolist(), starts.tolist(), stops.tolist(), strict=True)


def _short(value_mm: float) -> str:
    return f"{value_mm:.2f}".rstrip("0").rstrip(".")
