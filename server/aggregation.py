"""How the updates of a round become the next global model: a fold, then a step of the server optimiser.

A fold merges deltas coordinate by coordinate, in the order given, a slice at a time: memory is that of a
slice of every update, whatever their number. `mean` sums integer weight times value in float64, where each
product is exact. `median` and `trimmed-mean` (Yin et al., ICML 2018, arXiv:1803.01498) ignore the weights.

The optimisers take the folded delta as the negative of a gradient. With `none` and learning rate 1 the step
is FedAvg (McMahan et al., AISTATS 2017); `momentum` is FedAvgM (Hsu et al., arXiv:1909.06335); `adam` and
`yogi` are of Reddi et al., ICLR 2021, arXiv:2003.00295. Where that paper and Flower 1.41 differ we follow
Flower, so that results can be compared: second moments start at 0 and not at tau**2, and `adam` corrects
its bias with the exponent round + 1, which the paper does not do at all; `yogi` does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import RunError

Flat = NDArray[np.float32]
Wide = NDArray[np.float64]

_SLICE = 1 << 17
"""Values of each update that are in memory at once: 512 KiB."""


class Vector(Protocol):
    """A float32 vector that can be read in slices: an array, a memory map, or a spooled update."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Flat: ...


@dataclass(frozen=True)
class Optimiser:
    """Settings of the server's step.

    Attributes:
        name: a row of `STEPS`.
        learning_rate: of the server.
        momentum: of `momentum`.
        beta_1: decay of the first moment, `adam` and `yogi`.
        beta_2: decay of the second moment, `adam` and `yogi`.
        tau: added to the root of the second moment; larger is less adaptive.
    """

    name: str = "none"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class Section:
    """A part of every update that is folded for itself: values `start` to `stop` of `update`."""

    update: Vector
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> Flat:
        start, stop, _ = part.indices(len(self))
        return self.update[self.start + start : self.start + stop]


def domain_weights(domains: Sequence[int]) -> list[int]:
    """Whole-number weights with which each domain counts as much as any other, whatever its number of sites.

    Args:
        domains: number of each site's domain.
    """
    common = math.lcm(*Counter(domains).values())
    return [common // domains.count(number) for number in domains]


def fold(rule: str, updates: Sequence[Vector], weights: Sequence[int], *, beta: float = 0.2) -> Wide:
    """Merge updates into one float64 vector.

    Args:
        rule: a row of `FOLDS`.
        updates: vectors of one length, in the plan's order of sites.
        weights: one positive whole number each; only `mean` uses them.
        beta: share of the updates that `trimmed-mean` drops at each end, in [0, 0.5).

    Raises:
        RunError: no update, other lengths, a weight below 1, an unknown rule, or beta out of range.
    """
    _check_fold(rule, updates, weights, beta)
    merge = FOLDS[rule]
    size = len(updates[0])
    # `mean` holds one update's slice at a time, the others one of each update.
    width = _SLICE if rule == "mean" else max(1024, _SLICE * 4 // len(updates))
    result = np.empty(size, dtype=np.float64)
    for start in range(0, size, width):
        part = slice(start, min(start + width, size))
        merge([_Part(update, part) for update in updates], weights, beta, result[part])
    return result


def step(
    current: Flat, delta: Wide, state: Mapping[str, Tensor], *, optimiser: Optimiser, round_number: int
) -> tuple[Flat, dict[str, Tensor]]:
    """The next global model (n,) float32, and the optimiser's state to keep with it.

    Args:
        current: the global model that the sites were sent, float32 (n,).
        delta: what `fold` returned, (n,).
        state: what the previous step returned; empty in the first round. Flat float32 tensors.
        optimiser: which rule, and its settings.
        round_number: from 1.

    Raises:
        RunError: an unknown rule, or a state of another model.
    """
    if optimiser.name not in STEPS:
        raise RunError(f"unknown server optimiser '{optimiser.name}'; known are {', '.join(STEPS)}")
    names, rule = STEPS[optimiser.name]
    if delta.shape != current.shape or any(
        state[name].numel() != current.size for name in names & state.keys()
    ):
        raise RunError("the server optimiser's state belongs to another model; start a new run")
    new = np.empty_like(current)
    kept = {name: np.empty(current.size, dtype=np.float32) for name in sorted(names)}
    old = {name: state[name].numpy() if name in state else np.zeros_like(new) for name in kept}
    for start in range(0, current.size, _SLICE):
        part = slice(start, start + _SLICE)
        before = {name: moment[part].astype(np.float64) for name, moment in old.items()}
        move, after = rule(delta[part], before, optimiser, round_number)
        new[part] = current[part] + move
        for name, moment in after.items():
            kept[name][part] = moment
    return new, {name: torch.from_numpy(moment) for name, moment in kept.items()}


@dataclass(frozen=True)
class _Part:
    """One slice of one update, not read yet."""

    update: Vector
    part: slice

    def read(self) -> Flat:
        return self.update[self.part]


_Merge = Callable[[Sequence[_Part], Sequence[int], float, Wide], None]
_Moments = dict[str, Wide]
_Rule = Callable[[Wide, _Moments, Optimiser, int], tuple[Wide, _Moments]]


def _mean(parts: Sequence[_Part], weights: Sequence[int], beta: float, out: Wide) -> None:
    out[:] = 0
    for part, weight in zip(parts, weights, strict=True):
        out += part.read().astype(np.float64) * weight
    out /= sum(weights)


def _median(parts: Sequence[_Part], weights: Sequence[int], beta: float, out: Wide) -> None:
    ordered = _ordered(parts)
    middle = len(parts) // 2
    lower = ordered[(len(parts) - 1) // 2].astype(np.float64)
    out[:] = (lower + ordered[middle]) / 2


def _trimmed_mean(parts: Sequence[_Part], weights: Sequence[int], beta: float, out: Wide) -> None:
    cut = int(beta * len(parts))
    np.mean(_ordered(parts)[cut : len(parts) - cut], axis=0, dtype=np.float64, out=out)


def _ordered(parts: Sequence[_Part]) -> Flat:
    """The updates' values (updates, slice), each coordinate in ascending order."""
    stacked = np.stack([part.read() for part in parts])
    stacked.sort(axis=0)
    return stacked


def _no_optimiser(delta: Wide, state: _Moments, settings: Optimiser, number: int) -> tuple[Wide, _Moments]:
    return settings.learning_rate * delta, {}


def _momentum(delta: Wide, state: _Moments, settings: Optimiser, number: int) -> tuple[Wide, _Moments]:
    velocity = settings.momentum * state["velocity"] + delta
    return settings.learning_rate * velocity, {"velocity": velocity}


def _adam(delta: Wide, state: _Moments, settings: Optimiser, number: int) -> tuple[Wide, _Moments]:
    first = settings.beta_1 * state["first"] + (1 - settings.beta_1) * delta
    second = settings.beta_2 * state["second"] + (1 - settings.beta_2) * delta**2
    rate = (
        settings.learning_rate
        * np.sqrt(1 - settings.beta_2 ** (number + 1))
        / (1 - settings.beta_1 ** (number + 1))
    )
    return rate * first / (np.sqrt(second) + settings.tau), {"first": first, "second": second}


def _yogi(delta: Wide, state: _Moments, settings: Optimiser, number: int) -> tuple[Wide, _Moments]:
    first = settings.beta_1 * state["first"] + (1 - settings.beta_1) * delta
    square = delta**2
    second = state["second"] - (1 - settings.beta_2) * square * np.sign(state["second"] - square)
    return settings.learning_rate * first / (np.sqrt(second) + settings.tau), {
        "first": first,
        "second": second,
    }


FOLDS: dict[str, _Merge] = {"mean": _mean, "median": _median, "trimmed-mean": _trimmed_mean}
STEPS: dict[str, tuple[frozenset[str], _Rule]] = {
    "none": (frozenset(), _no_optimiser),
    "momentum": (frozenset({"velocity"}), _momentum),
    "adam": (frozenset({"first", "second"}), _adam),
    "yogi": (frozenset({"first", "second"}), _yogi),
}


def _check_fold(rule: str, updates: Sequence[Vector], weights: Sequence[int], beta: float) -> None:
    if rule not in FOLDS:
        raise RunError(f"unknown fold '{rule}'; known are {', '.join(FOLDS)}")
    if not updates or len(weights) != len(updates):
        raise RunError(f"{len(updates)} updates and {len(weights)} weights cannot be folded")
    if len({len(update) for update in updates}) > 1:
        raise RunError("the updates differ in length; they belong to different models")
    if min(weights) < 1:
        raise RunError("a weight is below 1; the gate lets no such update in")
    if not 0 <= beta < 0.5:
        raise RunError(f"beta {beta} is not in [0, 0.5)")
