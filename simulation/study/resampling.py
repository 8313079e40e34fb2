"""What a mean, a ratio, a correlation or a slope could have been with other patients: the bootstrap.

Every interval here is the *expanded percentile* interval of Hesterberg (The American Statistician 2015;
69:371-386, section 5.3.3): the plain percentile interval is too narrow for few values, as a normal interval
with the divisor n is; the quantiles asked for are those that give back Student's interval where the
values are normal: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t(alpha / 2, n - 1)). With 5 units it asks for the
0.10 % and 99.90 % quantiles instead of 2.5 % and 97.5 %, with 60 for 2.2 % and 97.8 %. Below `FEW_UNITS`
units even the widest that can be drawn is too narrow (two lie on both sides of the truth half of the time).

A unit is what is drawn with replacement: a patient, a seed, or a cluster of them (a site, a fold), which is
drawn whole. What a bootstrap of patients does not know is that models were trained on shared patients: that
is for the corrected t of `statistics.py`.

The draws hang on `seed` and the number of units alone. The same input gives the same output, to the last
digit, and a difference with its sign turned gives the interval with its sign turned.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from common.errors import InputError
from common.seeds import generator

CONFIDENCE = 0.95
RESAMPLES = 10_000

FEW_UNITS = 6
"""Units below which a 95 % interval holds the truth less often (normal values: 86 % with 4, 94 % with 6)."""

Bound = Literal["exact", "at least", "at most", "unknown"]
Values = NDArray[np.float64]
Index = NDArray[np.int64]

_CHUNK_CELLS = 1_000_000
"""Numbers held at once by a resampling step: 8 MB, so that many cases never ask for gigabytes."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, in the unit of what it is about."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A number computed from units, and its 95 % bootstrap interval.

    Attributes:
        value: the number, from all units.
        interval: expanded percentile interval of the resamples.
        units: how many units (patients, seeds or clusters) were drawn from.
        resamples: how many resamples count; fewer than asked for where some had no value (a correlation of
            a variable that came out constant).
    """

    value: float
    interval: Interval
    units: int
    resamples: int


@dataclass(frozen=True)
class Ratio:
    """A ratio of means, and what censored values make of it.

    Attributes:
        estimate: the ratio with its interval, a censored value counted as the budget.
        bound: `exact` where nothing was censored; `at least` where only numerators were (they would have
            been larger), `at most` where only denominators were, `unknown` where both were.
        censored: how many values were censored, above and below the line.
    """

    estimate: Estimate
    bound: Bound
    censored: tuple[int, int]


def bootstrap_mean(
    differences: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """The mean and its interval, by patient or by cluster.

    Without `clusters` each value is a unit: give one value a patient. With them a cluster is drawn whole and
    the mean is over all values drawn, so a large cluster weighs more. With fewer than `FEW_UNITS` units
    the interval spans about all of their means and is still too narrow: say so beside it.

    Args:
        differences: (N,) one number a patient.
        seed: of the draws.
        resamples: how many.
        clusters: (N,) the cluster of each value.

    Raises:
        InputError: fewer than two units, a value that is not finite, or another number of clusters than
            values. Values that are all equal give an interval of no width.
    """
    values = finite(differences, "differences", at_least=1)
    members = _members(clusters, len(values))
    mean = float(values.mean())
    # Around the mean: equal values then give the mean itself, not the mean and a rounding error.
    moments = _totals(members, np.stack([np.ones_like(values), values - mean]))

    def centred_mean(index: Index) -> Values:
        count, total = moments[0][index].sum(axis=1), moments[1][index].sum(axis=1)
        return np.asarray(total / count)

    return _estimate(0.0, centred_mean, int(members.max()) + 1, seed=seed, resamples=resamples, shift=mean)


def ratio_of_means(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    censored: tuple[Sequence[bool], Sequence[bool]] = ((), ()),
) -> Ratio:
    """Mean of `numerator` over mean of `denominator`, paired by unit; for epochs until convergence, by seed.

    The n-th of both belongs to the n-th seed, which is drawn for both at once. A run that did not converge
    within its budget enters as the budget and is declared in `censored`; the ratio is then only a bound, and
    `Ratio.bound` says which.

    Args:
        numerator: (N,) positive, e.g. epochs from scratch.
        denominator: (N,) positive, e.g. epochs after transfer.
        seed: of the draws.
        resamples: how many.
        censored: which values of the two are a budget that was reached; an empty one means none.

    Raises:
        InputError: fewer than two pairs, other lengths, a value that is not finite or not positive.
    """
    above = finite(numerator, "ratio", at_least=2)
    below = finite(denominator, "ratio", at_least=2)
    flags = [np.asarray(flag, dtype=bool) if len(flag) else np.zeros(len(above), bool) for flag in censored]
    if len({len(above), len(below), *map(len, flags)}) != 1:
        raise InputError("ratio: the values and their censoring differ in length; pair them by seed")
    if min(above.min(), below.min()) <= 0:
        raise InputError("ratio: a value is not positive; epochs count from 1")

    def ratio(index: Index) -> Values:
        return np.asarray(above[index].sum(axis=1) / below[index].sum(axis=1))

    estimate = _estimate(float(above.sum() / below.sum()), ratio, len(above), seed=seed, resamples=resamples)
    bounds: dict[tuple[bool, bool], Bound] = {
        (False, False): "exact",
        (True, False): "at least",
        (False, True): "at most",
        (True, True): "unknown",
    }
    counts = int(flags[0].sum()), int(flags[1].sum())
    return Ratio(estimate=estimate, bound=bounds[counts[0] > 0, counts[1] > 0], censored=counts)


def ratio_of_differences(above: Sequence[float], below: Sequence[float], *, seed: int) -> Estimate:
    """Mean of `above` over mean of `below`, which may have any sign, paired by unit.

    State it only where the interval of the mean of `below` does not touch 0: else the ratio could be
    anything. Resamples in which `below` sums to 0 are left out.

    Args:
        above: (N,) e.g. the drop of each patient after fine-tuning.
        below: (N,) e.g. the drop of the same patients before.
        seed: of the draws.

    Raises:
        InputError: fewer than two pairs, other lengths, a value that is not finite, or `below` sums to 0.
    """
    one, other = finite(above, "ratio", at_least=2), finite(below, "ratio", at_least=2)
    if len(one) != len(other):
        raise InputError(f"ratio: {len(one)} and {len(other)} values; give pairs")
    if abs(other.sum()) <= 1e-12 * np.abs(other).sum():
        raise InputError("ratio: what it would be relative to is 0 on average")

    def ratio(index: Index) -> Values:
        total = other[index].sum(axis=1)
        usable = np.abs(total) > 1e-12 * np.abs(other).sum()
        share = np.full_like(total, np.nan)
        return np.asarray(np.divide(one[index].sum(axis=1), total, out=share, where=usable))

    return _estimate(float(one.sum() / other.sum()), ratio, len(one), seed=seed, resamples=RESAMPLES)


def spearman(
    x: Sequence[float],
    y: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Spearman's rank correlation, ties by midranks, and its interval.

    Resamples in which a variable came out constant have no correlation and are left out;
    `Estimate.resamples` says how many count.

    Args:
        x: (N,) e.g. displacement in mm.
        y: (N,) e.g. error.
        seed: of the draws.
        resamples: how many.
        clusters: (N,) whose value it is, where a patient gives several; drawn whole.

    Raises:
        InputError: fewer than three pairs or two units, other lengths, a value that is not finite, or a
            variable that is constant.
    """
    one, other = _pairs(x, y, "correlation", both=True)

    def correlation(weights: Values) -> Values:
        return _correlation(_midranks(one, weights), _midranks(other, weights), weights)

    return _weighted(correlation, _members(clusters, len(one)), seed=seed, resamples=resamples)


def slope(
    x: Sequence[float],
    y: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Slope of the least-squares line of `y` on `x`, in units of y for one unit of x, and its interval.

    Pairs are drawn, not residuals: errors may grow with x. Resamples in which x came out constant have no
    slope and are left out.

    Args:
        x: (N,) e.g. displacement in mm.
        y: (N,) e.g. error.
        seed: of the draws.
        resamples: how many.
        clusters: (N,) whose value it is, where a patient gives several; drawn whole.

    Raises:
        InputError: fewer than three pairs or two units, other lengths, a value that is not finite, or an x
            that is constant.
    """
    one, other = _pairs(x, y, "slope", both=False)

    def line(weights: Values) -> Values:
        return _ratio_or_nan(*_products(one[None], other[None], weights)[:2])

    return _weighted(line, _members(clusters, len(one)), seed=seed, resamples=resamples)


def finite(values: Sequence[float], what: str, *, at_least: int) -> Values:
    """The values as (N,) float64.

    Raises:
        InputError: fewer than `at_least`, or one that is not finite; `what` names them.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < at_least:
        raise InputError(f"{what}: {array.size} given, but at least {at_least} are needed")
    if not np.isfinite(array).all():
        raise InputError(f"{what}: a value is not finite; score empty regions by a rule first")
    return array


def _pairs(x: Sequence[float], y: Sequence[float], what: str, *, both: bool) -> tuple[Values, Values]:
    one, other = finite(x, what, at_least=3), finite(y, what, at_least=3)
    if len(one) != len(other):
        raise InputError(f"{what}: {len(one)} and {len(other)} values; give pairs")
    if np.ptp(one) == 0 or (both and np.ptp(other) == 0):
        raise InputError(f"{what}: a variable is the same in all cases; nothing can be said")
    return one, other


def _members(clusters: Sequence[Hashable] | None, values: int) -> Index:
    """The unit of each value, numbered in order of appearance."""
    if clusters is None:
        return np.arange(values)
    if len(clusters) != values:
        raise InputError(f"bootstrap: {values} values but {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters])


def _totals(members: Index, columns: Values) -> Values:
    """Sums by unit of each row of `columns` (R, N): (R, units)."""
    return np.stack([np.bincount(members, weights=column) for column in columns])


def _weights(index: Index, members: Index, units: int) -> Values:
    """How often each value was drawn (B, N), from the units drawn (B, units)."""
    rows = np.arange(len(index))[:, None] * units
    drawn = np.bincount((rows + index).ravel(), minlength=len(index) * units).reshape(len(index), units)
    return drawn[:, members].astype(np.float64)


def _midranks(values: Values, weights: Values) -> Values:
    """Midranks (B, N) of the values (N,), each present as often as its weight (B, N) says."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(tied, axis=1) - tied + (tied + 1) / 2
    group = np.searchsorted(ordered[starts], values)
    return np.asarray(ranks[:, group])


def _products(x: Values, y: Values, weights: Values) -> tuple[Values, Values, Values]:
    """Weighted sums (B,) of dx dy, dx dx and dy dy about the weighted means."""
    count = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / count
    dy = y - (weights * y).sum(axis=1, keepdims=True) / count
    return (weights * dx * dy).sum(axis=1), (weights * dx * dx).sum(axis=1), (weights * dy * dy).sum(axis=1)


def _correlation(x: Values, y: Values, weights: Values) -> Values:
    both, first, second = _products(x, y, weights)
    return np.clip(_ratio_or_nan(both, np.sqrt(first * second)), -1.0, 1.0)


def _ratio_or_nan(above: Values, below: Values) -> Values:
    """The ratio; NaN where what is below is zero but for rounding."""
    usable = below > 1e-12 * below.max(initial=0.0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=usable)


def _weighted(
    statistic: Callable[[Values], Values], members: Index, *, seed: int, resamples: int
) -> Estimate:
    """The estimate of a statistic of how often each value was drawn (B, N), units being drawn whole."""
    units = int(members.max()) + 1

    def drawn(index: Index) -> Values:
        return statistic(_weights(index, members, units))

    value = float(drawn(np.arange(units)[None])[0])
    return _estimate(value, drawn, units, seed=seed, resamples=resamples)


def _estimate(
    value: float,
    statistic: Callable[[Index], Values],
    units: int,
    *,
    seed: int,
    resamples: int,
    shift: float = 0.0,
) -> Estimate:
    """`statistic` maps units drawn (B, units) to its values (B,), NaN where it has none."""
    if units < 2:
        raise InputError("bootstrap: one patient or cluster alone shows no spread; at least 2 are needed")
    random = generator(seed, "bootstrap", units)
    step = max(1, _CHUNK_CELLS // units)
    draws = np.concatenate(
        [
            statistic(random.integers(0, units, size=(min(step, resamples - start), units)))
            for start in range(0, resamples, step)
        ]
    )
    draws = draws[np.isfinite(draws)]
    tail = float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - CONFIDENCE) / 2)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    interval = Interval(low=float(low) + shift, high=float(high) + shift)
    return Estimate(value=value + shift, interval=interval, units=units, resamples=len(draws))
