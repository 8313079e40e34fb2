"""One examination on one scanner: protocol, receive field, slices, noise, faults; and the same faults
put on real scans.

The order of effects is the scanner's: tissue signals are mixed, weighted by the receive field, averaged
over the slice profile, sampled, made noisy (Rician), disturbed by motion, interpolated to the working grid
and cut to the brain. Labels stay on the working grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.cases import MODALITIES
from common.data.phantom import fields
from common.data.phantom.fields import Array, Shape
from common.data.phantom.sampling import Slices, resample
from common.data.phantom.tissue import Protocol
from common.seeds import generator


@dataclass(frozen=True)
class Acquisition:
    """One examination's knobs, drawn; each acts alone, and its neutral value switches it off.

    Attributes:
        protocol: sequences and field strength.
        slices: the acquired voxel of each channel.
        snr: signal of white matter over noise in an acquired voxel; None for no noise.
        bias: standard deviation of the log receive field.
        contrast: log gains (tissues, 4) on the signal table, or None: contrast that physics does not give.
        gamma: exponent on each channel's intensities; 1 leaves them.
        ghost: amplitude of a motion ghost in each channel, relative to the image.
        misregistration_mm: shift of each channel against the first, along the array axes.
        strip_level: brain membership at which the skull strip cuts; 0.5 is the surface.
        strip_noise: how much that level varies over the surface.
        level: intensity of white matter in the file, per channel.
        seed: for noise and fields.
    """

    protocol: Protocol
    slices: tuple[Slices, Slices, Slices, Slices] = (Slices(),) * 4
    snr: float | None = None
    bias: float = 0.0
    contrast: tuple[tuple[float, ...], ...] | None = None
    gamma: tuple[float, float, float, float] = (1.0,) * 4
    ghost: tuple[float, float, float, float] = (0.0,) * 4
    misregistration_mm: tuple[tuple[float, float, float], ...] = ((0.0,) * 3,) * 4
    strip_level: float = 0.5
    strip_noise: float = 0.0
    level: tuple[float, float, float, float] = (1000.0,) * 4
    seed: int = 0


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
        return brain > acquisition.strip_level
    shape = (brain.shape[0], brain.shape[1], brain.shape[2])
    rough = fields.smooth_noise(shape, spacing_mm, 12.0, generator(acquisition.seed, "strip"))
    level = acquisition.strip_level + acquisition.strip_noise * rough
    return brain > np.clip(level, 0.25, 0.85)


def _receive(image: Array, bias: float, spacing_mm: float, rng: np.random.Generator) -> Array:
    if bias == 0:
        return image
    field = fields.smooth_noise(_shape(image), spacing_mm, 110.0, rng)
    return image * np.exp(np.float32(bias) * field)


def _shifted(image: Array, shift_mm: tuple[float, ...], spacing_mm: float) -> Array:
    if not any(shift_mm):
        return image
    shift = np.array(shift_mm, np.float32)[:, None, None, None] / np.float32(spacing_mm)
    return fields.sample(image[None], fields.voxel_index(_shape(image)) - shift)[0]


def _ghosted(image: Array, amplitude: float, slices: Slices) -> Array:
    """Periodic motion: a faint copy half a field of view away along an in-plane axis."""
    if amplitude == 0:
        return image
    axis = 1 if slices.axis != 1 else 0
    return image + np.float32(amplitude) * np.roll(image, image.shape[axis] // 2, axis)


def _shape(image: Array) -> Shape:
    return image.shape[0], image.shape[1], image.shape[2]
