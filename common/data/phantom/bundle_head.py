"""A phantom head with bundles, its T1w and diffusion maps, as a folder like those that TractSeg works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.phantom import fields
from common.data.phantom.anatomy import draw_anatomy, template_position
from common.data.phantom.bundles import TUBES, draw_courses, lay
from common.data.phantom.diffusion import (
    DIFFUSION,
    acquire_diffusion,
    core_of,
    draw_diffusion,
    orientation,
    true_anisotropy,
)
from common.data.phantom.fields import Array
from common.data.phantom.sites import Profile, head, make_case
from common.data.phantom.tumour import Tumour
from common.data.volume import Volume, write_volume
from common.errors import InputError
from common.seeds import generator


@dataclass(frozen=True, eq=False)
class BundleHead:
    """One phantom examination with bundles.

    Attributes:
        t1: (X, Y, Z), as the phantom's scanner gives it.
        fa: (X, Y, Z), anisotropy, 0 outside the brain.
        peaks: (3, X, Y, Z), orientation (R, A, S) of length anisotropy, 0 outside the brain.
        masks: name -> bool (X, Y, Z): the displaced tube, less the tumour's core.
        lesion: uint8 (X, Y, Z), 1 in NCR, ED or ET.
        displacement_mm: name -> mean displacement in the mask.
        interrupted: name -> share of the displaced tube that the core took away.
        oedema: name -> share of the mask that is labelled ED.
    """

    t1: Array
    fa: Array
    peaks: Array
    masks: Mapping[str, NDArray[np.bool_]]
    lesion: NDArray[np.uint8]
    affine: NDArray[np.float64]
    displacement_mm: Mapping[str, float]
    interrupted: Mapping[str, float]
    oedema: Mapping[str, float]


def make_bundle_head(
    profile: Profile, *, seed: int, spacing_mm: float, tumour: bool, diffusion: str
) -> BundleHead:
    """A head of `profile`; with the same seed the same head, bundles and tumour under every scanner.

    Args:
        profile: whose heads and tumours, and the scanner of the T1w image.
        seed: fixes everything.
        spacing_mm: isotropic voxel size, 1 to 4 mm.
        tumour: False gives the tumour-free twin.
        diffusion: the phantom site whose diffusion protocol is used, a key of `DIFFUSION`.

    Raises:
        InputError: an unknown diffusion protocol, or a spacing outside 1 to 4 mm.
    """
    if diffusion not in DIFFUSION:
        raise InputError(
            f"no phantom site {diffusion!r} has a diffusion protocol; {', '.join(DIFFUSION)} have"
        )
    case = make_case(profile, seed=seed, spacing_mm=spacing_mm, tumour=tumour)
    anatomy, _, grown = head(profile, seed=seed, spacing_mm=spacing_mm, tumour=tumour)
    position = template_position(draw_anatomy(generator(seed, "anatomy")), spacing_mm=spacing_mm)
    if grown is not None:
        position = fields.displace(position, grown.displacement_mm, spacing_mm)
    laid = lay(
        draw_courses(generator(seed, "bundles")), position, anatomy.fractions[2], spacing_mm=spacing_mm
    )
    anisotropy = true_anisotropy(anatomy, grown, laid, generator(seed, "anisotropy"))
    direction = orientation(laid, position, generator(seed, "orientation"), spacing_mm=spacing_mm)
    examination = draw_diffusion(DIFFUSION[diffusion], generator(seed, "diffusion"))
    fa, peaks = acquire_diffusion(anisotropy, direction, examination, spacing_mm=spacing_mm)
    masks, share = _interrupted(laid.masks & anatomy.mask, grown)
    return BundleHead(
        t1=case.images[0],
        fa=fa * anatomy.mask,
        peaks=peaks * anatomy.mask,
        masks=masks,
        lesion=(case.label > 0).astype(np.uint8),
        affine=case.affine,
        displacement_mm=_means(masks, np.linalg.norm(case.displacement_mm, axis=0)),
        interrupted=share,
        oedema=_means(masks, (case.label == 2).astype(np.float32)),
    )


def write_bundle_head(folder: Path, head_: BundleHead) -> None:
    """Writes T1w, FA, peaks (four axes), lesion and `bundle_masks/NAME` as .nii.gz into `folder`."""
    (folder / "bundle_masks").mkdir(parents=True, exist_ok=True)
    arrays: list[tuple[str, NDArray[Any]]] = [
        ("T1w", np.round(head_.t1).astype(np.int16)),
        ("FA", head_.fa.astype(np.float32)),
        ("peaks", np.moveaxis(head_.peaks, 0, -1).astype(np.float32)),
        ("lesion", head_.lesion),
        *((f"bundle_masks/{name}", mask.astype(np.uint8)) for name, mask in head_.masks.items()),
    ]
    for name, array in arrays:
        write_volume(folder / f"{name}.nii.gz", Volume(array, head_.affine))


def _interrupted(
    tubes: NDArray[np.bool_], tumour: Tumour | None
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, float]]:
    core = np.zeros(tubes.shape[1:], np.bool_) if tumour is None else core_of(tumour) > 0.5
    masks = {name: tube & ~core for name, tube in zip(TUBES, tubes, strict=True)}
    shares = {
        name: float((tube & core).sum() / max(tube.sum(), 1)) for name, tube in zip(TUBES, tubes, strict=True)
    }
    return masks, shares


def _means(masks: Mapping[str, NDArray[np.bool_]], values: Array) -> dict[str, float]:
    return {name: float(values[mask].mean()) if mask.any() else 0.0 for name, mask in masks.items()}
