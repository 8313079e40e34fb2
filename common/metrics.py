"""How well a segmentation agrees with an expert's: overlap, surface distances in mm, lesion by lesion.

Definitions, for masks A (prediction) and B (expert):

- Dice = 2 |A and B| / (|A| + |B|).
- A surface is the mask's voxels of which at least one of the six neighbours is outside the mask; what lies
  beyond the image counts as outside. Distances are between voxel centres.
- HD95 = the larger of the two 95th percentiles of directed distances (as MONAI and Metrics Reloaded; medpy's
  percentile of the pooled distances is never larger).
- ASSD, average symmetric surface distance = mean over both surfaces' distances, pooled: the larger surface
  weighs more. MASD = mean of the two directed means, which weigh alike. Papers call either of them "ASD".
- NSD, normalised surface Dice = part of both surfaces within a tolerance of the other (Nikolov et al. 2018).

Empty masks (BraTS 2023): both empty is right, Dice 1 and 0 mm; where one alone is empty, Dice is 0 and
distances are the image's diagonal in mm. No score is ever NaN. Lesion-wise scores follow the BraTS 2023
evaluation (Saluja et al.).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
_Array = TypeVar("_Array", Mask, NDArray[np.integer[Any]])
Rule = Literal["measured", "both-empty", "missed", "false"]
"""How a score came about: distances were measured, or one of the masks was empty: both, the prediction alone
(the expert's structure was missed), or the expert's alone (a structure that is not there)."""

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

_SLACK_MM = 1e-4
_TOUCHING = np.ones((3, 3, 3))
"""Voxels that share a corner are of one component."""


@dataclass(frozen=True)
class RegionScore:
    """Agreement in one region.

    Attributes:
        dice: 0 to 1.
        hd95_mm, assd_mm, masd_mm: 0 and up; the image's diagonal where one mask is empty.
        nsd: 0 to 1, at the tolerance asked for.
        rule: whether distances were measured, or which rule for empty masks gave the scores.
    """

    dice: float
    hd95_mm: float
    assd_mm: float
    masd_mm: float
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
        ValueError: the shapes differ, `spacing_mm` is not one positive number for each axis, or a region
            holds code 0, the background.
    """
    _check(prediction, label, spacing_mm, regions)
    diagonal = diagonal_mm(label.shape, spacing_mm)
    prediction, label = _cropped(prediction, label)
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


def masd_mm(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """Mean of the two directed mean distances that `surface_distances` gives."""
    return float((forth.mean() + back.mean()) / 2)


def nsd(forth: NDArray[np.float64], back: NDArray[np.float64], *, tolerance_mm: float) -> float:
    """Normalised surface Dice of the distances that `surface_distances` gives.

    A distance beyond the tolerance by no more than 0.1 micrometres is within: a header's spacing is a
    float32, and three steps of a third of a millimetre are 1.00000003 mm.
    """
    reach = tolerance_mm + _SLACK_MM
    within = int(np.count_nonzero(forth <= reach)) + int(np.count_nonzero(back <= reach))
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
    _check(prediction, label, spacing_mm, regions)
    diagonal = diagonal_mm(label.shape, spacing_mm)
    prediction, label = _cropped(prediction, label, margin=dilation)
    return {
        region: _lesions(
            np.isin(prediction, codes),
            np.isin(label, codes),
            spacing_mm,
            diagonal=diagonal,
            dilation=dilation,
            smallest_mm3=smallest_mm3,
        )
        for region, codes in regions.items()
    }


def _score(
    prediction: Mask, label: Mask, spacing_mm: Sequence[float], *, diagonal: float, tolerance_mm: float
) -> RegionScore:
    found, there = bool(prediction.any()), bool(label.any())
    if not (found or there):
        return RegionScore(dice=1.0, hd95_mm=0.0, assd_mm=0.0, masd_mm=0.0, nsd=1.0, rule="both-empty")
    if not (found and there):
        rule: Rule = "missed" if there else "false"
        far = diagonal
        return RegionScore(dice=0.0, hd95_mm=far, assd_mm=far, masd_mm=far, nsd=0.0, rule=rule)
    ours, theirs = _cropped(prediction, label)
    distances = surface_distances(ours, theirs, spacing_mm)
    return RegionScore(
        dice=dice(ours, theirs),
        hd95_mm=hd95_mm(*distances),
        assd_mm=assd_mm(*distances),
        masd_mm=masd_mm(*distances),
        nsd=nsd(*distances, tolerance_mm=tolerance_mm),
        rule="measured",
    )


def _cropped(first: _Array, second: _Array, *, margin: int = 0) -> tuple[_Array, _Array]:
    """Both arrays in the box around what is not zero in either; the whole where nothing is."""
    union = (first != 0) | (second != 0)
    rows = union.any(axis=(1, 2))
    if not rows.any():
        return first, second
    slab = union[rows]
    box = _box([rows, slab.any(axis=(0, 2)), slab.any(axis=(0, 1))], margin)
    return first[box], second[box]


def _box(occupied: Sequence[Mask], margin: int) -> tuple[slice, ...]:
    """From the first to the last occupied place of each axis, and `margin` more where the image goes on."""
    ends = [np.flatnonzero(axis)[[0, -1]] for axis in occupied]
    return tuple(slice(max(0, int(low) - margin), int(high) + 1 + margin) for low, high in ends)


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
    prediction: Mask,
    label: Mask,
    spacing_mm: Sequence[float],
    *,
    diagonal: float,
    dilation: int,
    smallest_mm3: float,
) -> LesionScore:
    components, count = ndimage.label(prediction, _TOUCHING)
    places = ndimage.find_objects(components)
    matched: set[int] = set()
    measured: list[tuple[float, float]] = []
    voxel_mm3 = float(np.prod(spacing_mm))
    for widened, place in _expert_lesions(label, dilation):
        touching = [int(one) for one in np.unique(components[place][widened]) if one]
        matched.update(touching)
        if int(np.count_nonzero(label[place] & widened)) * voxel_mm3 > smallest_mm3:
            around = _hull([place, *(places[one - 1] for one in touching)])
            lesion = np.zeros([side.stop - side.start for side in around], dtype=bool)
            lesion[_within(place, around)] = label[place] & widened
            found = np.isin(components[around], touching)
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


def _expert_lesions(label: Mask, dilation: int) -> Iterator[tuple[Mask, tuple[slice, ...]]]:
    """Each expert lesion's widened mask and the box that it fills.

    A component of the widened label is the widened lesion: widening one voxel gives a connected whole.
    """
    near = ndimage.generate_binary_structure(3, 2)
    wide = ndimage.binary_dilation(label, near, iterations=dilation) if dilation else label
    merged, _ = ndimage.label(wide, _TOUCHING)
    for number, place in enumerate(ndimage.find_objects(merged), start=1):
        yield merged[place] == number, place


def _hull(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around all."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes)


def _within(inner: tuple[slice, ...], outer: tuple[slice, ...]) -> tuple[slice, ...]:
    """Where a box lies in one that holds it."""
    pairs = zip(inner, outer, strict=True)
    return tuple(slice(one.start - other.start, one.stop - other.start) for one, other in pairs)


def _check(
    prediction: NDArray[np.integer[Any]],
    label: NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    regions: Mapping[str, tuple[int, ...]],
) -> None:
    if prediction.shape != label.shape or prediction.ndim != 3:
        raise ValueError(f"label maps of shapes {prediction.shape} and {label.shape}: need one (X, Y, Z)")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing {tuple(spacing_mm)}: need three positive numbers of mm")
    if any(0 in codes for codes in regions.values()):
        raise ValueError("code 0 is background: no region may hold it")
