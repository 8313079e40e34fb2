"""How well a segmentation agrees with an expert's: overlap, surface distances in mm, lesion by lesion.

Definitions, for masks A (prediction) and B (expert):

- Dice = 2 |A and B| / (|A| + |B|).
- A surface is the mask's voxels of which at least one of the six neighbours is outside the mask; what lies
  beyond the image counts as outside. Distances are between voxel centres.
- HD95 = the larger of the two 95th percentiles of directed distances (as MONAI and Metrics Reloaded; medpy's
  percentile of the pooled distances is never larger).
- ASSD, average symmetric surface distance = mean over both surfaces' distances, pooled.
- NSD, normalised surface Dice = part of both surfaces within a tolerance of the other (Nikolov et al. 2018).

Empty masks (BraTS 2023): both empty is right, Dice 1 and 0 mm; one empty is a miss, Dice 0 and the image's
diagonal in mm. No score is ever NaN. Lesion-wise scores follow the BraTS 2023 evaluation (Saluja et al.).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
Rule = Literal["measured", "both-empty", "one-empty"]

REGIONS: Mapping[str, tuple[int, ...]] = {
    "NCR": (1,),
    "ED": (2,),
    "ET": (3,),
    "TC": (1, 3),
    "WT": (1, 2, 3),
}
"""Region -> the codes it is made of: three structures, tumour core, whole tumour."""

SMALLEST_LESION_MM3 = 50.0
"""Expert lesions up to this volume are not scored lesion-wise (BraTS 2023 for glioma)."""

LESION_DILATION = 3
"""Voxels by which lesions are widened before they are told apart and matched (BraTS 2023 for glioma)."""


@dataclass(frozen=True)
class RegionScore:
    """Agreement in one region.

    Attributes:
        dice: 0 to 1.
        hd95_mm, assd_mm: 0 and up; the image's diagonal where one mask is empty.
        nsd: 0 to 1, at the tolerance asked for.
        rule: whether distances were measured, or one of the rules for empty masks gave the scores.
    """

    dice: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    rule: Rule


@dataclass(frozen=True)
class LesionScore:
    """Lesion-wise agreement in one region: means over expert lesions and false lesions alike.

    Attributes:
        dice, hd95_mm: a lesion that was missed and one that is not there count 0 and the image's diagonal.
        lesions: expert lesions that were scored.
        missed: those without any overlap.
        false: predicted components that match no expert lesion.
    """

    dice: float
    hd95_mm: float
    lesions: int
    missed: int
    false: int


def scores(
    prediction: NDArray[np.integer[Any]],
    label: NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    regions: Mapping[str, tuple[int, ...]] = REGIONS,
    *,
    nsd_tolerance_mm: float = 1.0,
) -> dict[str, RegionScore]:
    """Region -> agreement of two label maps (X, Y, Z) on one grid of `spacing_mm`.

    Raises:
        ValueError: the shapes differ, or `spacing_mm` is not one positive number for each axis.
    """
    _check(prediction, label, spacing_mm)
    diagonal = diagonal_mm(label.shape, spacing_mm)
    found: dict[str, RegionScore] = {}
    for region, codes in regions.items():
        masks = np.isin(prediction, codes), np.isin(label, codes)
        found[region] = _score(*masks, spacing_mm, diagonal=diagonal, tolerance_mm=nsd_tolerance_mm)
    return found


def dice(prediction: Mask, label: Mask) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(label))
    return 2 * int(np.count_nonzero(prediction & label)) / total if total else 1.0


def surface_distances(
    prediction: Mask, label: Mask, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance in mm of each surface voxel to the nearest one of the other surface, both ways.

    Returns:
        from the prediction's surface to the label's, and back; both masks must hold a voxel.
    """
    ours, theirs = _surface(prediction) * np.array(spacing_mm), _surface(label) * np.array(spacing_mm)
    return np.asarray(cKDTree(theirs).query(ours)[0]), np.asarray(cKDTree(ours).query(theirs)[0])


def hd95_mm(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """HD95 of the distances that `surface_distances` gives."""
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def assd_mm(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """Average symmetric surface distance of the distances that `surface_distances` gives."""
    return float((forth.sum() + back.sum()) / (len(forth) + len(back)))


def nsd(forth: NDArray[np.float64], back: NDArray[np.float64], *, tolerance_mm: float) -> float:
    """Normalised surface Dice of the distances that `surface_distances` gives."""
    within = int(np.count_nonzero(forth <= tolerance_mm)) + int(np.count_nonzero(back <= tolerance_mm))
    return within / (len(forth) + len(back))


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the image's diagonal: the distance that an empty mask is given."""
    return float(np.linalg.norm(np.array(shape) * np.array(spacing_mm)))


def lesion_scores(
    prediction: NDArray[np.integer[Any]],
    label: NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    regions: Mapping[str, tuple[int, ...]] = REGIONS,
    *,
    dilation: int = LESION_DILATION,
    smallest_mm3: float = SMALLEST_LESION_MM3,
) -> dict[str, LesionScore]:
    """Region -> lesion-wise agreement, by the algorithm of BraTS 2023.

    Expert components whose widened masks touch are one lesion. A lesion is compared with all predicted
    components that touch it once widened; a component may serve two lesions. Lesions of at most
    `smallest_mm3` are left out, but components matched to them are not false. HD95 is this module's; the
    challenge weights surface elements by their area.

    Raises:
        ValueError: as `scores`.
    """
    _check(prediction, label, spacing_mm)
    return {
        region: _lesions(
            np.isin(prediction, codes),
            np.isin(label, codes),
            spacing_mm,
            dilation=dilation,
            smallest_mm3=smallest_mm3,
        )
        for region, codes in regions.items()
    }


def _score(
    prediction: Mask, label: Mask, spacing_mm: Sequence[float], *, diagonal: float, tolerance_mm: float
) -> RegionScore:
    some = bool(prediction.any()), bool(label.any())
    if some == (False, False):
        return RegionScore(dice=1.0, hd95_mm=0.0, assd_mm=0.0, nsd=1.0, rule="both-empty")
    if not all(some):
        return RegionScore(dice=0.0, hd95_mm=diagonal, assd_mm=diagonal, nsd=0.0, rule="one-empty")
    ours, theirs = _cropped(prediction, label)
    distances = surface_distances(ours, theirs, spacing_mm)
    return RegionScore(
        dice=dice(ours, theirs),
        hd95_mm=hd95_mm(*distances),
        assd_mm=assd_mm(*distances),
        nsd=nsd(*distances, tolerance_mm=tolerance_mm),
        rule="measured",
    )


def _cropped(first: Mask, second: Mask, *, margin: int = 0) -> tuple[Mask, Mask]:
    """Both masks in the box around their union."""
    union = first | second
    box = []
    for axis in range(union.ndim):
        where = np.flatnonzero(union.any(axis=tuple(other for other in range(union.ndim) if other != axis)))
        box.append(slice(max(0, where[0] - margin), where[-1] + 1 + margin))
    return first[tuple(box)], second[tuple(box)]


def _surface(mask: Mask) -> NDArray[np.int64]:
    """Indices (N, 3) of voxels with a neighbour outside; beyond the array is outside."""
    padded = np.pad(mask, 1)
    inner = (slice(1, -1),) * mask.ndim
    buried = mask.copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            buried &= padded[(*inner[:axis], side, *inner[axis + 1 :])]
    return np.argwhere(mask & ~buried)


def _lesions(
    prediction: Mask, label: Mask, spacing_mm: Sequence[float], *, dilation: int, smallest_mm3: float
) -> LesionScore:
    diagonal = diagonal_mm(label.shape, spacing_mm)
    if not (prediction.any() or label.any()):
        return LesionScore(dice=1.0, hd95_mm=0.0, lesions=0, missed=0, false=0)
    prediction, label = _cropped(prediction, label, margin=dilation + 1)
    components, count = ndimage.label(prediction, np.ones((3, 3, 3)))
    matched: set[int] = set()
    measured: list[tuple[float, float]] = []
    voxel_mm3 = float(np.prod(spacing_mm))
    for lesion, widened in _expert_lesions(label, dilation):
        touching = set(np.unique(components[widened]).tolist()) - {0}
        matched |= touching
        if int(np.count_nonzero(lesion)) * voxel_mm3 > smallest_mm3:
            found = np.isin(components, list(touching)) if touching else np.zeros_like(lesion)
            score = _score(found, lesion, spacing_mm, diagonal=diagonal, tolerance_mm=1.0)
            measured.append((score.dice, score.hd95_mm))
    false = count - len(matched)
    total = len(measured) + false
    return LesionScore(
        dice=sum(one for one, _ in measured) / total if total else 1.0,
        hd95_mm=(sum(far for _, far in measured) + diagonal * false) / total if total else 0.0,
        lesions=len(measured),
        missed=sum(one == 0 for one, _ in measured),
        false=false,
    )


def _expert_lesions(label: Mask, dilation: int) -> Iterator[tuple[Mask, Mask]]:
    """Each expert lesion and its widened mask."""
    near = ndimage.generate_binary_structure(3, 2)
    wide = ndimage.binary_dilation(label, near, iterations=dilation) if dilation else label
    merged, count = ndimage.label(wide, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        lesion = label & (merged == number)
        yield lesion, ndimage.binary_dilation(lesion, near, iterations=dilation) if dilation else lesion


def _check(
    prediction: NDArray[np.integer[Any]], label: NDArray[np.integer[Any]], spacing_mm: Sequence[float]
) -> None:
    if prediction.shape != label.shape or prediction.ndim != 3:
        raise ValueError(f"label maps of shapes {prediction.shape} and {label.shape}: need one (X, Y, Z)")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing {tuple(spacing_mm)}: need three positive numbers of mm")
