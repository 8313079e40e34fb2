"""From a scan to what a network sees, and from what it says back to the scan.

One case becomes: RAS+ axes, cropped to the brain, z-scored inside the brain channel by channel after clipping
to the 0.5th and 99.5th percentile, resampled, float16. The brain is where any modality is not zero, which is
what skull-stripped scans mean by it; a scan that was not stripped is normalised over its whole field of view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.brats import codes_in
from common.data.cases import MODALITIES, Case, Cohort
from common.data.geometry import Geometry, cut, geometry_of, paste, to_box, to_working
from common.data.volume import Volume, read_label, read_volume, read_volumes, same_grid
from common.errors import DataError
from common.seeds import derive

__all__ = ["Geometry", "Preparation", "PreparedCase", "expert_label", "prepare", "restore"]

MARGIN = 2
"""Voxels kept around the brain, so that a convolution sees where it ends."""

CLIP_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Preparation:
    """How cases are prepared; part of the cache's key.

    Attributes:
        structures: what the label's codes 1, 2, ... mean, in this order.
        modalities: the channels, in this order.
        spacing_mm: of the working grid; None is each scan's own.
        degradation: the acquisition profile that the scans are made to look like, or None; where it is None
            the cohort's own `degraded` holds.
    """

    structures: tuple[str, ...]
    modalities: tuple[str, ...] = MODALITIES
    spacing_mm: float | None = None
    degradation: str | None = None


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the working grid.

    Attributes:
        image: float16 (C, x, y, z), z-scored inside the brain, 0 outside.
        label: uint8 (x, y, z), 0 background, then the preparation's structures from 1; None without a label.
        present: for each channel, whether it was acquired; one that was not is 0 everywhere.
    """

    name: str
    patient: str
    image: NDArray[np.float16]
    label: NDArray[np.uint8] | None
    geometry: Geometry
    present: tuple[bool, ...]


def prepare(case: Case, cohort: Cohort, preparation: Preparation) -> PreparedCase:
    """Reads a case and brings it to the working grid.

    Raises:
        DataError: naming the case, where a file does not pass the gate, the modalities or the label lie on
            different grids, nothing or only one value is inside, or a label code is not in the label map.
    """
    scans = _read_scans(case, preparation)
    first = next(iter(scans.values()))
    inside = np.logical_or.reduce([scan.array != 0 for scan in scans.values()])
    if not inside.any():
        raise DataError(f"case {case.name}: every voxel is zero", code="constant")
    geometry = geometry_of(first, inside, spacing_mm=preparation.spacing_mm, margin=MARGIN)
    label = None if case.label is None else _label_on(first, case, cohort, preparation.structures)
    profile = preparation.degradation or cohort.degraded
    if profile is not None:
        scans = _degraded(scans, profile, case=case)
    brain = cut(inside, geometry)
    boxed = {
        name: _normalised(cut(scan.array, geometry), brain, f"case {case.name}: {name}")
        for name, scan in scans.items()
    }
    return PreparedCase(
        name=case.name,
        patient=case.patient,
        image=_image(boxed, brain, preparation=preparation, geometry=geometry),
        label=None if label is None else _label(cut(label, geometry), len(preparation.structures), geometry),
        geometry=geometry,
        present=tuple(modality in scans for modality in preparation.modalities),
    )


def restore(probabilities: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    """The label map on the scan's own grid: linear interpolation of probabilities, then arg max.

    Args:
        probabilities: float32 (K, x, y, z) on the working grid, background first; any scores will do that
            may be averaged.
        geometry: of the prepared case.

    Returns:
        uint8 (X, Y, Z) of codes 0 to K - 1; 0 outside the box that was prepared.
    """
    if probabilities.shape[1:] != geometry.working_shape:
        raise ValueError(
            f"probabilities of shape {probabilities.shape} for a grid of {geometry.working_shape}"
        )
    finest = to_box(probabilities.astype(np.float32, copy=False), geometry)
    return paste(finest.argmax(axis=0).astype(np.uint8), geometry)


def _read_scans(case: Case, preparation: Preparation) -> dict[str, Volume]:
    wanted = [modality for modality in preparation.modalities if modality in case.images]
    if not wanted:
        raise DataError(
            f"case {case.name}: has none of {', '.join(preparation.modalities)}; it has "
            f"{', '.join(case.images) or 'no image'}",
            code="missing",
        )
    try:
        volumes = read_volumes([case.images[modality] for modality in wanted])
    except DataError as error:
        raise DataError(f"case {case.name}: {error}", code=error.code) from error
    for modality, volume in zip(wanted, volumes, strict=True):
        if not same_grid(volumes[0], volume):
            raise DataError(
                f"case {case.name}: {modality} lies on another grid than {wanted[0]}; register and resample "
                "them to one grid",
                code="grid",
            )
    return dict(zip(wanted, volumes, strict=True))


def expert_label(case: Case, cohort: Cohort, structures: Sequence[str]) -> Volume:
    """The expert's label in the scan's own grid, with our codes: 1, 2, ... in the order of `structures`.

    A structure that the cohort declares but that was not asked for becomes background.

    Raises:
        DataError: naming the case: no label, one that cannot be read, or a code that is not declared.
    """
    if case.label is None:
        raise DataError(f"case {case.name}: has no label", code="missing")
    codes = _codes(cohort, structures)
    try:
        label = read_label(case.label)
    except DataError as error:
        raise DataError(f"case {case.name}: {error}", code=error.code) from error
    known = cohort.label_map or {}
    strange = sorted(codes_in(label.array) - set(known.values()))
    if strange:
        raise DataError(
            f"case {case.name}: label code {strange[0]} is not in the cohort's label map {dict(known)}; "
            "declare label_map in cohort.toml",
            code="label-codes",
        )
    table = np.zeros(max(int(label.array.max()), *codes.values()) + 1, dtype=np.uint8)
    for number, structure in enumerate(structures, start=1):
        table[codes[structure]] = number
    return Volume(table[label.array], label.affine)


def _label_on(grid: Volume, case: Case, cohort: Cohort, structures: Sequence[str]) -> NDArray[np.uint8]:
    label = expert_label(case, cohort, structures)
    if not same_grid(grid, label):
        raise DataError(f"case {case.name}: the label lies on another grid than the images", code="grid")
    return label.array


def _codes(cohort: Cohort, structures: Sequence[str]) -> Mapping[str, int]:
    known = cohort.label_map or {}
    for structure in structures:
        if structure not in known:
            raise DataError(
                f"cohort {cohort.name}: its label map {dict(known)} has no {structure}; declare label_map in "
                "cohort.toml, or take a plan for what it has",
                code="label-codes",
            )
    return {structure: known[structure] for structure in structures}


def read_as_seen(case: Case, modality: str, degradation: str | None) -> Volume:
    """A case's scan as networks see it, in its own grid: for pictures.

    Args:
        case: must have `modality`.
        modality: which of its scans.
        degradation: the acquisition profile that the scans are made to look like, or None.

    Raises:
        DataError: the file does not pass the gate.
    """
    scan = read_volume(case.images[modality])
    return scan if degradation is None else _degraded({modality: scan}, degradation, case=case)[modality]


def _degraded(scans: Mapping[str, Volume], profile: str, *, case: Case) -> dict[str, Volume]:
    from common.data.phantom.acquisition import degrade

    return degrade(scans, profile, seed=derive(0, case.name))


def _normalised(boxed: NDArray[np.float32], brain: NDArray[np.bool_], where: str) -> NDArray[np.float32]:
    """Z-scores inside the brain, 0 outside."""
    values = boxed[brain]
    low, high = np.percentile(values, CLIP_PERCENTILES)
    np.clip(values, low, high, out=values)
    spread = float(values.std())
    if spread <= 1e-6 * max(abs(float(low)), abs(float(high))):
        raise DataError(
            f"{where} has one value in the whole brain; leave it out or export it again", code="constant"
        )
    scored = np.zeros_like(boxed)
    scored[brain] = (values - values.mean()) / spread
    return scored


def _image(
    boxed: Mapping[str, NDArray[np.float32]],
    brain: NDArray[np.bool_],
    *,
    preparation: Preparation,
    geometry: Geometry,
) -> NDArray[np.float16]:
    """Channels on the working grid; near the brain's edge only brain voxels are averaged."""
    covered = to_working(brain.astype(np.float32), geometry)
    kept = covered >= 0.5
    image = np.zeros((len(preparation.modalities), *geometry.working_shape), dtype=np.float16)
    for channel, modality in enumerate(preparation.modalities):
        if modality in boxed:
            image[channel][kept] = to_working(boxed[modality], geometry)[kept] / covered[kept]
    return image


def _label(boxed: NDArray[np.uint8], structures: int, geometry: Geometry) -> NDArray[np.uint8]:
    """The structure with the largest part of each working voxel, where all together have at least half of it.

    Asking for the union first keeps thin structures: a voxel shared by three of them at 30 % each would be
    background if background needed only the largest single part.
    """
    parts: NDArray[Any] = np.stack(
        [to_working((boxed == code).astype(np.float32), geometry) for code in range(1, structures + 1)]
    )
    label: NDArray[np.uint8] = (parts.argmax(axis=0) + 1).astype(np.uint8)
    label[parts.sum(axis=0) < 0.5] = 0
    return label
