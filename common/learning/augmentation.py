"""Random changes of a batch: mirror images, intensities, noise, resolution, missing modalities.

Draw, then apply: everything random comes from the generator given for the step. Voxels that are 0 in a
channel are outside the brain, or of a modality that was not acquired, and stay 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.data.sampling import Batch


@dataclass(frozen=True)
class Augmentation:
    """How much a batch is changed; 0 switches a change off.

    Attributes:
        mirror: probability of mirroring left and right, the first axis of a prepared case.
        turn_over: probability of mirroring each other axis, which no head does; it costs anatomical priors.
        gain: standard deviation of a channel's log gain.
        shift: standard deviation of a channel's offset, in units of the brain's standard deviation.
        gamma: standard deviation of the log exponent on a channel's range.
        noise: probability of Gaussian noise in a channel, and `noise_level` its largest amount.
        coarse: probability that a channel loses half its resolution along one axis.
        missing: probability that a channel is emptied; one channel always stays.
    """

    mirror: float = 0.5
    turn_over: float = 0.0
    gain: float = 0.1
    shift: float = 0.1
    gamma: float = 0.15
    noise: float = 0.15
    noise_level: float = 0.3
    coarse: float = 0.1
    missing: float = 0.0


NO_AUGMENTATION = Augmentation(mirror=0, gain=0, shift=0, gamma=0, noise=0, coarse=0)


def augment(batch: Batch, settings: Augmentation, rng: np.random.Generator) -> Batch:
    """A changed copy of `batch`; the same generator state gives the same copy."""
    pairs = [
        _patch(image, label, settings, rng) for image, label in zip(batch.image, batch.label, strict=True)
    ]
    images, labels = zip(*pairs, strict=True)
    return replace(batch, image=torch.stack(images), label=torch.stack(labels))


def _patch(
    image: Tensor, label: Tensor, settings: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    chances = (settings.mirror, settings.turn_over, settings.turn_over)
    axes = [axis for axis, chance in enumerate(chances) if rng.random() < chance]
    image = image.flip([axis + 1 for axis in axes])
    kept = _kept_channels(len(image), settings.missing, rng)
    channels = [
        _channel(channel, settings, rng) if keep else torch.zeros_like(channel)
        for channel, keep in zip(image, kept, strict=True)
    ]
    return torch.stack(channels), label.flip(axes)


def _kept_channels(count: int, missing: float, rng: np.random.Generator) -> list[bool]:
    kept = (rng.random(count) >= missing).tolist()
    always = int(rng.integers(count))
    return [keep or channel == always for channel, keep in enumerate(kept)]


def _channel(channel: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """Resolution first, as in a scanner, then intensities, then noise."""
    inside = channel != 0
    coarse, noisy = rng.random() < settings.coarse, rng.random() < settings.noise
    if coarse:
        channel = _coarsened(channel, int(rng.integers(3)))
    exponent = float(np.exp(settings.gamma * rng.normal()))
    gain, shift = float(np.exp(settings.gain * rng.normal())), float(settings.shift * rng.normal())
    if settings.gamma:
        channel = _bent(channel, exponent)
    channel = channel * gain + shift
    if noisy:
        amount = float(settings.noise_level * rng.random())
        channel = channel + amount * _normal(channel, rng)
    return torch.where(inside, channel, 0.0)


def _bent(channel: Tensor, exponent: float) -> Tensor:
    """The channel's range bent by a power: ends stay, the order of intensities stays."""
    low, high = float(channel.min()), float(channel.max())
    if high - low < 1e-6:
        return channel
    return ((channel - low) / (high - low)).clamp(min=0) ** exponent * (high - low) + low


def _coarsened(channel: Tensor, axis: int) -> Tensor:
    """Pairs of voxels along `axis` averaged, then interpolated back."""
    half = list(channel.shape)
    half[axis] = max(1, half[axis] // 2)
    small = functional.interpolate(channel[None, None], half, mode="area")
    return functional.interpolate(small, channel.shape, mode="trilinear")[0, 0]


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32))
