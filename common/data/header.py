"""What a NIfTI header must say before anything of a scan's size is allocated.

Works on the header's fields alone and knows no file. Each refusal is a `DataError` in words; what is odd but
usable becomes a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.data.stream import MAX_BEHIND
from common.errors import DataError

SPACING_RANGE_MM = (0.05, 25.0)
"""Spacing outside this range is a header error: microscopy below, no slice of a head above."""

MAX_SHEAR = 0.02
"""Largest cosine between two voxel axes; 0.02 is about one degree, above rounding in a header."""

VOXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""NIfTI's code of each plain numeric type."""


class Fields(Protocol):
    """A header's fields by the names that the NIfTI standard gives them."""

    endianness: str
    sizeof_hdr: int

    def __getitem__(self, field: str, /) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Header:
    """What a NIfTI header says, once it has passed the gate.

    Attributes:
        shape: three axes, or four where the file holds several volumes; trailing axes of 1 are dropped.
        spacing_mm: distance between voxel centres along the three axes, from the affine.
        dtype: voxel type as stored, with its byte order.
        affine: (4, 4) voxel index to RAS+ millimetres; sform first, then qform, then pixdim.
        skipped_bytes: extensions between the header and the voxels.
        slope: factor on the stored voxels; `intercept` is added after it.
        notes: what is odd about the header but was handled, in words.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    skipped_bytes: int = 4
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def volumes(self) -> int:
        """How many three-dimensional images the file holds."""
        return self.shape[3] if len(self.shape) == 4 else 1

    @property
    def volume_bytes(self) -> int:
        """Bytes of one of them, as stored."""
        x, y, z = self.shape[:3]
        return x * y * z * self.dtype.itemsize


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Distance between voxel centres along each array axis: the lengths of the affine's columns."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).tolist()
    return (x, y, z)


def check_header(
    raw: Fields, *, affine: NDArray[np.float64], qform: NDArray[np.float64] | None, name: str
) -> Header:
    """The usable part of a header.

    Args:
        raw: a NIfTI-1 or NIfTI-2 header.
        affine: what the header's forms amount to.
        qform: the qform alone, or None where the header has none.
        name: the file, for messages.

    Raises:
        DataError: naming the first thing that makes the header unusable.
    """
    _check_affine(affine, unit=int(raw["xyzt_units"]) & 7, name=name)
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    scaled = slope != 0 and np.isfinite(slope)
    return Header(
        shape=_shape(raw, name),
        spacing_mm=spacing_of(affine),
        dtype=_voxel_type(raw, name),
        affine=affine,
        skipped_bytes=_skipped_bytes(raw, name),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled and np.isfinite(intercept) else 0.0,
        notes=tuple(_notes(raw, affine=affine, qform=qform)),
    )


def _shape(raw: Fields, name: str) -> tuple[int, ...]:
    axes = int(raw["dim"][0])
    shape = [int(n) for n in raw["dim"][1 : axes + 1]] if 1 <= axes <= 7 else []
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (3, 4) or min(shape) < 2:
        raise DataError(
            f"{name}: its size is {'x'.join(map(str, shape)) or 'unreadable'}; a scan has three axes of at "
            "least 2 voxels",
            code="dimensions",
        )
    return tuple(shape)


def _voxel_type(raw: Fields, name: str) -> np.dtype[Any]:
    code = int(raw["datatype"])
    if code not in VOXEL_TYPES:
        raise DataError(
            f"{name}: voxels of NIfTI type {code}, which is no plain number (RGB, complex or unknown); "
            "convert it to a grey-value image",
            code="voxel-type",
        )
    voxel_type: np.dtype[Any] = np.dtype(raw.endianness + VOXEL_TYPES[code])
    return voxel_type


def _skipped_bytes(raw: Fields, name: str) -> int:
    offset, size = float(raw["vox_offset"]), int(raw.sizeof_hdr)
    if offset == 0:
        return 4
    if not size <= offset <= size + MAX_BEHIND:
        raise DataError(
            f"{name}: its header puts the voxels at byte {offset:g}; save it again", code="geometry"
        )
    return int(offset) - size


def _check_affine(affine: NDArray[np.float64], *, unit: int, name: str) -> None:
    if unit in (1, 3):
        raise DataError(f"{name}: its spacing is in metres or micrometres; save it in mm", code="geometry")
    if not np.isfinite(affine).all():
        raise DataError(
            f"{name}: its affine holds NaN or infinity; set its orientation again", code="geometry"
        )
    spacing = spacing_of(affine)
    low, high = SPACING_RANGE_MM
    if not all(low <= step <= high for step in spacing):
        raise DataError(
            f"{name}: its spacing is {' x '.join(f'{step:g}' for step in spacing)} mm; "
            f"{low} to {high:g} mm is plausible for a head",
            code="geometry",
        )
    axes = affine[:3, :3] / np.array(spacing)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > MAX_SHEAR:
        raise DataError(
            f"{name}: its voxel axes are not at right angles (shear, cosine {shear:.2f}); resample it to an "
            "orthogonal grid",
            code="geometry",
        )


def _notes(raw: Fields, *, affine: NDArray[np.float64], qform: NDArray[np.float64] | None) -> Iterator[str]:
    if qform is None and int(raw["sform_code"]) <= 0:
        yield "no orientation in the header: left and right follow convention only"
    if qform is not None and not np.allclose(qform, affine, rtol=0, atol=0.05):
        yield "qform and sform disagree; the sform is used"
    if any(raw[field].tobytes().strip(b"\0 ") for field in ("descrip", "aux_file", "intent_name")):
        yield "free text in the header, which may name a patient; it is never copied"
    if np.isinf(float(raw["scl_slope"])):
        yield "its intensity scale is infinite; voxels are taken as stored"
