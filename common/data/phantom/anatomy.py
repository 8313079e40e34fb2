"""Whose brain: tissue fractions of one subject on a working grid.

The template is the MNI152 average brain (ICBM 2009a; Fonov et al. 2011, Collins et al. 1999) that nilearn
carries, or an analytic head where nilearn is absent. A subject is an affine and a smooth deformation of
it, with its own sulcal width, ribbon and ventricles, sampled directly at the working spacing.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from common.data.phantom import fields
from common.data.phantom.analytic import analytic_fractions
from common.data.phantom.fields import Array, Shape
from common.data.volume import read_volume
from common.errors import InputError

FIELD_OF_VIEW_MM = (168.0, 204.0, 168.0)
CENTRE_MM = (0.0, -17.0, 5.0)
"""World position (RAS, MNI) of the middle of the brain and of the grid."""

_FILES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Template:
    """Average anatomy in MNI space.

    Attributes:
        channels: (6, X, Y, Z): CSF, GM, WM (sum 1), brain (smoothed over 3 mm), ventricles, and nearness
            to the ventricles.
        origin_mm: world position (RAS) of voxel (0, 0, 0); axes run R, A, S.
    """

    channels: Array
    origin_mm: tuple[float, float, float]
    spacing_mm: float


@dataclass(frozen=True)
class AnatomyParameters:
    """One subject, drawn.

    Attributes:
        scale: subject size over template size per axis.
        warp_mm: standard deviations of the coarse (45 mm) and fine (20 mm) deformation.
        sharpness: exponent on tissue fractions; above 1 undoes the blur of the average brain.
        atrophy: log-odds added to CSF everywhere.
        ventricles: log-odds added to CSF in and around the ventricles.
        ribbon: strength of the local variation of tissue borders, in log-odds.
        seed: for the fields themselves.
    """

    rotation_deg: tuple[float, float, float]
    scale: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    warp_mm: tuple[float, float]
    sharpness: float
    atrophy: float
    ventricles: float
    ribbon: float
    seed: int


@dataclass(frozen=True)
class Anatomy:
    """A subject on the working grid.

    Attributes:
        fractions: (3, X, Y, Z) CSF, GM, WM; sum 1 everywhere (CSF outside the brain).
        brain: (X, Y, Z) smooth brain membership; 0.5 is the surface.
        ventricles: (X, Y, Z) fraction of ventricular CSF.
        periventricular: (X, Y, Z) nearness to the ventricles, 0 to 1.
    """

    fractions: Array
    brain: Array
    ventricles: Array
    periventricular: Array
    affine: NDArray[np.float64]
    spacing_mm: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Voxels of the brain."""
        return self.brain > 0.5

    @property
    def shape(self) -> Shape:
        """Grid size."""
        x, y, z = self.brain.shape
        return x, y, z


def draw_anatomy(rng: np.random.Generator) -> AnatomyParameters:
    """One subject's parameters."""
    size = rng.uniform(0.84, 0.96)
    tilt, axis, shift = rng.normal(0, 4, 3), rng.normal(0, 0.025, 3), rng.normal(0, 2, 3)
    return AnatomyParameters(
        rotation_deg=tuple(np.clip(tilt, -10, 10).tolist()),
        scale=tuple((size * np.exp(np.clip(axis, -0.05, 0.05))).tolist()),
        shift_mm=tuple(np.clip(shift, -4, 4).tolist()),
        warp_mm=(float(rng.uniform(2.0, 4.5)), float(rng.uniform(0.6, 1.6))),
        sharpness=float(rng.uniform(1.2, 2.2)),
        atrophy=float(rng.uniform(-0.3, 1.2)),
        ventricles=float(rng.uniform(-0.5, 2.5)),
        ribbon=float(rng.uniform(0.4, 1.0)),
        seed=int(rng.integers(2**62)),
    )


def build_anatomy(parameters: AnatomyParameters, *, spacing_mm: float, source: str | None = None) -> Anatomy:
    """The subject that `parameters` describe, on a grid of `spacing_mm` (1 to 4 mm).

    Args:
        parameters: a drawn subject.
        spacing_mm: isotropic voxel size.
        source: "mni152", "analytic", or None for the first that is available.
    """
    template = load_template(source or default_source(), half=spacing_mm >= 2)
    rng = np.random.default_rng(parameters.seed)
    shape = grid_shape(spacing_mm)
    world = _template_position(parameters, shape, spacing_mm, rng)
    origin = np.array(template.origin_mm, np.float32)[:, None, None, None]
    channels = fields.sample(template.channels, (world - origin) / np.float32(template.spacing_mm))
    brain, ventricles, near = channels[3], channels[4], channels[5]
    return Anatomy(
        fractions=_individual(channels[:3], near, parameters, spacing_mm, rng),
        brain=brain,
        ventricles=ventricles,
        periventricular=near,
        affine=grid_affine(spacing_mm),
        spacing_mm=spacing_mm,
    )


def grid_shape(spacing_mm: float) -> Shape:
    """Voxels of the working grid."""
    x, y, z = (round(extent / spacing_mm) for extent in FIELD_OF_VIEW_MM)
    return x, y, z


def grid_affine(spacing_mm: float) -> NDArray[np.float64]:
    """Voxel to world of the working grid; axes run L, P, S as in BraTS."""
    direction = np.array([-1.0, -1.0, 1.0]) * spacing_mm
    affine = np.diag([*direction, 1.0])
    affine[:3, 3] = np.array(CENTRE_MM) - direction * (np.array(grid_shape(spacing_mm)) - 1) / 2
    return affine


def template_position(parameters: AnatomyParameters, *, spacing_mm: float) -> Array:
    """MNI position (3, X, Y, Z), mm, that each voxel of the healthy subject shows; as in `build_anatomy`."""
    rng = np.random.default_rng(parameters.seed)
    return _template_position(parameters, grid_shape(spacing_mm), spacing_mm, rng)


def _template_position(
    parameters: AnatomyParameters, shape: Shape, spacing_mm: float, rng: np.random.Generator
) -> Array:
    """Template world position (3, X, Y, Z) that each voxel of the subject shows."""
    affine = grid_affine(spacing_mm)
    index = fields.voxel_index(shape)
    centred = index - np.array([(n - 1) / 2 for n in shape], np.float32)[:, None, None, None]
    linear = _rotation(parameters.rotation_deg) @ np.diag(1 / np.array(parameters.scale)) @ affine[:3, :3]
    position = np.tensordot(linear.astype(np.float32), centred, 1)
    offset = np.array(CENTRE_MM) + np.array(parameters.shift_mm)
    position += offset.astype(np.float32)[:, None, None, None]
    for amplitude, pitch in zip(parameters.warp_mm, (45.0, 20.0), strict=True):
        for axis in range(3):
            position[axis] += amplitude * fields.smooth_noise(shape, spacing_mm, pitch, rng)
    return position


def _rotation(angles_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    x, y, z = np.deg2rad(angles_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _individual(
    fractions: Array, near: Array, parameters: AnatomyParameters, spacing_mm: float, rng: np.random.Generator
) -> Array:
    """Template fractions with the subject's own borders: a shift of each tissue's log-odds."""
    shape = (fractions.shape[1], fractions.shape[2], fractions.shape[3])
    logit = parameters.sharpness * np.log(np.maximum(fractions, 1e-3))
    for channel in logit:
        channel += parameters.ribbon * fields.smooth_noise(shape, spacing_mm, 9.0, rng)
    logit[0] += parameters.atrophy + parameters.ventricles * near
    weight = np.exp(logit - logit.max(0))
    individual: Array = weight / weight.sum(0)
    return individual


def default_source() -> str:
    """`mni152` where nilearn is installed, else `analytic`."""
    return "analytic" if importlib.util.find_spec("nilearn") is None else "mni152"


@functools.cache
def load_template(source: str, *, half: bool) -> Template:
    """The template `mni152` or `analytic`, at 1 mm or, `half`, at 2 mm; kept for the process.

    Raises:
        InputError: an unknown source, or `mni152` where nilearn is absent.
    """
    if source not in ("mni152", "analytic"):
        raise InputError(f"there is no anatomy {source!r}; choose mni152 or analytic")
    if source == "mni152":
        fractions, mask = _mni_fractions()
        origin, spacing = (-72.0, -107.0, -72.0), 1.0
        if half:
            fractions = torch.nn.functional.avg_pool3d(torch.from_numpy(fractions), 2).numpy()
            mask = torch.nn.functional.avg_pool3d(torch.from_numpy(mask)[None], 2)[0].numpy()
            origin, spacing = (-71.5, -106.5, -71.5), 2.0
    else:
        spacing = 2.0 if half else 1.0
        fractions, mask, origin = analytic_fractions(spacing)
    return _with_regions(fractions, mask, origin, spacing)


def _mni_fractions() -> tuple[Array, Array]:
    """CSF, GM, WM (3, 145, 181, 155) and the brain mask, cropped to the brain of the MNI152 maps."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError("anatomy mni152: nilearn carries its tissue maps; install nilearn or take analytic")
    folder = Path(spec.origin).parent / "datasets" / "data"
    crop = np.s_[26:172, 27:209, 0:156]
    t1, gm, wm = (read_volume(folder / _FILES.format(name)).array[crop] for name in ("t1", "gm", "wm"))
    t1, gm, wm = (np.asarray(a / a.max(), np.float32) for a in (t1, gm, wm))
    mask = ndimage.binary_fill_holes(t1 > 0)
    # The maps leave too little CSF: what is dark on T1 is fluid, whatever they call it.
    fluid = np.clip((0.42 - t1) / 0.14, 0, 1) * mask
    csf = np.maximum(np.clip(1 - gm - wm, 0, 1), fluid)
    tissue = (1 - csf) / np.maximum(gm + wm, 1e-3)
    return np.stack([csf, gm * tissue, wm * tissue]).astype(np.float32), mask.astype(np.float32)


def _with_regions(
    fractions: Array, mask: Array, origin_mm: tuple[float, float, float], spacing_mm: float
) -> Template:
    """Adds the smooth brain, the ventricles and the nearness to them; pads so that the border is outside."""
    pad = 5
    fractions = np.pad(fractions, ((0, 0), *((pad, pad),) * 3))
    mask = np.pad(mask, pad)
    fractions[0] += 1 - fractions.sum(0)
    brain = ndimage.gaussian_filter(mask, 3 / spacing_mm)
    deep = ndimage.gaussian_filter(mask, 10 / spacing_mm) > 0.97
    x, y, z = (
        start + spacing_mm * (np.arange(n) - pad) for start, n in zip(origin_mm, mask.shape, strict=True)
    )
    box = (
        (np.abs(x) < 42)[:, None, None]
        & ((y > -62) & (y < 40))[None, :, None]
        & ((z > -22) & (z < 40))[None, None, :]
    )
    midline = (np.abs(x) < 3)[:, None, None] & (z > 24)[None, None, :]
    ventricles = fractions[0] * (deep & box & ~midline)
    near = np.clip(2 * ndimage.gaussian_filter(ventricles, 3 / spacing_mm), 0, 1)
    padded_origin = tuple(start - pad * spacing_mm for start in origin_mm)
    channels = np.stack([*fractions, brain, ventricles, near]).astype(np.float32)
    return Template(channels, (padded_origin[0], padded_origin[1], padded_origin[2]), spacing_mm)
