"""Scans in and out: the one file that opens NIfTI.

A scan comes from outside, so it passes a gate before anything of its size is allocated: a header whose every
number is usable, and then one streamed pass to the end of the file, which checks that the voxels are all
there and nothing much behind them. What does not pass is a `DataError` in words. Handled, not refused: either
byte order, NIfTI-1 and -2, rotated grids, trailing axes of length 1, a scale of 0 or NaN (no scaling).
Refused: a shear, because neither distances nor resampling are defined by a spacing there; NaN and infinity,
because what they stand for (outside the head, a failed registration) is not ours to guess.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from common.data.cases import ImageSource
from common.data.header import VOXEL_TYPES, Fields, Header, check_header, spacing_of
from common.data.stream import MAX_BEHIND, check_end, filled, skip, unpacked
from common.errors import DataError
from common.files import write_atomic

MAX_BYTES = 1 << 30
"""Ceiling for a file's voxels as stored and one volume of them as float32, together."""

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGICS = {348: b"n+1\0", 540: b"n+2\0"}
_GEOMETRY_FIELDS = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Volume:
    """One three-dimensional image: array (X, Y, Z) as in the file, affine (4, 4) to RAS+ millimetres."""

    array: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each array axis."""
        x, y, z = self.array.shape
        return (x, y, z)


def inspect_header(path: Path) -> Header:
    """Reads and checks a file's header alone; the voxels may still be damaged.

    Raises:
        DataError: the file cannot be used as a NIfTI volume.
    """
    with _opened(path) as stream:
        return _header(stream, path.name)[1]


def read_volume(source: ImageSource | Path, *, dtype: DTypeLike = np.float32) -> Volume:
    """Reads one scan; every voxel is finite.

    Raises:
        DataError: the file does not pass the gate, holds several volumes and no channel was named, or has
            NaN or infinite voxels.
    """
    asked = source if isinstance(source, ImageSource) else ImageSource(source)
    return read_volumes([asked], dtype=dtype)[0]


def read_volumes(
    sources: Sequence[ImageSource], *, dtype: DTypeLike = np.float32, missing: float | None = None
) -> list[Volume]:
    """Reads scans in the order asked for; a four-dimensional file is unpacked once for all its channels.

    Args:
        sources: files and channels.
        dtype: of the arrays.
        missing: put in the place of NaN, where a format says what NaN means; None refuses NaN.

    Raises:
        DataError: as `read_volume`.
    """
    found: dict[ImageSource, Volume] = {}
    for path in dict.fromkeys(source.path for source in sources):
        channels = [source.channel for source in sources if source.path == path]
        with _opened(path) as stream:
            header = _header(stream, path.name)[1]
            raw = _voxels(stream, header, channels=channels, path=path)
        for channel in channels:
            array = _finite(raw[channel or 0], header, dtype=dtype, name=path.name, missing=missing)
            found[ImageSource(path, channel)] = Volume(array, header.affine)
    return [found[source] for source in sources]


def read_label(path: Path) -> Volume:
    """Reads a label map of whole, non-negative codes, as uint8 (or int16 where a code is above 255).

    Raises:
        DataError: the file does not pass the gate, or a voxel is fractional, negative, NaN or above 32767.
    """
    with _opened(path) as stream:
        header = _header(stream, path.name)[1]
        codes = _voxels(stream, header, channels=[None], path=path)[0]
    if codes.dtype.kind == "f" or (header.slope, header.intercept) != (1.0, 0.0):
        codes = _finite(codes, header, dtype=np.float64, name=path.name)
        if not np.array_equal(codes, np.rint(codes)):
            raise DataError(
                f"{path.name}: a label map with fractional values; save it again with whole codes "
                "(resampled by nearest neighbour, not linearly)",
                code="label-fractional",
            )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high > np.iinfo(np.int16).max:
        raise DataError(
            f"{path.name}: label codes from {low} to {high}; codes must lie between 0 and 32767",
            code="label-codes",
        )
    return Volume(codes.astype(np.uint8 if high <= 255 else np.int16), header.affine)


def write_volume(path: Path, volume: Volume, *, like: Path | None = None) -> None:
    """Writes `.nii` or `.nii.gz` in one step: a reader sees the old file or the whole new one.

    The array's own type is stored, without scaling. Both forms of the affine are set. No free text is
    written or copied, since a scan's header may name a patient.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        volume: array of a plain numeric type.
        like: a scan on the same grid, whose geometry is copied bit by bit.

    Raises:
        DataError: another suffix, a type that NIfTI has not, or `like` lies on another grid.
    """
    _check_suffix(path)
    if volume.array.dtype.str[1:] not in VOXEL_TYPES.values():
        raise DataError(f"{path.name}: voxels of type {volume.array.dtype} cannot be written to NIfTI")
    image = nib.Nifti1Image(volume.array, volume.affine, dtype=volume.array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    image.header["vox_offset"], image.header["scl_slope"], image.header["scl_inter"] = 352, 1, 0
    if like is not None:
        _copy_geometry(image.header, like, volume=volume, name=path.name)
    content = image.header.binaryblock + bytes(4) + volume.array.tobytes(order="F")
    write_atomic(path, gzip.compress(content, 6, mtime=0) if path.name.endswith(".gz") else content)


def same_grid(first: Volume, second: Volume) -> bool:
    """True where shapes are equal and no corner is more than a tenth of a voxel apart."""
    if first.shape != second.shape:
        return False
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in first.shape], [1], indexing="ij"), -1).reshape(-1, 4)
    apart = (corners @ (first.affine - second.affine).T)[:, :3]
    return bool(np.linalg.norm(apart, axis=1).max() <= 0.1 * min(first.spacing_mm))


def orientation(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """How an array comes to RAS+ axis order: `array.transpose(axes)`, then flip the axes marked True."""
    order = nib.orientations.io_orientation(affine)
    axes = np.argsort(order[:, 0])
    return tuple(axes.tolist()), tuple((order[axes, 1] < 0).tolist())


def _opened(path: Path) -> AbstractContextManager[BinaryIO]:
    _check_suffix(path)
    return unpacked(path)


def _check_suffix(path: Path) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path.name}: not a .nii or .nii.gz file; convert it to one", code="not-nifti")


def _header(stream: BinaryIO, name: str) -> tuple[Fields, Header]:
    """The header as nibabel sees it, and what of it passed the gate."""
    raw = _raw_header(stream, name)
    with np.errstate(all="ignore"):  # what overflows here is refused by its value
        try:
            qform = np.asarray(raw.get_qform(), dtype=np.float64) if int(raw["qform_code"]) > 0 else None
            affine = np.asarray(raw.get_best_affine(), dtype=np.float64)
        except (ValueError, HeaderDataError) as error:
            raise DataError(
                f"{name}: unusable orientation in its header ({error})", code="geometry"
            ) from error
        return raw, check_header(raw, affine=affine, qform=qform, name=name)


def _raw_header(stream: BinaryIO, name: str) -> nib.Nifti1Header:
    """The header as nibabel sees it, in the byte order that makes sense of its first number."""
    start = stream.read(348)
    size = next((n for n in _HEADERS if start[:4] in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), None)
    if size is None:
        raise DataError(f"{name}: not a NIfTI file (no NIfTI header at its start)", code="not-nifti")
    block = start + stream.read(size - 348)
    if len(block) < size:
        raise DataError(f"{name}: ends inside its header; copy it again", code="damaged")
    magic = block[344:348] if size == 348 else block[4:8]
    if magic != _MAGICS[size]:
        raise DataError(
            f"{name}: not a single-file NIfTI (its magic is {magic!r}); convert it to .nii or .nii.gz",
            code="not-nifti",
        )
    order = "<" if start[:4] == size.to_bytes(4, "little") else ">"
    return _HEADERS[size](block, endianness=order, check=False)


def _voxels(
    stream: BinaryIO, header: Header, *, channels: Sequence[int | None], path: Path
) -> dict[int, NDArray[Any]]:
    """Channel -> stored voxels (X, Y, Z), in one pass from the header's end to the file's end."""
    name = path.name
    _check_size(header, path)
    wanted = {_channel(channel, header, name=name) for channel in channels}
    skip(stream, header.skipped_bytes, name=name)
    kept: dict[int, NDArray[Any]] = {}
    for index in range(header.volumes):
        if index in wanted:
            flat = filled(stream, header.volume_bytes, name=name).view(header.dtype)
            kept[index] = flat.reshape(header.shape[:3], order="F")
        else:
            skip(stream, header.volume_bytes, name=name)
    check_end(stream, name=name)
    return kept


def _channel(channel: int | None, header: Header, *, name: str) -> int:
    if channel is None and header.volumes > 1:
        raise DataError(
            f"{name}: holds {header.volumes} volumes (four axes); give one scan per file, or an MSD folder "
            "whose dataset.json names the channels",
            code="dimensions",
        )
    if channel is not None and not 0 <= channel < header.volumes:
        raise DataError(f"{name}: has no volume {channel}; it holds {header.volumes}", code="dimensions")
    return channel or 0


def _check_size(header: Header, path: Path) -> None:
    declared = header.volume_bytes * header.volumes
    as_float32 = header.volume_bytes // header.dtype.itemsize * 4
    if declared + as_float32 > MAX_BYTES:
        raise DataError(
            f"{path.name}: its header declares {'x'.join(map(str, header.shape))} voxels, "
            f"{declared / 1e9:.1f} GB; the ceiling is 1 GB with the converted copy",
            code="too-large",
        )
    if path.stat().st_size > declared + header.skipped_bytes + 2 * MAX_BEHIND:
        raise DataError(f"{path.name}: the file is larger than what its header declares", code="damaged")


def _finite(
    raw: NDArray[Any], header: Header, *, dtype: DTypeLike, name: str, missing: float | None = None
) -> NDArray[Any]:
    """Scaled voxels of `dtype`; the smallest and largest carry a NaN along, so two numbers tell for all."""
    with np.errstate(over="ignore", invalid="ignore"):
        array: NDArray[Any] = raw.astype(dtype)
        if (header.slope, header.intercept) != (1.0, 0.0):
            array *= header.slope
            array += header.intercept
    if missing is not None:
        array[np.isnan(array)] = missing
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DataError(
            f"{name}: voxels that are NaN or infinite; replace them (0 outside the head), save it again",
            code="not-finite",
        )
    return array


def _copy_geometry(header: nib.Nifti1Header, like: Path, *, volume: Volume, name: str) -> None:
    with _opened(like) as stream:
        raw, theirs = _header(stream, like.name)
    if not same_grid(volume, Volume(np.empty(theirs.shape[:3], dtype=np.bool_), theirs.affine)):
        raise DataError(f"{name}: its grid is not that of {like.name}", code="grid")
    if int(raw["qform_code"]) > 0 or int(raw["sform_code"]) > 0:
        for field in _GEOMETRY_FIELDS:
            header[field] = raw[field]
