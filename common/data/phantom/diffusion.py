"""What a diffusion scan shows of the phantom: a map like FA, and one like the largest fibre orientation.

Neither is a diffusion simulation. Anisotropy is set by tissue (Pierpaoli and Basser 1996 for the order of
tissues and for noise that raises low values), highest in the tubes of `bundles`, lowered to about half by
oedema and to next to nothing in a tumour's core. The orientation has three components (R, A, S) of length
anisotropy, along the tubes, elsewhere along a sketch of commissural and fanning fibres. Slices and
resolution come from the same machinery as the other scans; distortions of echo-planar imaging are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.phantom import fields
from common.data.phantom.anatomy import Anatomy
from common.data.phantom.bundles import Laid
from common.data.phantom.fields import Array, Shape
from common.data.phantom.phenotype import Range
from common.data.phantom.sampling import Slices, resample
from common.data.phantom.tumour import Tumour

WHITE, GREY, FLUID, TUBE, CORE = 0.42, 0.13, 0.05, 0.60, 0.08
"""Anisotropy of each tissue, in the middle of a tube, and in a tumour's core."""

OEDEMA = 0.45
"""Share of anisotropy that full oedema takes away."""

CROSSINGS = 0.15
"""Relative variation of anisotropy in white matter, over about a centimetre."""

PEAK_NOISE = 1.5
"""Noise of an orientation component over that of anisotropy."""

HALF_SPACE = (0.36, 0.80, 0.48)
"""An orientation has no sign: each is told as the vector that points to this side."""

_AWAY_FROM_ZERO = 10.0


@dataclass(frozen=True)
class DiffusionScanner:
    """A site's diffusion protocol, as ranges.

    Attributes:
        thickness_mm, in_plane_mm: of the axial slices.
        noise: standard deviation of anisotropy in an acquired voxel.
        gain: measured over true anisotropy; fewer directions and a lower b-value see less.
    """

    thickness_mm: Range
    in_plane_mm: Range
    noise: Range
    gain: Range


DIFFUSION: Mapping[str, DiffusionScanner] = {
    "adult-a": DiffusionScanner((1.5, 1.5), (1.5, 1.5), noise=(0.03, 0.05), gain=(0.97, 1.03)),
    "adult-b": DiffusionScanner((3.0, 4.0), (2.0, 2.5), noise=(0.05, 0.09), gain=(0.82, 0.95)),
    "ssa": DiffusionScanner((5.0, 6.0), (2.5, 3.0), noise=(0.07, 0.12), gain=(0.75, 0.9)),
    "varied": DiffusionScanner((1.5, 6.0), (1.5, 3.0), noise=(0.02, 0.12), gain=(0.75, 1.03)),
}
"""Phantom site -> its diffusion protocol: research 3 T, clinical 3 T, clinical 1.5 T, and anything."""


@dataclass(frozen=True)
class DiffusionAcquisition:
    """One diffusion examination, drawn; `seed` is for noise."""

    slices: Slices
    noise: float
    gain: float
    seed: int


def draw_diffusion(scanner: DiffusionScanner, rng: np.random.Generator) -> DiffusionAcquisition:
    """One examination; every knob draws the same amount of randomness whatever its range."""
    unit = rng.random(4)

    def between(ends: Range, place: int) -> float:
        return ends[0] + (ends[1] - ends[0]) * float(unit[place])

    slices = Slices(
        thickness_mm=between(scanner.thickness_mm, 0), in_plane_mm=between(scanner.in_plane_mm, 1)
    )
    return DiffusionAcquisition(
        slices, between(scanner.noise, 2), between(scanner.gain, 3), int(rng.integers(2**62))
    )


def true_anisotropy(anatomy: Anatomy, tumour: Tumour | None, laid: Laid, rng: np.random.Generator) -> Array:
    """Anisotropy (X, Y, Z) of the tissue itself, 0 to 1; `rng` draws the variation within white matter."""
    csf, grey, white = anatomy.fractions
    crossings = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 10.0, rng)
    fibres = (WHITE + (TUBE - WHITE) * laid.profile) * (1 + CROSSINGS * np.clip(crossings, -2.5, 2.5))
    healthy = white * fibres + GREY * grey + FLUID * csf
    if tumour is None:
        return np.asarray(np.clip(healthy, 0, 0.95), np.float32)
    _, oedema, *_ = tumour.fractions
    core = core_of(tumour)
    return np.asarray(np.clip(healthy * (1 - core - OEDEMA * oedema), 0, 0.95) + CORE * core, np.float32)


def core_of(tumour: Tumour) -> Array:
    """Fraction (X, Y, Z) of everything in the tumour that is no oedema."""
    necrosis, _, *others = tumour.fractions
    return np.asarray(necrosis + sum(others), np.float32)


def orientation(laid: Laid, position_mm: Array, rng: np.random.Generator, *, spacing_mm: float) -> Array:
    """Unit vectors (3, X, Y, Z) of the main fibre direction: the tubes', or the sketch around them."""
    shape = laid.profile.shape
    wobble = _wobble((shape[0], shape[1], shape[2]), spacing_mm, rng)
    around, along = _pointed(_around(position_mm) + wobble), _pointed(laid.direction)
    return _pointed(laid.profile * along + (1 - laid.profile) * around)


def acquire_diffusion(
    anisotropy: Array, direction: Array, examination: DiffusionAcquisition, *, spacing_mm: float
) -> tuple[Array, Array]:
    """The FA-like map (X, Y, Z) and the orientation (3, X, Y, Z), as measured; not yet cut to the brain.

    Noise is Rician in anisotropy, which raises what is low, and Gaussian in each component of orientation.
    """
    rng = np.random.default_rng(examination.seed)
    step = (spacing_mm,) * 3
    measured = anisotropy * np.float32(examination.gain)
    fa = resample(measured, examination.slices, step, noise_sigma=examination.noise, rng=rng)
    sigma = PEAK_NOISE * examination.noise
    # Far from zero the magnitude that `resample` adds noise to is as good as Gaussian.
    peaks = [
        resample(component + _AWAY_FROM_ZERO, examination.slices, step, noise_sigma=sigma, rng=rng)
        for component in measured * direction
    ]
    return np.clip(fa, 0, 1), np.stack(peaks) - np.float32(_AWAY_FROM_ZERO)


def _around(position_mm: Array) -> Array:
    """A sketch of the other fibres in MNI space: across near the midline, fanning outwards elsewhere."""
    side = np.sign(position_mm[0])
    fan = position_mm - np.stack([side * 22, np.full_like(side, -18), np.full_like(side, 8)])
    fan /= np.maximum(np.linalg.norm(fan, axis=0), 1e-3)
    across = np.zeros_like(fan)
    across[0] = 1
    commissural = fields.sigmoid((18 - np.abs(position_mm[0])) / 4)
    return np.asarray(commissural * across + (1 - commissural) * _pointed(fan), np.float32)


def _wobble(shape: Shape, spacing_mm: float, rng: np.random.Generator) -> Array:
    return np.stack([0.35 * fields.smooth_noise(shape, spacing_mm, 12.0, rng) for _ in range(3)])


def _pointed(vectors: Array) -> Array:
    """Of length 1 (or 0), into the half space."""
    side = np.sign(np.tensordot(np.array(HALF_SPACE, np.float32), vectors, 1))
    length = np.linalg.norm(vectors, axis=0)
    return np.asarray(vectors * np.where(side < 0, -1, 1) / np.maximum(length, 1e-6), np.float32)
