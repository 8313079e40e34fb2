"""What examinations a site's scanner gives: ranges of every knob, and one examination drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.data.phantom.phenotype import Range
from common.data.phantom.sampling import Slices
from common.data.phantom.tissue import PROTOCOL_3T, TISSUES, Protocol, Sequence


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


@dataclass(frozen=True)
class Scanner:
    """A site's scanner; to switch a knob, replace its range.

    Attributes:
        protocols: one of them is chosen for each examination.
        thickness_mm: of slices; a range whose ends are equal fixes it.
        thin: probability that a channel is isotropic (3-D) whatever the thickness.
        planes: probability that a channel's slices are sagittal, coronal, axial.
        time_jitter: standard deviation of log TR, TE and TI from one examination to the next.
        contrast: standard deviation of the log gains on the signal table.
        gamma: standard deviation of the log exponent.
        ghost: largest ghost; a third of the channels has one.
    """

    protocols: tuple[Protocol, ...] = (PROTOCOL_3T,)
    thickness_mm: Range = (1.0, 1.0)
    gap_mm: Range = (0.0, 0.0)
    in_plane_mm: Range = (1.0, 1.0)
    thin: tuple[float, float, float, float] = (0.0,) * 4
    planes: tuple[float, float, float] = (0.0, 0.0, 1.0)
    snr: Range | None = (30.0, 60.0)
    bias: Range = (0.05, 0.15)
    time_jitter: float = 0.02
    contrast: float = 0.0
    gamma: float = 0.0
    ghost: float = 0.0
    misregistration_mm: float = 0.3
    strip_level: Range = (0.45, 0.55)
    strip_noise: Range = (0.0, 0.05)
    level: Range = (400.0, 1200.0)


def draw_acquisition(scanner: Scanner, rng: np.random.Generator) -> Acquisition:
    """One examination of `scanner`.

    Every knob draws the same amount of randomness whatever its range, so that changing one leaves the
    others as they were.
    """
    protocol = scanner.protocols[int(rng.random() * len(scanner.protocols))]
    jitter = np.exp(scanner.time_jitter * np.clip(rng.standard_normal((3, 3)), -2, 2))
    unit = rng.random(8)
    thin = rng.random(4) < np.array(scanner.thin)
    slices = tuple(_draw_slices(scanner, bool(thin[channel]), rng) for channel in range(4))
    gains = scanner.contrast * np.clip(rng.standard_normal((len(TISSUES), 4)), -2, 2)
    gamma = np.exp(scanner.gamma * np.clip(rng.standard_normal(4), -2, 2))
    ghost = scanner.ghost * rng.random(4) * (rng.random(4) < 1 / 3)
    shift = scanner.misregistration_mm * rng.standard_normal((4, 3)) * np.array([[0], [1], [1], [1]])
    level = np.array(scanner.level[0]) * (scanner.level[1] / scanner.level[0]) ** rng.random(4)
    return Acquisition(
        protocol=_jittered(protocol, jitter),
        slices=(slices[0], slices[1], slices[2], slices[3]),
        snr=None if scanner.snr is None else _between(scanner.snr, unit[0]),
        bias=_between(scanner.bias, unit[1]),
        contrast=tuple(map(tuple, gains.tolist())) if scanner.contrast else None,
        gamma=_four(gamma),
        ghost=_four(ghost),
        misregistration_mm=tuple((float(x), float(y), float(z)) for x, y, z in shift),
        strip_level=_between(scanner.strip_level, unit[2]),
        strip_noise=_between(scanner.strip_noise, unit[3]),
        level=_four(level),
        seed=int(rng.integers(2**62)),
    )


def _between(ends: Range, unit: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(unit)


def _four(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float, float, float]:
    a, b, c, d = values.tolist()
    return a, b, c, d


def _draw_slices(scanner: Scanner, thin: bool, rng: np.random.Generator) -> Slices:
    unit = rng.random(4)
    if thin:
        return Slices()
    axis = int(np.searchsorted(np.cumsum(scanner.planes) / sum(scanner.planes), unit[0], side="right"))
    return Slices(
        axis=min(axis, 2),
        thickness_mm=_between(scanner.thickness_mm, unit[1]),
        gap_mm=_between(scanner.gap_mm, unit[2]),
        in_plane_mm=_between(scanner.in_plane_mm, unit[3]),
    )


def _jittered(protocol: Protocol, factors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Protocol:
    def change(sequence: Sequence, by: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Sequence:
        return replace(
            sequence,
            tr_ms=float(sequence.tr_ms * by[0]),
            te_ms=float(sequence.te_ms * by[1]),
            # Inversion times are tuned to a null: scanners differ little in them.
            ti_ms=float(sequence.ti_ms * by[2] ** 0.3),
        )

    return replace(
        protocol,
        t1=change(protocol.t1, factors[0]),
        t2=change(protocol.t2, factors[1]),
        flair=change(protocol.flair, factors[2]),
    )
