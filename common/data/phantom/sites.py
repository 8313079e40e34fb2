"""The phantom's sites, and one case of a site.

A profile is what a site is: its scanner, its patients' gliomas, how bright its harmless findings are. Each
part is drawn from its own stream of the case's seed, so a change in one profile field changes that alone:
a site with another scanner images the same heads with the same tumours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.data.phantom import fields
from common.data.phantom.acquisition import acquire
from common.data.phantom.anatomy import Anatomy, build_anatomy, draw_anatomy
from common.data.phantom.fields import Array
from common.data.phantom.nuisance import draw_nuisance, nuisance_fractions
from common.data.phantom.phenotype import TumourParameters, draw_tumour
from common.data.phantom.scanner import Acquisition, Scanner, draw_acquisition
from common.data.phantom.tissue import (
    PROTOCOL_1T5,
    PROTOCOL_3T,
    TISSUES,
    Protocol,
    Sequence,
    Tissue,
    jittered,
    signal_table,
    tissues_at,
    water_sensitivity,
    with_core,
)
from common.data.phantom.tumour import Tumour, grow
from common.errors import InputError
from common.seeds import derive, generator

PROTOCOL_3T_GRADIENT = Protocol(
    3.0, Sequence("ir", 2300, 3, 1000), Sequence("se", 6000, 85), Sequence("ir", 8000, 140, 2300)
)
"""Another vendor's 3 T protocol: MPRAGE, shorter T2 echo, longer FLAIR echo."""

PROTOCOL_3T_SPOILED = Protocol(
    3.0, Sequence("spgr", 8, 3, flip_deg=12), Sequence("se", 3500, 95), Sequence("ir", 10000, 100, 2600)
)
PROTOCOL_1T5_SHORT = Protocol(
    1.5, Sequence("se", 450, 15), Sequence("se", 3200, 85), Sequence("ir", 6500, 105, 2100)
)


@dataclass(frozen=True)
class Profile:
    """What a site's scans are like.

    Attributes:
        phenotypes: name -> relative frequency.
        tissue_jitter: standard deviation of a subject's log relaxation times.
        nuisance: how much is bright and no tumour (0 none, 1 much).
        texture: relative variation of water in healthy tissue.
        anatomy: "mni152", "analytic", or None for what is available.
    """

    name: str
    scanner: Scanner
    phenotypes: Mapping[str, float] = field(default_factory=lambda: {"high-grade": 1.0})
    tissue_jitter: float = 0.06
    nuisance: float = 0.5
    texture: float = 0.03
    anatomy: str | None = None

    @property
    def field_strength_t(self) -> float:
        """Field strength of the site's first protocol."""
        return self.scanner.protocols[0].field_strength_t


_ADULT = {"high-grade": 0.6, "low-grade": 0.15, "infiltrative": 0.1, "diffuse": 0.05, "solid": 0.1}

SITES: Mapping[str, Profile] = {
    "adult-a": Profile("adult-a", Scanner(snr=(35, 60), bias=(0.05, 0.2)), _ADULT),
    "adult-b": Profile(
        "adult-b",
        Scanner(
            protocols=(PROTOCOL_3T_GRADIENT,),
            thickness_mm=(3.0, 4.0),
            thin=(1.0, 1.0, 0.0, 0.0),
            snr=(30, 50),
            bias=(0.1, 0.3),
        ),
        _ADULT,
    ),
    "ssa": Profile(
        "ssa",
        Scanner(
            protocols=(PROTOCOL_1T5,),
            thickness_mm=(5.0, 6.0),
            gap_mm=(0.0, 1.5),
            in_plane_mm=(0.7, 1.0),
            planes=(0.1, 0.1, 0.8),
            snr=(12, 25),
            bias=(0.05, 0.15),
            ghost=0.05,
            misregistration_mm=0.6,
            strip_noise=(0.03, 0.1),
        ),
        {"late-stage": 0.7, "gliomatosis": 0.15, "high-grade": 0.1, "low-grade": 0.05},
    ),
    "varied": Profile(
        "varied",
        Scanner(
            protocols=(
                PROTOCOL_3T,
                PROTOCOL_1T5,
                PROTOCOL_3T_GRADIENT,
                PROTOCOL_3T_SPOILED,
                PROTOCOL_1T5_SHORT,
            ),
            thickness_mm=(1.0, 7.0),
            gap_mm=(0.0, 1.5),
            in_plane_mm=(0.7, 1.6),
            thin=(0.4, 0.6, 0.15, 0.3),
            planes=(0.25, 0.1, 0.65),
            snr=(8, 60),
            bias=(0.0, 0.3),
            time_jitter=0.12,
            contrast=0.08,
            gamma=0.2,
            ghost=0.08,
            misregistration_mm=0.7,
            strip_level=(0.35, 0.7),
            strip_noise=(0.0, 0.15),
            level=(100.0, 2000.0),
        ),
        {
            "high-grade": 0.25,
            "late-stage": 0.1,
            "gliomatosis": 0.1,
            "low-grade": 0.25,
            "infiltrative": 0.1,
            "diffuse": 0.1,
            "solid": 0.1,
        },
        tissue_jitter=0.1,
        nuisance=1.0,
        texture=0.05,
    ),
}
"""The shipped sites. `varied` is no hospital: wide ranges of everything, to pretrain on."""


@dataclass(frozen=True)
class PhantomCase:
    """One phantom examination.

    Attributes:
        images: float32 (4, X, Y, Z) in the order of MODALITIES; non-negative, 0 outside the brain.
        label: uint8 (X, Y, Z): tumour codes, or tissue codes for a healthy case.
        tissue: uint8 (X, Y, Z): 0 outside, 1 CSF, 2 GM, 3 WM, as displaced, under the tumour too.
        affine: voxel to world (RAS, mm).
        displacement_mm: (3, X, Y, Z) of the mass effect; zero without a tumour.
        tumour: the drawn tumour, None for a healthy case or a twin.
        acquisition: the drawn examination.
    """

    images: Array
    label: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    affine: NDArray[np.float64]
    spacing_mm: float
    displacement_mm: Array
    tumour: TumourParameters | None
    acquisition: Acquisition


def site_profile(name: str) -> Profile:
    """The shipped profile `name`; InputError names the known ones."""
    if name not in SITES:
        raise InputError(f"no phantom site is called {name!r}; known are {', '.join(SITES)}")
    return SITES[name]


def make_case(
    profile: Profile, *, seed: int, spacing_mm: float = 3.0, healthy: bool = False, tumour: bool = True
) -> PhantomCase:
    """One case of `profile`.

    Args:
        profile: the site.
        seed: fixes everything.
        spacing_mm: isotropic voxel size, 1 to 4 mm.
        healthy: no tumour, and the label holds tissue codes.
        tumour: False gives the tumour-free twin of the case with the same seed: the same head in the
            same examination, its label all zero.
    """
    if not 1 <= spacing_mm <= 4:
        raise InputError(f"phantom: spacing {spacing_mm} mm; choose 1 to 4 mm")
    anatomy, parameters, grown = head(
        profile, seed=seed, spacing_mm=spacing_mm, tumour=tumour and not healthy
    )
    acquisition = draw_acquisition(profile.scanner, generator(seed, "acquisition"))
    tissues = jittered(
        tissues_at(acquisition.protocol.field_strength_t), profile.tissue_jitter, generator(seed, "tissue")
    )
    if parameters is not None:
        tissues = with_core(tissues, fluid=parameters.fluid, uptake=parameters.uptake)
    images = _image(profile, anatomy, grown, tissues, acquisition, seed=seed)
    tissue = _tissue_label(anatomy)
    empty = np.zeros_like(tissue)
    return PhantomCase(
        images=images,
        label=tissue if healthy else empty if grown is None else grown.label,
        tissue=tissue,
        affine=anatomy.affine,
        spacing_mm=spacing_mm,
        displacement_mm=np.zeros((3, *anatomy.shape), np.float32) if grown is None else grown.displacement_mm,
        tumour=parameters,
        acquisition=acquisition,
    )


def head(
    profile: Profile, *, seed: int, spacing_mm: float, tumour: bool = True
) -> tuple[Anatomy, TumourParameters | None, Tumour | None]:
    """The subject of a case of `profile` as `make_case` images it, and the tumour in it, if any."""
    anatomy = build_anatomy(
        draw_anatomy(generator(seed, "anatomy")), spacing_mm=spacing_mm, source=profile.anatomy
    )
    if not tumour:
        return anatomy, None, None
    parameters = draw_tumour(profile.phenotypes, generator(seed, "tumour"))
    grown, anatomy = grow(parameters, anatomy)
    return anatomy, parameters, grown


def _image(
    profile: Profile,
    anatomy: Anatomy,
    tumour: Tumour | None,
    tissues: dict[str, Tissue],
    acquisition: Acquisition,
    *,
    seed: int,
) -> Array:
    table = signal_table(tissues, acquisition.protocol)
    reference = table[TISSUES.index("WM")].copy()
    if acquisition.contrast is not None:
        table = table * np.exp(np.array(acquisition.contrast, np.float32))
    nuisance = nuisance_fractions(draw_nuisance(profile.nuisance, generator(seed, "nuisance")), anatomy)
    fractions = _mix(anatomy.fractions, tumour, nuisance)
    water = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 10.0, generator(seed, "texture"))
    water *= np.float32(profile.texture)
    if tumour is not None:
        water += tumour.texture
    signals = np.tensordot(table.T, fractions, 1)
    sensitivity = water_sensitivity(tissues, acquisition.protocol)
    signals *= np.exp(np.tensordot(sensitivity.T, fractions, 1) * water)
    return acquire(signals, anatomy.brain, acquisition, spacing_mm=anatomy.spacing_mm, reference=reference)


def _mix(healthy: Array, tumour: Tumour | None, nuisance: Array) -> Array:
    """Fractions of all TISSUES, summing to 1: tumour first, then nuisances, then healthy tissue."""
    lesion = np.zeros((5, *healthy.shape[1:]), np.float32) if tumour is None else tumour.fractions
    rest = 1 - lesion.sum(0)
    nuisance = nuisance * (rest / np.maximum(nuisance.sum(0), 1))
    return np.concatenate([healthy * (rest - nuisance.sum(0)), lesion, nuisance])


def _tissue_label(anatomy: Anatomy) -> NDArray[np.uint8]:
    label = anatomy.fractions.argmax(0) + 1
    return np.where(anatomy.mask, label, 0).astype(np.uint8)


def case_seed(seed: int, site: str, number: int) -> int:
    """Seed of case `number` of `site` under a cohort's seed."""
    return derive(seed, "phantom", site, number)
