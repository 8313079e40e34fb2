"""Pictures of test cases: one axial slice, the expert's outlines and the kept model's, side by side.

How a slice is drawn is in `slices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.site import Site, open_site
from common.data.cases import STRUCTURES, Case
from common.data.transforms import expert_label, read_as_seen
from common.data.volume import Volume, read_label, same_grid
from common.errors import DataError, FedGliaError
from common.learning.evaluation import regions_of
from common.plan import Plan
from simulation.slices import LINE_MM, head_box, largest_section, outlines, png, shades, upright
from simulation.tables import case_dice

SHOWN: Mapping[str, tuple[str, ...]] = {
    "glioma": ("t2f", "t2w", "t1c", "t1n"),
    "tissue": ("t1n", "t1c", "t2w", "t2f"),
}
"""Task -> the modality to show; the next one where it was not acquired."""

MODALITY_NAMES = {"t1n": "T1", "t1c": "T1 with gadolinium", "t2w": "T2", "t2f": "T2-FLAIR"}


@dataclass(frozen=True)
class RegionRow:
    """One region's numbers under a picture; the volumes are those of the whole case."""

    region: str
    dice: float
    hd95_mm: float
    rule: str
    expert_ml: float
    model_ml: float


@dataclass(frozen=True)
class Overlay:
    """One test case's picture.

    Attributes:
        number: of the case among the site's test cases, from 1; names of cases are not shown.
        rank: `best`, `median` or `worst` by mean Dice of the kept model; empty where there is only one case.
        scan_png: the slice, as a data URI.
        width_mm, height_mm: of the slice.
        level: which slice it is, in words.
        expert, model: structure -> outline as an SVG path in mm, empty where the slice has none of it.
    """

    number: int
    rank: str
    mean_dice: float
    scan_words: str
    scan_png: str
    width_mm: float
    height_mm: float
    level: str
    expert: Mapping[str, str]
    model: Mapping[str, str]
    rows: tuple[RegionRow, ...]
    line_mm: float = LINE_MM


@dataclass(frozen=True)
class Gallery:
    """A site's pictures, and why some are not there.

    Attributes:
        marked: regions that the expert marks in any test case; None where the labels could not be read.
    """

    overlays: tuple[Overlay, ...]
    missing: tuple[str, ...] = ()
    marked: frozenset[str] | None = None


@dataclass(frozen=True)
class _Chosen:
    """A test case to show: its place in the split, its scores, why it was chosen."""

    index: int
    rank: str
    scores: Mapping[str, Any]


def gallery(site_folder: Path, plan: Plan, scores: Mapping[str, Any]) -> Gallery:
    """Pictures of the best, median and worst test case of the kept model; words in place of each that failed.

    Args:
        site_folder: the site's folder in the run directory.
        plan: of the run; it fixes the split.
        scores: the kept model's, as in summary.json; its cases are in the order of the split.
    """
    if not (site_folder / "site.toml").is_file():
        return Gallery((), ("No pictures: the scans are not in this run directory; they stay at the site.",))
    try:
        site = open_site(site_folder)
        cases = site.split(plan).test
        if len(cases) != len(scores["cases"]):
            raise DataError("the folder of scans holds other cases than during the run")
    except Exception as error:  # a report is made whatever became of the scans
        return Gallery((), (f"No pictures: {_words(error)}",))
    overlays, missing = [], []
    for chosen in _choose(scores, STRUCTURES[plan.task.kind]):
        try:
            overlays.append(_overlay(site, cases[chosen.index], plan=plan, chosen=chosen))
        except Exception as error:  # as above; the other pictures are still shown
            missing.append(f"No picture of test case {chosen.index + 1}: {_words(error)}")
    return Gallery(tuple(overlays), tuple(missing), _marked(site, cases, plan.task.kind))


def _overlay(site: Site, case: Case, *, plan: Plan, chosen: _Chosen) -> Overlay:
    structures = STRUCTURES[plan.task.kind]
    modality, scan = _scan(site, case, plan.task.kind)
    expert = expert_label(case, site.cohort, structures)
    prediction = read_label(site.folder / "predictions" / f"{case.name}.nii.gz")
    if not (same_grid(scan, expert) and same_grid(scan, prediction)):
        raise DataError("its label map and its scan lie on different grids")
    grey, spacing_mm = upright(scan)
    truth, found = upright(expert)[0], upright(prediction)[0]
    level = largest_section(truth, found)
    box = (*head_box(grey), level)
    plane = grey[box]
    return Overlay(
        number=chosen.index + 1,
        rank=chosen.rank,
        mean_dice=case_dice({"cases": [chosen.scores]}, structures)[0],
        scan_words=MODALITY_NAMES[modality] + (f", degraded to {site.degrade}" if site.degrade else ""),
        scan_png=png(shades(plane, grey)),
        width_mm=plane.shape[1] * spacing_mm[1],
        height_mm=plane.shape[0] * spacing_mm[0],
        level=f"axial slice {level + 1} of {grey.shape[2]}, counted from below",
        expert=outlines(truth[box], structures, spacing_mm[:2]),
        model=outlines(found[box], structures, spacing_mm[:2]),
        rows=_rows(expert, prediction, task=plan.task.kind, scores=chosen.scores),
    )


def _marked(site: Site, cases: Sequence[Case], task: str) -> frozenset[str] | None:
    try:
        found = {
            int(code)
            for case in cases
            for code in np.unique(expert_label(case, site.cohort, STRUCTURES[task]).array)
        }
    except Exception:  # as above; the sentences that need it say that it is not known
        return None
    return frozenset(region for region, codes in regions_of(task).items() if found.intersection(codes))


def _choose(scores: Mapping[str, Any], structures: Sequence[str]) -> Iterator[_Chosen]:
    """Best, median and worst case, as far as these are different ones."""
    dice = case_dice(scores, structures)
    order = sorted(range(len(dice)), key=lambda index: (-dice[index], index))
    last = len(order) - 1
    ranks = {len(order) // 2: "median", 0: "best", last: "worst"} if last > 0 else {0: ""}
    for place in sorted(ranks):
        yield _Chosen(order[place], ranks[place], scores["cases"][order[place]])


def _scan(site: Site, case: Case, task: str) -> tuple[str, Volume]:
    """The modality to show, as the site's models saw it: degraded where the site is."""
    modality = next((name for name in SHOWN[task] if name in case.images), None)
    if modality is None:
        raise DataError("it has no modality that could be shown")
    return modality, read_as_seen(case, modality, site.degrade)


def _rows(
    expert: Volume, prediction: Volume, *, task: str, scores: Mapping[str, Any]
) -> tuple[RegionRow, ...]:
    voxel_ml = float(np.prod(expert.spacing_mm)) / 1000
    return tuple(
        RegionRow(
            region,
            scores["dice"][region],
            scores["hd95_mm"][region],
            scores["rule"][region],
            voxel_ml * float(np.isin(expert.array, codes).sum()),
            voxel_ml * float(np.isin(prediction.array, codes).sum()),
        )
        for region, codes in regions_of(task).items()
    )


def _words(error: Exception) -> str:
    """An error for the page: our own words, or the kind alone, as other people's may hold a path."""
    return (
        str(error) if isinstance(error, FedGliaError) else f"{type(error).__name__} while reading the scans"
    )
