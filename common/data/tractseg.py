"""Folders of bundles in the manner of TractSeg (Wasserthal et al. 2018): one folder a subject.

    <cohort>/<subject>/T1w.nii.gz                       also T1.nii.gz, T1w_*.nii.gz
    <cohort>/<subject>/FA.nii.gz                        also *_FA.nii.gz
    <cohort>/<subject>/peaks.nii.gz                     also *_peaks.nii.gz; four axes, 3 or 9 volumes
    <cohort>/<subject>/bundle_masks/<bundle>.nii.gz     also bundle_segmentations, tract_segmentations
    <cohort>/<subject>/lesion.nii.gz                    optional; also tumor*, tumour*, *seg*

All of them may also lie in `<subject>/tractseg_output`, where TractSeg itself writes peaks and
`bundle_segmentations`. The one four-dimensional `bundle_masks.nii.gz` of its training data names no bundle
and is refused. A missing peak is NaN in MRtrix's files and is read as 0, as TractSeg does. Bundles may
overlap: their masks are kept as the bits of one volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cases import ImageSource
from common.data.geometry import cut, geometry_of, to_working
from common.data.transforms import CLIP_PERCENTILES, PreparedCase
from common.data.volume import Volume, inspect_header, read_label, read_volumes, same_grid
from common.errors import DataError

IMAGES: Mapping[str, tuple[str, ...]] = {
    "t1": ("T1w.nii*", "T1.nii*", "T1w_*.nii*"),
    "fa": ("FA.nii*", "*_FA.nii*"),
    "peaks": ("peaks.nii*", "*_peaks.nii*"),
}
"""Modality -> names of its file; the first pattern that fits counts."""

LESIONS = ("lesion*.nii*", "tumor*.nii*", "tumour*.nii*", "*seg.nii*")
MASK_FOLDERS = ("bundle_masks", "bundle_segmentations", "tract_segmentations")
MOST_BUNDLES = 8
"""Bundles that one volume of eight bits holds."""


@dataclass(frozen=True)
class Subject:
    """One examination, and its patient.

    Attributes:
        images: modality -> file.
        bundles: name -> mask.
        lesion: mask of a lesion, or None.
    """

    name: str
    images: Mapping[str, Path]
    bundles: Mapping[str, Path]
    lesion: Path | None = None


def open_tractseg(folder: Path) -> tuple[Subject, ...]:
    """The subjects of a folder that have an image, by name.

    Raises:
        DataError: no subject, or one whose files leave open what they are.
    """
    found = [_subject(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    subjects = tuple(subject for subject in found if subject.images)
    if not subjects:
        raise DataError(
            f"{folder.name}: no subject found; each needs a folder with T1w, FA or peaks (.nii.gz) and "
            "bundle_masks/",
            code="no-case",
        )
    return subjects


def check_subject(subject: Subject, *, modalities: Sequence[str], bundles: Sequence[str]) -> dict[str, int]:
    """Volumes of each modality; reads headers alone.

    Raises:
        DataError: a modality or a mask that is missing, or files on different grids.
    """
    if not subject.bundles:
        raise DataError(
            f"case {subject.name}: no bundle masks; put one file a bundle into {MASK_FOLDERS[0]}/",
            code="missing",
        )
    for bundle in bundles:
        if bundle not in subject.bundles:
            raise DataError(
                f"case {subject.name}: has no mask of bundle {bundle}; it has {', '.join(subject.bundles)}",
                code="missing",
            )
    volumes = {}
    grid = _grid(subject.bundles[bundles[0]])
    for modality in modalities:
        if modality not in subject.images:
            raise DataError(
                f"case {subject.name}: has no {modality}; it has {', '.join(subject.images)}", code="missing"
            )
        volumes[modality] = inspect_header(subject.images[modality]).volumes
        _same(grid, _grid(subject.images[modality]), subject, modality)
    for bundle in bundles:
        _same(grid, _grid(subject.bundles[bundle]), subject, f"bundle {bundle}")
    return volumes


def prepare(
    subject: Subject, modality: str, *, bundles: Sequence[str], spacing_mm: float | None
) -> PreparedCase:
    """One modality on the working grid, its masks as bits: bit k of the label is the k-th of `bundles`.

    T1w and FA are z-scored inside the brain (where the image is not 0) and 0 outside; peaks keep their
    directions and are divided by the 99th percentile of their length.

    Args:
        subject: whose.
        modality: a key of IMAGES.
        bundles: at most eight names.
        spacing_mm: of the working grid; None keeps the scan's.

    Raises:
        DataError: a file that cannot be used, or an image without any contrast.
    """
    truth = truth_of(subject, bundles)
    channels = _read(subject, modality)
    if not same_grid(channels[0], truth):
        raise DataError(f"case {subject.name}: {modality} and its masks lie on different grids", code="grid")
    image = np.stack([channel.array for channel in channels])
    inside = (image != 0).any(axis=0)
    if not inside.any():
        raise DataError(f"case {subject.name}: {modality} is 0 everywhere", code="constant")
    geometry = geometry_of(channels[0], inside, spacing_mm=spacing_mm, margin=1)
    scaled = _scaled(image, inside, f"case {subject.name}: {modality}", vectors=modality == "peaks")
    covered = to_working(cut(inside, geometry).astype(np.float32), geometry)
    kept = covered >= 0.5
    working = np.zeros((len(image), *geometry.working_shape), dtype=np.float16)
    for channel, values in zip(working, scaled, strict=True):
        channel[kept] = to_working(cut(values, geometry), geometry)[kept] / covered[kept]
    label = np.zeros(geometry.working_shape, dtype=np.uint8)
    for bit in range(len(bundles)):
        mask = cut((truth.array >> bit) & 1, geometry).astype(np.float32)
        label |= (to_working(mask, geometry) >= 0.5).astype(np.uint8) << bit
    return PreparedCase(subject.name, subject.name, working, label, geometry, (True,) * len(image))


def truth_of(subject: Subject, bundles: Sequence[str]) -> Volume:
    """The masks as the bits of a uint8 volume in their own grid.

    Raises:
        DataError: more than eight bundles, one that is missing, or masks on different grids.
    """
    if len(bundles) > MOST_BUNDLES:
        raise DataError(f"{len(bundles)} bundles; choose at most {MOST_BUNDLES}", code="too-many")
    bits: Volume | None = None
    for bit, bundle in enumerate(bundles):
        if bundle not in subject.bundles:
            raise DataError(f"case {subject.name}: has no mask of bundle {bundle}", code="missing")
        mask = read_label(subject.bundles[bundle])
        if bits is None:
            bits = Volume(np.zeros(mask.shape, dtype=np.uint8), mask.affine)
        _same(bits, mask, subject, f"bundle {bundle}")
        np.bitwise_or(bits.array, (mask.array > 0).astype(np.uint8) << bit, out=bits.array)
    if bits is None:
        raise DataError(f"case {subject.name}: no bundle was asked for", code="missing")
    return bits


def bits_of(bundles: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Bundle -> the codes of a volume of bits in which it is present; regions for `common.metrics.scores`."""
    codes = range(1 << len(bundles))
    return {name: tuple(code for code in codes if code >> bit & 1) for bit, name in enumerate(bundles)}


def _subject(folder: Path) -> Subject:
    places = [folder, folder / "tractseg_output"]
    images = {}
    for modality, patterns in IMAGES.items():
        file = _first(places, patterns, where=f"case {folder.name}: {modality}")
        if file is not None:
            images[modality] = file
    lesion = _first(places, LESIONS, where=f"case {folder.name}: lesion")
    return Subject(folder.name, images, dict(_masks(places, folder.name)), lesion)


def _first(places: Sequence[Path], patterns: Sequence[str], *, where: str) -> Path | None:
    for place in places:
        names = sorted(path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else []
        for pattern in patterns:
            fits = [name for name in names if fnmatch(name, pattern) and name[0] != "."]
            if len(fits) > 1:
                raise DataError(f"{where} could be {fits[0]} or {fits[1]}; keep one", code="ambiguous")
            if fits:
                return place / fits[0]
    return None


def _masks(places: Sequence[Path], name: str) -> Iterator[tuple[str, Path]]:
    folders = [place / folder for place in places for folder in MASK_FOLDERS]
    present = [folder for folder in folders if folder.is_dir()]
    if len(present) > 1:
        raise DataError(
            f"case {name}: {present[0].name} and {present[1].name} both hold masks; keep one",
            code="ambiguous",
        )
    if not present and any(folder.with_suffix(".nii.gz").is_file() for folder in folders):
        raise DataError(
            f"case {name}: one four-dimensional file of masks does not say which bundles they are; split it "
            f"into {MASK_FOLDERS[0]}/<bundle>.nii.gz",
            code="dimensions",
        )
    for folder in present:
        for path in sorted(folder.iterdir()):
            if fnmatch(path.name, "*.nii*") and path.name[0] != ".":
                yield path.name.split(".nii", 1)[0], path


def _read(subject: Subject, modality: str) -> list[Volume]:
    path = subject.images[modality]
    try:
        count = inspect_header(path).volumes
        channels = [ImageSource(path, number if count > 1 else None) for number in range(count)]
        return read_volumes(channels, missing=0.0 if modality == "peaks" else None)
    except DataError as error:
        raise DataError(f"case {subject.name}: {error}", code=error.code) from error


def _grid(path: Path) -> Volume:
    """A file's grid; its voxels are not read."""
    header = inspect_header(path)
    return Volume(np.broadcast_to(np.zeros((), np.uint8), header.shape[:3]), header.affine)


def _same(grid: Volume, other: Volume, subject: Subject, what: str) -> None:
    if not same_grid(grid, other):
        raise DataError(
            f"case {subject.name}: {what} lies on another grid than the first mask; bring them to one",
            code="grid",
        )


def _scaled(
    image: NDArray[Any], inside: NDArray[np.bool_], where: str, *, vectors: bool
) -> NDArray[np.float32]:
    out = np.zeros(image.shape, dtype=np.float32)
    if vectors:
        length = float(np.percentile(np.linalg.norm(image[:, inside], axis=0), 99))
        if length <= 0:
            raise DataError(f"{where}: all peaks have length 0", code="constant")
        return np.asarray(image / length, dtype=np.float32)
    for channel, values in zip(out, image, strict=True):
        known = np.clip(values[inside], *np.percentile(values[inside], CLIP_PERCENTILES))
        if float(known.std()) <= 0:
            raise DataError(f"{where} has one value in the whole brain", code="constant")
        channel[inside] = (known - known.mean()) / known.std()
    return out
