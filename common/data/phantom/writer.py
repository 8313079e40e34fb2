"""A phantom cohort as a folder that any reader of BraTS 2023 takes, with its cohort.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.data.cases import GLIOMA_LABELS, MODALITIES, TISSUE_LABELS
from common.data.phantom.sites import PhantomCase, Profile, case_seed, make_case, site_profile
from common.data.volume import Volume, write_volume
from common.errors import InputError


def write_cohort(
    out: Path, *, site: str, cases: int, seed: int, spacing_mm: float = 3.0, healthy: bool = False
) -> Path:
    """Writes `cases` cases of `site` below `out` and returns `out`.

    Folders are `BraTS-<SITE>-00001-000` with t1n, t1c, t2w, t2f (int16) and seg (uint8), one patient
    each. The same seed gives the same arrays.

    Raises:
        InputError: an unknown site, no case, or a spacing outside 1 to 4 mm.
    """
    if cases < 1:
        raise InputError(f"phantom {site}: {cases} cases; ask for at least one")
    profile = site_profile(site)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, cases + 1):
        case = make_case(profile, seed=case_seed(seed, site, number), spacing_mm=spacing_mm, healthy=healthy)
        _write_case(out, f"BraTS-{site.upper().replace('-', '')}-{number:05d}-000", case)
    label_map = TISSUE_LABELS if healthy else GLIOMA_LABELS
    (out / "cohort.toml").write_text(_cohort_toml(profile, label_map), encoding="utf-8")
    return out


def _write_case(out: Path, name: str, case: PhantomCase) -> None:
    folder = out / name
    folder.mkdir(exist_ok=True)
    for modality, image in zip(MODALITIES, case.images, strict=True):
        whole = np.round(image).astype(np.int16)
        write_volume(folder / f"{name}-{modality}.nii.gz", Volume(whole, case.affine))
    write_volume(folder / f"{name}-seg.nii.gz", Volume(case.label, case.affine))


def _cohort_toml(profile: Profile, label_map: Mapping[str, int]) -> str:
    codes = ", ".join(f"{name} = {code}" for name, code in label_map.items())
    return (
        f'name = "{profile.name}"\n'
        f"field_strength_t = {profile.field_strength_t}\n"
        'scanner = "phantom"\n'
        "phantom = true\n"
        f"label_map = {{ {codes} }}\n"
    )
