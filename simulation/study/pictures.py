"""One slice of each judged case, kept small, so that a report can show the best and the worst.

The slice is the one with the expert's largest cross-section, in the scan's own grid; where the expert saw
nothing, the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.volume import Volume
from simulation.slices import head_box, largest_section, shades, upright

FILE = "pictures.npz"


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice in radiological convention: rows from front to back, columns from the patient's right to left.

    Attributes:
        site, case: whose it is; names of cases are not shown.
        scan: uint8 (rows, columns), 0 outside the head.
        truth, found: uint8 codes of the same shape, the expert's and the model's.
        spacing_mm: along rows and columns.
        level: of the slice, from below, 0-based.
    """

    site: str
    case: str
    scan: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    found: NDArray[np.uint8]
    spacing_mm: tuple[float, float]
    level: int


def take(scan: Volume, truth: Volume, found: Volume, *, site: str, case: str) -> Picture:
    """The picture of one judged case; the three volumes lie on one grid."""
    grey, spacing_mm = upright(scan)
    expert, model = upright(truth)[0], upright(found)[0]
    level = largest_section(expert, model)
    box = (*head_box(grey), level)
    return Picture(
        site,
        case,
        shades(grey[box], grey),
        expert[box].astype(np.uint8),
        model[box].astype(np.uint8),
        (spacing_mm[0], spacing_mm[1]),
        level,
    )


def keep(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write the pictures of a job into its folder."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, picture in enumerate(pictures):
        arrays[f"{number}/planes"] = np.stack([picture.scan, picture.truth, picture.found])
        arrays[f"{number}/words"] = np.array([picture.site, picture.case])
        arrays[f"{number}/place"] = np.array([*picture.spacing_mm, picture.level], dtype=np.float64)
    np.savez_compressed(folder / FILE, **arrays)  # type: ignore[arg-type]


def kept(folder: Path) -> list[Picture]:
    """The pictures that a job left; none where it left none."""
    if not (folder / FILE).is_file():
        return []
    with np.load(folder / FILE, allow_pickle=False) as file:
        return [_picture(file, number) for number in range(len(file.files) // 3)]


def _picture(file: Any, number: int) -> Picture:  # noqa: ANN401 - an npz is a mapping without a type
    scan, truth, found = file[f"{number}/planes"]
    site, case = (str(word) for word in file[f"{number}/words"])
    row_mm, column_mm, level = (float(value) for value in file[f"{number}/place"])
    return Picture(site, case, scan, truth, found, (row_mm, column_mm), int(level))
