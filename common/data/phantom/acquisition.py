"""One examination on one scanner, from tissue signals to images; and a poorer one made of real scans.

The order of effects is the scanner's: tissue signals are mixed, weighted by the receive field, averaged
over the slice profile, sampled, made noisy (Rician), disturbed by motion, interpolated to the working grid
and cut to the brain. Labels stay on the working grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.data.cases import MODALITIES
from common.data.phantom import fields
from common.data.phantom.fields import Array, Shape
from common.data.phantom.sampling import Slices, resample
from common.data.phantom.scanner import Acquisition, Scanner, draw_acquisition
from common.data.volume import Volume, orientation
from common.errors import DataError, InputError
from common.seeds import generator

DEGRADATIONS: Mapping[str, Scanner] = {
    "ssa-1.5T": Scanner(
        thickness_mm=(5.0, 6.0),
        gap_mm=(0.5, 1.5),
        in_plane_mm=(1.2, 1.6),
        planes=(0.1, 0.1, 0.8),
        snr=(12.0, 25.0),
        bias=(0.05, 0.15),
    ),
    "ultra-low": Scanner(
        thickness_mm=(5.0, 6.5), gap_mm=(0.0, 0.5), in_plane_mm=(1.8, 2.4), snr=(7.0, 14.0), bias=(0.1, 0.25)
    ),
}
"""What `degrade` can make of a scan: an African 1.5 T site's, a portable 0.055 T scanner's. Contrast stays
the scan's own: relaxation at another field cannot be had from weighted images."""


def acquire(
    signals: Array, brain: Array, acquisition: Acquisition, *, spacing_mm: float, reference: Array
) -> Array:
    """Images (4, X, Y, Z), non-negative, zero outside the stripped brain.

    Args:
        signals: (4, X, Y, Z) noise-free signals of the tissue.
        brain: (X, Y, Z) smooth brain membership.
        acquisition: the examination.
        spacing_mm: of the grid.
        reference: (4,) signal of white matter, against which SNR and intensities are set.
    """
    mask = strip(brain, acquisition, spacing_mm=spacing_mm)
    head = np.clip((brain - 0.15) / 0.2, 0, 1)
    images = np.empty_like(signals)
    for channel, signal in enumerate(signals):
        rng = generator(acquisition.seed, "channel", channel)
        image = signal * (head / reference[channel])
        image = _receive(image, acquisition.bias, spacing_mm, rng)
        image = _shifted(image, acquisition.misregistration_mm[channel], spacing_mm)
        image = resample(
            image,
            acquisition.slices[channel],
            (spacing_mm,) * 3,
            noise_sigma=0.0 if acquisition.snr is None else 1 / acquisition.snr,
            rng=rng,
        )
        image = _ghosted(image, acquisition.ghost[channel], acquisition.slices[channel])
        image = np.maximum(image, 0) ** np.float32(acquisition.gamma[channel])
        images[channel] = np.maximum(image * acquisition.level[channel], 1) * mask
    return images


def strip(brain: Array, acquisition: Acquisition, *, spacing_mm: float) -> NDArray[np.bool_]:
    """The skull-stripped brain of the examination."""
    if acquisition.strip_noise == 0:
        return np.asarray(brain > acquisition.strip_level)
    shape = (brain.shape[0], brain.shape[1], brain.shape[2])
    rough = fields.smooth_noise(shape, spacing_mm, 12.0, generator(acquisition.seed, "strip"))
    level = acquisition.strip_level + acquisition.strip_noise * rough
    return np.asarray(brain > np.clip(level, 0.25, 0.85))


def _receive(
    image: Array, bias: float, spacing_mm: float | tuple[float, float, float], rng: np.random.Generator
) -> Array:
    if bias == 0:
        return image
    field = fields.smooth_noise(_shape(image), spacing_mm, 110.0, rng)
    return np.asarray(image * np.exp(np.float32(bias) * field))


def _shifted(image: Array, shift_mm: tuple[float, ...], spacing_mm: float) -> Array:
    if not any(shift_mm):
        return image
    shift = np.array(shift_mm, np.float32)[:, None, None, None] / np.float32(spacing_mm)
    return np.asarray(fields.sample(image[None], fields.voxel_index(_shape(image)) - shift)[0])


def _ghosted(image: Array, amplitude: float, slices: Slices) -> Array:
    """Periodic motion: a faint copy half a field of view away along an in-plane axis."""
    if amplitude == 0:
        return image
    axis = 1 if slices.axis != 1 else 0
    return np.asarray(image + np.float32(amplitude) * np.roll(image, image.shape[axis] // 2, axis))


def _shape(image: Array) -> Shape:
    return image.shape[0], image.shape[1], image.shape[2]


def degrade(volumes: Mapping[str, Volume], profile: str, *, seed: int) -> dict[str, Volume]:
    """Real scans as a scanner of `profile` would have given them; shape, affine and type are kept.

    Slices, in-plane resolution (k-space), Rician noise and receive field are drawn once from `seed` and
    applied to each modality. Voxels that were 0 stay 0 and no other becomes 0, so the brain's outline is
    kept. Labels are not touched: they are not given.

    Args:
        volumes: modality -> skull-stripped magnitude image.
        profile: a key of DEGRADATIONS.
        seed: the examination.

    Raises:
        InputError: an unknown profile.
        DataError: an image with negative intensities, or nothing but zeros.
    """
    if profile not in DEGRADATIONS:
        raise InputError(f"no degradation is called {profile!r}; known are {', '.join(DEGRADATIONS)}")
    acquisition = draw_acquisition(DEGRADATIONS[profile], generator(seed, "acquisition"))
    channels = {name: channel for channel, name in enumerate(MODALITIES)}
    return {
        name: _degraded(volume, acquisition, channels.get(name, 0), name) for name, volume in volumes.items()
    }


def _degraded(volume: Volume, acquisition: Acquisition, channel: int, name: str) -> Volume:
    inside = volume.array != 0
    if not inside.any():
        raise DataError(f"{name}: only zeros; nothing can be degraded")
    middle = float(np.median(volume.array[inside]))
    if middle <= 0 or volume.array.min() < -0.2 * middle:
        raise DataError(f"{name}: negative intensities; degrade the magnitude image, before normalisation")
    box = _bounding_box(inside)
    image, coverage = volume.array[box].astype(np.float32) / np.float32(middle), inside[box]
    rng = generator(acquisition.seed, "degrade", name)
    slices = acquisition.slices[channel]
    slices = replace(slices, axis=orientation(volume.affine)[0][slices.axis])
    image = _receive(np.maximum(image, 0), acquisition.bias, volume.spacing_mm, rng)
    sigma = 0.0 if acquisition.snr is None else 1 / acquisition.snr
    image = resample(
        image, slices, volume.spacing_mm, noise_sigma=sigma, rng=rng, coverage=coverage.astype(np.float32)
    )
    whole = np.issubdtype(volume.array.dtype, np.integer)
    image = np.maximum(image * np.float32(middle), 1 if whole else 1e-3 * middle)
    out = np.zeros_like(volume.array)
    limit = np.iinfo(volume.array.dtype).max if whole else np.inf
    out[box] = np.where(coverage, np.minimum(np.round(image) if whole else image, limit), 0)
    return Volume(out, volume.affine)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)
