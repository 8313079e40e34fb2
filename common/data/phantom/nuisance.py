"""What is bright and no tumour: vessels, meninges, choroid plexus, periventricular caps, harmless lesions.

A network that has never seen these takes them for tumour on real scans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.phantom import fields
from common.data.phantom.anatomy import Anatomy
from common.data.phantom.fields import Array


@dataclass(frozen=True)
class Nuisance:
    """One subject's, drawn; every amount is 0 (absent) to about 1.

    Attributes:
        caps: gliosis around the ventricles.
        reach: how far the caps spread into white matter.
        lesions: share of harmless white-matter lesions.
        vessels: amount of blood in vessel-like curves.
        meninges: enhancing dura at the surface and in the falx.
        choroid: choroid plexus inside the ventricles.
        seed: for the fields themselves.
    """

    caps: float
    reach: float
    lesions: float
    vessels: float
    meninges: float
    choroid: float
    seed: int


NO_NUISANCE = Nuisance(0, 0, 0, 0, 0, 0, 0)


def draw_nuisance(strength: float, rng: np.random.Generator) -> Nuisance:
    """One subject's nuisances, around `strength` (0 none, 1 an older patient's)."""
    caps, lesions, vessels, meninges, choroid = (1.4 * strength * rng.beta(1.2, 1.8, 5)).tolist()
    reach, seed = float(strength * rng.random()), int(rng.integers(2**62))
    return Nuisance(caps, reach, lesions, vessels, meninges, choroid, seed)


def nuisance_fractions(nuisance: Nuisance, anatomy: Anatomy) -> Array:
    """Fractions (3, X, Y, Z) of GLIOSIS, VESSEL and CHOROID that replace what was there."""
    rng = np.random.default_rng(nuisance.seed)
    shape, spacing_mm = anatomy.shape, anatomy.spacing_mm
    csf, _, white = anatomy.fractions
    near = np.clip(anatomy.periventricular, 1e-4, 1) ** (1 - 0.75 * min(nuisance.reach, 1.0))
    rim = np.clip(near - anatomy.ventricles, 0, 1) * (1 - csf)
    patch = 0.6 + 0.4 * fields.smooth_noise(shape, spacing_mm, 14.0, rng)
    spots = fields.smooth_noise(shape, spacing_mm, 7.0, rng) + 0.8 * rim
    gliosis = nuisance.caps * rim * np.clip(patch, 0, 1.4)
    gliosis += nuisance.lesions * white * fields.sigmoid((spots - 3.0 + 0.9 * nuisance.lesions) / 0.25)
    choroid = fields.smooth_noise(shape, spacing_mm, 8.0, rng)
    choroid = nuisance.choroid * anatomy.ventricles * fields.sigmoid((choroid - 0.5) / 0.2)
    vessel = nuisance.vessels * _vessels(anatomy, rng) + nuisance.meninges * _meninges(anatomy, rng)
    return np.asarray(np.clip(np.stack([gliosis, vessel, choroid]), 0, 0.9), np.float32)


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Thin curves, densest in the subarachnoid space: where two smooth fields vanish together."""
    shape, spacing_mm = anatomy.shape, anatomy.spacing_mm
    first, second = (fields.smooth_noise(shape, spacing_mm, 22.0, rng) for _ in range(2))
    radius_mm, slope_mm = 0.8 + 0.25 * spacing_mm, 18.0
    curve = np.exp(-(first**2 + second**2) * (slope_mm / radius_mm) ** 2 / 2)
    # A vessel thinner than a voxel fills only its share of it.
    share = min(1.0, (1.6 / (spacing_mm + 0.6)) ** 2)
    return np.asarray(share * curve * (0.15 + np.clip(2 * anatomy.fractions[0], 0, 1)))


def _meninges(anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """A patchy enhancing shell at the brain's surface, its thickness below a voxel."""
    shell = np.exp(-(((anatomy.brain - 0.48) / 0.10) ** 2))
    patch = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 30.0, rng)
    share = min(1.0, 1.5 / anatomy.spacing_mm)
    return np.asarray(share * shell * np.clip(0.35 + 0.5 * patch, 0, 1))
