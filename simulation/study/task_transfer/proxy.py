"""A stand-in for hippocampus scans: grey matter around a curve in the temporal lobe of phantoms.

The curve is sketched in MNI space and follows each subject's anatomy; it is taken from no atlas. Cases come
as the Decathlon's: crops of one side of the head on T1w, with two labels, anterior and posterior.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from common.data.cases import MODALITIES
from common.data.msd import HIPPOCAMPUS_LABELS
from common.data.phantom.anatomy import draw_anatomy, template_position
from common.data.phantom.bundles import curve
from common.data.phantom.sites import case_seed, make_case, site_profile
from common.data.volume import Volume, write_volume
from common.seeds import generator

COURSE_MM = ((22.0, -8.0, -21.0), (26.0, -16.0, -18.0), (29.0, -25.0, -12.0), (27.0, -34.0, -4.0))
"""Right side, MNI (R, A, S)."""

RADIUS_MM, MARGIN_MM = 7.0, 6.0
DIVIDE_MM = -22.0
"""A coordinate that divides anterior from posterior."""

GREY = 2
"""Code of grey matter in a phantom's tissue map."""


def write_proxy(out: Path, *, phantom: str, heads: int, seed: int, spacing_mm: float) -> None:
    """Write two crops, left and right, of each of `heads` phantom heads as a Decathlon folder."""
    for name in ("imagesTr", "labelsTr"):
        (out / name).mkdir(parents=True, exist_ok=True)
    patients = []
    for number in range(1, heads + 1):
        for side, (scan, label) in crops_of_head(
            phantom, seed=case_seed(seed, phantom, number), spacing_mm=spacing_mm
        ).items():
            name = f"hippocampus_{number:03d}{side}"
            write_volume(out / "imagesTr" / f"{name}.nii.gz", scan)
            write_volume(out / "labelsTr" / f"{name}.nii.gz", label)
            patients.append(f'"{name}" = "phantom-{number:03d}"')
    codes = ", ".join(f"{name} = {code}" for name, code in HIPPOCAMPUS_LABELS.items())
    lines = ["phantom = true", f"label_map = {{ {codes} }}", "[patients]", *patients]
    (out / "cohort.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def crops_of_head(phantom: str, *, seed: int, spacing_mm: float) -> dict[str, tuple[Volume, Volume]]:
    """Side (`r`, `l`) -> T1w crop (int16) and label (uint8) of one healthy phantom head."""
    case = make_case(site_profile(phantom), seed=seed, spacing_mm=spacing_mm, healthy=True)
    position = template_position(draw_anatomy(generator(seed, "anatomy")), spacing_mm=spacing_mm)
    scan = np.round(case.images[MODALITIES.index("t1n")]).astype(np.int16)
    grey = case.tissue == GREY
    found = {}
    for side, sign in (("r", 1.0), ("l", -1.0)):
        label = _structure(position * np.array([sign, 1, 1], np.float32)[:, None, None, None], grey)
        box = _around(label, margin=round(MARGIN_MM / spacing_mm))
        affine = case.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        found[side] = Volume(scan[box], affine), Volume(label[box], affine)
    return found


def _structure(position: NDArray[Any], grey: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Codes of the right side, where `position` (3, X, Y, Z) is in MNI space."""
    middle, _ = curve(COURSE_MM)
    low, high = middle.min(axis=0) - RADIUS_MM, middle.max(axis=0) + RADIUS_MM
    inside = grey.copy()
    for axis in range(3):
        inside &= (position[axis] >= low[axis]) & (position[axis] <= high[axis])
    places = position[:, inside].T
    near = cKDTree(middle).query(places)[0] <= RADIUS_MM
    codes = np.where(
        places[:, 1] > DIVIDE_MM, HIPPOCAMPUS_LABELS["anterior"], HIPPOCAMPUS_LABELS["posterior"]
    )
    label = np.zeros(grey.shape, dtype=np.uint8)
    label[inside] = np.where(near, codes, 0)
    return label


def _around(label: NDArray[np.uint8], *, margin: int) -> tuple[slice, ...]:
    where = np.argwhere(label > 0)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    return tuple(
        slice(max(0, int(start) - margin), min(n, int(stop) + margin))
        for start, stop, n in zip(low, high, label.shape, strict=True)
    )
