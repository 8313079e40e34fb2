"""A glioma in a subject: where, how large, what it is made of, and what it pushes aside.

The core (NCR and ET) is an irregular body that displaces tissue; oedema and infiltrating tumour (ED)
spread from it by Fisher-Kolmogorov growth, fast along white matter, slowly in grey, hardly through CSF
(Harpold et al. 2007). Sizes are set by volume: a border is the level that encloses the drawn volume.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.phantom import fields
from common.data.phantom.anatomy import Anatomy
from common.data.phantom.fields import Array, Shape
from common.data.phantom.phenotype import TumourParameters

NCR, ED, ET = 1, 2, 3
MIN_CORE_ML = 0.1
"""A smaller core is none."""

MIN_DETERMINANT = 0.1
"""Smallest local volume change that mass effect may cause."""

_GREY_SPEED, _FLUID_SPEED = 0.12, 0.01
"""Diffusivity relative to white matter."""


@dataclass(frozen=True)
class Tumour:
    """A grown tumour on the working grid.

    Attributes:
        fractions: (5, X, Y, Z) of NCR, ED, ET, SOLID and BLOOD; they replace what was there.
        label: uint8 (X, Y, Z): 0, 1 NCR, 2 ED, 3 ET.
        texture: (X, Y, Z) relative variation of water content inside the tumour, zero mean.
        displacement_mm: (3, X, Y, Z) along array axes: voxel x shows the healthy subject's x - u(x).
    """

    fractions: Array
    label: NDArray[np.uint8]
    texture: Array
    displacement_mm: Array


def grow(parameters: TumourParameters, healthy: Anatomy) -> tuple[Tumour, Anatomy]:
    """The tumour that `parameters` describe, and the subject with its tissue pushed aside."""
    rng = np.random.default_rng(parameters.seed)
    foci = _foci(parameters, healthy)
    displacement = mass_effect(parameters, healthy, foci[0])
    anatomy = _displaced(healthy, displacement)
    core_level = _core_level(parameters, anatomy, foci, rng)
    host = anatomy.mask & (anatomy.fractions[0] < 0.9)
    core = _body(core_level, host, parameters.core_ml, anatomy) * (parameters.core_ml >= MIN_CORE_ML)
    source = np.maximum(core, _body(core_level, host, 0.1 * parameters.whole_ml, anatomy))
    enhancing = _enhancing(parameters, anatomy, core_level, core, rng)
    oedema = _oedema(parameters, anatomy, core, source=source, centre=foci[0], rng=rng)
    blood = _blood(parameters, anatomy, core, rng)
    alive = core - blood
    dead = alive * (1 - enhancing)
    solid = dead * _solid_share(parameters, anatomy, rng)
    fractions = np.stack([dead - solid, (1 - core) * oedema, alive * enhancing, solid, blood])
    label = np.zeros(anatomy.shape, np.uint8)
    label[oedema > 0.5 * parameters.oedema_strength] = ED
    label[core > 0.5] = NCR
    label[(core > 0.5) & (enhancing > 0.5)] = ET
    label[~anatomy.mask] = 0
    texture = _texture(parameters, anatomy, fractions.sum(0), rng)
    return Tumour(fractions.astype(np.float32), label, texture, displacement), anatomy


def mass_effect(parameters: TumourParameters, anatomy: Anatomy, centre: Array) -> Array:
    """Radial displacement (3, X, Y, Z) in mm around `centre` (voxels).

    u = A (x - x0)/|x - x0| exp(-((|x - x0| - R)/lambda)^2), less towards the middle of the tumour and
    towards the skull; A is lowered until nothing folds.
    """
    spacing_mm = anatomy.spacing_mm
    arm = (fields.voxel_index(anatomy.shape) - centre[:, None, None, None]) * np.float32(spacing_mm)
    distance = np.sqrt((arm**2).sum(0)) + np.float32(1e-3)
    radius_mm = _radius_mm(max(parameters.core_ml, 0.2 * parameters.whole_ml))
    length = np.exp(-(((distance - radius_mm) / parameters.mass_reach_mm) ** 2))
    length *= np.minimum(distance / radius_mm, 1) * np.clip((anatomy.brain - 0.5) / 0.45, 0, 1)
    unit = arm / distance * length
    amplitude = min(parameters.mass_effect_mm, 0.7 * radius_mm)
    displacement = np.asarray(amplitude * unit, np.float32)
    while fields.jacobian_determinant(displacement, spacing_mm).min() < MIN_DETERMINANT:
        displacement *= np.float32(0.8)
    return displacement


def _body(level: Array, host: NDArray[np.bool_], volume_ml: float, anatomy: Anatomy) -> Array:
    """Soft membership of the part of `host` with the highest `level` that measures `volume_ml`."""
    border = level_of_volume(level, host, volume_ml, anatomy.spacing_mm)
    soft = fields.sigmoid((level - border) / max(0.7, 0.35 * anatomy.spacing_mm))
    return np.asarray(soft * anatomy.mask, np.float32)


def level_of_volume(level: Array, host: NDArray[np.bool_], volume_ml: float, spacing_mm: float) -> float:
    """The threshold on `level` whose superset within `host` measures `volume_ml`."""
    values = level[host]
    count = int(np.clip(round(volume_ml * 1000 / spacing_mm**3), 1, values.size - 1))
    return float(np.partition(values, values.size - count)[values.size - count])


def _radius_mm(volume_ml: float) -> float:
    return float((3000 * volume_ml / (4 * np.pi)) ** (1 / 3))


def _displaced(anatomy: Anatomy, displacement: Array) -> Anatomy:
    channels = np.concatenate([anatomy.fractions, anatomy.ventricles[None], anatomy.periventricular[None]])
    moved = fields.displace(channels, displacement, anatomy.spacing_mm)
    still = np.abs(displacement).max(0) < 1e-3
    moved[:, still] = channels[:, still]
    return replace(anatomy, fractions=moved[:3], ventricles=moved[3], periventricular=moved[4])


def _foci(parameters: TumourParameters, anatomy: Anatomy) -> list[Array]:
    """Voxel positions of the foci: in cerebral tissue below the cortex, others near the first."""
    csf, _, white = anatomy.fractions
    index = fields.voxel_index(anatomy.shape)
    world_z = index[2] * anatomy.spacing_mm + anatomy.affine[2, 3]
    world_y = -index[1] * anatomy.spacing_mm + anatomy.affine[1, 3]
    cerebrum = (world_z > -30) & ((world_z > -8) | (world_y > -35))
    candidates = np.argwhere((anatomy.brain > 0.75) & (csf < 0.2) & (white > 0.3) & cerebrum)
    if not len(candidates):
        candidates = np.argwhere(anatomy.mask)
    first = candidates[int(parameters.places[0] * len(candidates))]
    foci = [first.astype(np.float32)]
    reach = np.linalg.norm((candidates - first) * anatomy.spacing_mm, axis=1)
    near = candidates[(reach > 15) & (reach < 55)]
    for place in parameters.places[1:]:
        if len(near):
            foci.append(near[int(place * len(near))].astype(np.float32))
    return foci


def _core_level(
    parameters: TumourParameters, anatomy: Anatomy, foci: list[Array], rng: np.random.Generator
) -> Array:
    """Depth in mm (up to a constant) inside irregular ellipsoids around the foci."""
    shape, spacing_mm = anatomy.shape, anatomy.spacing_mm
    radius_mm = _radius_mm(parameters.core_ml)
    index = fields.voxel_index(shape)
    level = np.full(shape, -np.inf, np.float32)
    for order, centre in enumerate(foci):
        arm = (index - centre[:, None, None, None]) * np.float32(spacing_mm)
        stretched = np.tensordot(_stretch(rng, parameters.elongation), arm, 1)
        depth = -np.sqrt((stretched**2).sum(0)) - (0.0 if order == 0 else 0.35 * radius_mm)
        level = np.maximum(level, depth)
    coarse = fields.smooth_noise(shape, spacing_mm, max(8.0, 0.9 * radius_mm), rng)
    fine = fields.smooth_noise(shape, spacing_mm, max(6.0, 0.35 * radius_mm), rng)
    rough = parameters.irregularity * radius_mm * (0.35 * coarse + 0.12 * fine)
    fluid: Array = anatomy.fractions[0] + 0.5 * anatomy.ventricles
    return np.asarray(level + rough - 8.0 * fluid, np.float32)


def _stretch(rng: np.random.Generator, elongation: float) -> Array:
    """A random symmetric matrix of determinant 1 that makes a sphere an ellipsoid."""
    basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    log_axes = elongation * rng.standard_normal(3)
    log_axes -= log_axes.mean()
    return np.asarray(basis @ np.diag(np.exp(log_axes)) @ basis.T, np.float32)


def _enhancing(
    parameters: TumourParameters, anatomy: Anatomy, level: Array, core: Array, rng: np.random.Generator
) -> Array:
    """Share of the core, voxel by voxel, that enhances: a shell, islands, or something between."""
    if parameters.et_share <= 0:
        return np.zeros(anatomy.shape, np.float32)
    inside = core > 0.5
    if not inside.any():
        return np.zeros(anatomy.shape, np.float32)
    radius_mm = _radius_mm(parameters.core_ml)
    islands = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, max(5.0, 0.3 * radius_mm), rng)
    gaps = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, max(8.0, radius_mm), rng)
    depth = (level - level[inside].mean()) / (level[inside].std() + 1e-6)
    score = (1 - parameters.patchiness) * depth + parameters.patchiness * islands
    score = score + parameters.incompleteness * gaps
    border = np.quantile(score[inside], parameters.et_share)
    return fields.sigmoid((border - score) / 0.15)


def _oedema(
    parameters: TumourParameters,
    anatomy: Anatomy,
    core: Array,
    *,
    source: Array,
    centre: Array,
    rng: np.random.Generator,
) -> Array:
    """Strength of ED, 0 to `oedema_strength`, spread from `source` around the core."""
    shape, spacing_mm = anatomy.shape, anatomy.spacing_mm
    reach_mm = _radius_mm(parameters.whole_ml)
    level = np.log(infiltration(source, anatomy, reach_mm) + 1e-6)
    noise = fields.smooth_noise(shape, spacing_mm, 12.0, rng)
    fine = fields.smooth_noise(shape, spacing_mm, 6.0, rng)
    arm = (fields.voxel_index(shape) - centre[:, None, None, None]) * np.float32(spacing_mm / reach_mm)
    side = rng.standard_normal(3)
    towards = np.tensordot((side / np.linalg.norm(side)).astype(np.float32), arm, 1)
    csf, grey, _ = anatomy.fractions
    tissue = 1 - np.clip(1.6 * csf, 0, 1)
    level += parameters.irregularity * (0.5 * noise + 0.3 * fine)
    level += parameters.asymmetry * np.clip(towards, -1.5, 1.5) - parameters.cortex_sparing * grey
    level = np.where(core > 0.5, level.max() + 1, level)
    host = anatomy.mask & (tissue > 0.3)
    border, inner, outer = (
        level_of_volume(level, host, parameters.whole_ml * share, spacing_mm)
        for share in (1.0, 1 - parameters.fade, 1 + parameters.fade)
    )
    soft = fields.sigmoid(4 * (level - border) / max(inner - outer, 1e-3))
    return np.asarray(parameters.oedema_strength * soft * tissue * anatomy.mask, np.float32)


def infiltration(core: Array, anatomy: Anatomy, reach_mm: float) -> Array:
    """How long each voxel has held tumour cells, in growth steps, that started from `core`.

    Fisher-Kolmogorov, dc/dt = div(D grad c) + rho c (1 - c), explicit Euler on a grid of 3 mm or
    coarser; D dt/dx^2 = 1/6.5 in white matter keeps it stable. The time integral of c orders voxels by
    arrival even where c itself has saturated.
    """
    coarse_mm = max(3.0, anatomy.spacing_mm)
    scale = anatomy.spacing_mm / coarse_mm
    x, y, z = (max(4, round(n * scale)) for n in anatomy.shape)
    size = (x, y, z)
    csf, grey, white = (_zoom(channel, size) for channel in anatomy.fractions)
    speed = (white + _GREY_SPEED * grey + _FLUID_SPEED * csf) * (_zoom(anatomy.brain, size) > 0.5) / 6.5
    cells = _zoom(core, size)
    steps = int(np.clip(12 + 2.2 * reach_mm / coarse_mm, 15, 60))
    box = _box(cells > 0.05, margin=int(2.2 * reach_mm / coarse_mm) + 4)
    exposure = np.zeros_like(cells)
    exposure[box] = _fisher_kolmogorov(cells[box], speed[box], steps)
    return _zoom(exposure, anatomy.shape)


def _fisher_kolmogorov(cells: Array, speed: Array, steps: int) -> Array:
    cells, exposure = cells.copy(), np.zeros_like(cells)
    faces = [np.sqrt(_after(speed, axis) * _before(speed, axis)) for axis in range(3)]
    for _ in range(steps):
        change = 0.18 * cells * (1 - cells)
        for axis, face in enumerate(faces):
            flux = face * np.diff(cells, axis=axis)
            _before(change, axis)[...] += flux
            _after(change, axis)[...] -= flux
        cells += change
        exposure += cells
    return exposure


def _before(array: Array, axis: int) -> Array:
    return array[(slice(None),) * axis + (slice(None, -1),)]


def _after(array: Array, axis: int) -> Array:
    return array[(slice(None),) * axis + (slice(1, None),)]


def _zoom(array: Array, size: Shape) -> Array:
    if array.shape == size:
        return array
    tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
    if size[0] < array.shape[0]:
        out: Array = torch.nn.functional.adaptive_avg_pool3d(tensor, size)[0, 0].numpy()
        return out
    out = torch.nn.functional.interpolate(tensor, size, mode="trilinear")[0, 0].numpy()
    return out


def _box(mask: NDArray[np.bool_], *, margin: int) -> tuple[slice, slice, slice]:
    found = np.argwhere(mask)
    if not len(found):
        return slice(None), slice(None), slice(None)
    low = np.maximum(found.min(0) - margin, 0)
    high = found.max(0) + margin + 1
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def _solid_share(parameters: TumourParameters, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Share of NCR, voxel by voxel, that is solid tumour rather than necrosis."""
    patches = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 11.0, rng)
    return fields.sigmoid((patches - statistics.NormalDist().inv_cdf(1 - parameters.solid)) / 0.25)


def _blood(parameters: TumourParameters, anatomy: Anatomy, core: Array, rng: np.random.Generator) -> Array:
    """Haemorrhage: fraction of BLOOD in patches of the core; it stays labelled as the core it lies in."""
    patches = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 9.0, rng)
    return np.asarray(parameters.blood * core * fields.sigmoid((patches - 0.9) / 0.2), np.float32)


def _texture(
    parameters: TumourParameters, anatomy: Anatomy, present: Array, rng: np.random.Generator
) -> Array:
    coarse = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 12.0, rng)
    fine = fields.smooth_noise(anatomy.shape, anatomy.spacing_mm, 5.0, rng)
    return np.asarray(parameters.texture * present * (0.7 * coarse + 0.7 * fine), np.float32)
