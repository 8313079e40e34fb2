"""Whether one approach is better than another, and how sure that is: paired tests on the same cases.

A difference is always *approach minus baseline*, of the same case. Three tests stand side by side, because
they answer to different faults:

- `paired_t`, the plain paired t-test on fold means, as the source papers published it. Folds share most of
  their training patients, so their means are not independent and p is too small.
- `corrected_t`, the same with the variance of Nadeau and Bengio (Machine Learning 2003; 52:239-281).
- `wilcoxon`, the signed-rank test on out-of-fold scores, each patient once. It does not know that patients
  of one fold were judged by one model.

`holm` answers for testing many contrasts, `effect_size` says how large a difference is (`resampling` beside
an interval), `non_inferior` whether a loss is small enough; `comparison` puts all of them together. What
cannot be computed is refused with a reason; it is never NaN. Differences are rounded to 12 decimals first, so
that what only the last bits tell apart is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import InputError
from simulation.study.resampling import CONFIDENCE, Interval, finite

MARGIN = 0.02
"""Loss of Dice that "federated reproduces centralised" may cost, declared before any study was run."""

EXACT_UP_TO = 200
"""Differences other than zero up to which the signed-rank distribution is counted out."""

_DECIMALS = 12

Verdict = Literal["non-inferior", "inferior", "undecided"]


@dataclass(frozen=True)
class TTest:
    """A paired t-test.

    Attributes:
        mean: mean difference; over folds it weighs folds, not patients, alike.
        t: the statistic.
        df: degrees of freedom, one fewer than differences.
        p: two-sided.
        interval: 95 % interval of the mean, from the same variance: it holds 0 exactly where p > 0.05.
    """

    mean: float
    t: float
    df: int
    p: float
    interval: Interval


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test.

    Attributes:
        p: two-sided.
        statistic: sum of the ranks of positive differences.
        median: of all differences, zeros among them.
        n: differences.
        zeros: those that are zero; they take ranks and carry no sign (Pratt).
        exact: whether p was counted out over all signs, or is a normal approximation.
    """

    p: float
    statistic: float
    median: float
    n: int
    zeros: int
    exact: bool


@dataclass(frozen=True)
class FoldSize:
    """Patients of a fold, trained on and judged; of the target cohort alone, which the folds divide."""

    train: int
    test: int


def paired_t(differences: Sequence[float]) -> TTest:
    """Student's paired t-test, t = mean / sqrt(s^2 / k), as published on fold means.

    It assumes independent normal differences, which fold means of one cross-validation are not: report it
    only beside `corrected_t`, labelled.

    Args:
        differences: (k,) one number a fold.

    Raises:
        InputError: fewer than two differences, one that is not finite, or all equal and not zero (no
            variance to hold the mean against). All zero gives t 0, p 1 and an interval of no width.
    """
    return _t_test(differences, extra=0.0)


def corrected_t(differences: Sequence[float], *, test_share_ratio: float) -> TTest:
    """The corrected resampled t-test of Nadeau and Bengio 2003, section 3: t = mean / sqrt((1/k + r) s^2).

    r = n_test / n_train stands for the correlation of folds that share training patients; ten folds have
    1/9. It is a heuristic for the unknown correlation and conservative for stable learners. Normal
    differences are assumed; df is k - 1.

    Args:
        differences: (k,) one number a fold.
        test_share_ratio: r; `mean_test_share` gives it for folds of unequal sizes.

    Raises:
        InputError: as `paired_t`, or a ratio that is not positive.
    """
    if not 0 < test_share_ratio < np.inf:
        raise InputError(f"corrected t: n_test / n_train is {test_share_ratio}; it must be positive")
    return _t_test(differences, extra=test_share_ratio)


def mean_test_share(folds: Sequence[FoldSize]) -> float:
    """n_test / n_train, averaged over the folds: they are rarely of one size, and the formula knows one.

    Raises:
        InputError: no fold, or one without patients on either side.
    """
    if not folds or min(min(fold.train, fold.test) for fold in folds) < 1:
        raise InputError("corrected t: each fold needs at least one patient to train on and one to test on")
    return float(np.mean([fold.test / fold.train for fold in folds]))


def wilcoxon(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's signed-rank test, two-sided: are differences symmetric about zero?

    Zeros take part in the ranking and are then dropped (Pratt 1959). Dropping them first makes ranks of the
    rest more unequal; beside many zeros a small difference of the other sign should weigh nearly as much as a
    large one. Ties share their midrank. Up to 200 differences other than zero, p is counted out over all
    signs, ties and zeros included (SciPy's own exact method knows neither); beyond, it is a normal
    approximation.

    Args:
        differences: (N,) one number a patient, independent of each other.

    Raises:
        InputError: no difference, or one that is not finite. All zero gives p 1. With five patients the
            smallest p there can be is 0.0625.
    """
    values = _rounded(differences, at_least=1)
    ranks = stats.rankdata(np.abs(values))
    signed = values != 0
    exact = int(signed.sum()) <= EXACT_UP_TO
    statistic = float(ranks[values > 0].sum())
    p_value = _counted_p if exact else _normal_p
    return SignedRank(
        p=p_value(statistic, ranks[signed]),
        statistic=statistic,
        median=float(np.median(values)),
        n=len(values),
        zeros=int((~signed).sum()),
        exact=exact,
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm's step-down adjustment (Scand J Statist 1979; 6:65-70), in the order given.

    The i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_j). No assumption on how tests hang
    together. A contrast that could not be tested (None) stays None and still counts as one of the m declared.

    Raises:
        InputError: a p outside 0 to 1.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    if any(not 0 <= p <= 1 for p, _ in known):
        raise InputError("Holm: a p-value lies outside 0 to 1")
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(p_values) - step) * p))
        adjusted[place] = highest
    return tuple(adjusted)


def effect_size(differences: Sequence[float]) -> float:
    """Cohen's d_z, the mean difference over the standard deviation (n - 1) of differences.

    It is large where differences are alike, be they ever so small: read it beside the mean. It is not the d
    of two independent groups.

    Raises:
        InputError: as `paired_t`. All zero gives 0.
    """
    values = _rounded(differences, at_least=2)
    return float(values.mean()) / _spread(values) if values.any() else 0.0


def non_inferior(interval: Interval, margin: float = MARGIN, *, higher_is_better: bool = True) -> Verdict:
    """Whether a loss beyond `margin` is excluded, shown, or neither, by a 95 % interval.

    Non-inferior where the whole interval lies above -margin, inferior where it all lies below -margin,
    undecided where it holds it. A 95 % interval tests one side at 2.5 %. Where less is better (mm) the sign
    turns.

    Args:
        interval: of the difference, approach minus baseline.
        margin: in the same unit, positive, declared beforehand.
        higher_is_better: False for distances.

    Raises:
        InputError: a margin that is not positive.
    """
    if not margin > 0:
        raise InputError(f"non-inferiority: the margin is {margin}; it must be positive")
    worst, best = (interval.low, interval.high) if higher_is_better else (-interval.high, -interval.low)
    if worst > -margin:
        return "non-inferior"
    return "inferior" if best < -margin else "undecided"


def _rounded(differences: Sequence[float], *, at_least: int) -> NDArray[np.float64]:
    """The differences, to `_DECIMALS`; minus zero becomes zero."""
    return np.round(finite(differences, "differences", at_least=at_least), _DECIMALS) + 0.0


def _spread(values: NDArray[np.float64]) -> float:
    """Standard deviation (n - 1), of values that are not all equal."""
    if np.ptp(values) == 0:
        raise InputError("differences: all are equal and not zero; no variance to hold the mean against")
    return float(values.std(ddof=1))


def _t_test(differences: Sequence[float], *, extra: float) -> TTest:
    """Student's t with the variance of the mean taken as (1 / k + extra) s^2."""
    values = _rounded(differences, at_least=2)
    df = len(values) - 1
    if not values.any():
        return TTest(mean=0.0, t=0.0, df=df, p=1.0, interval=Interval(low=0.0, high=0.0))
    mean, error = float(values.mean()), _spread(values) * float(np.sqrt(1 / len(values) + extra))
    reach = error * float(stats.t.isf((1 - CONFIDENCE) / 2, df))
    return TTest(
        mean=mean,
        t=mean / error,
        df=df,
        p=float(2 * stats.t.sf(abs(mean / error), df)),
        interval=Interval(low=mean - reach, high=mean + reach),
    )


def _counted_p(statistic: float, ranks: NDArray[np.float64]) -> float:
    """Two-sided p of a sum of positive ranks: each rank is positive or not, like a fair coin."""
    doubled = np.rint(2 * ranks).astype(int)  # midranks are whole or half
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        without = chance / 2
        chance = without.copy()
        chance[rank:] += without[: len(without) - rank]
    reached = round(2 * statistic)
    return float(min(1.0, 2 * min(chance[: reached + 1].sum(), chance[reached:].sum())))


def _normal_p(statistic: float, ranks: NDArray[np.float64]) -> float:
    """Two-sided p of a sum of positive ranks, from its mean and variance under fair signs."""
    z = (statistic - ranks.sum() / 2) / np.sqrt(np.square(ranks).sum() / 4)
    return float(2 * stats.norm.sf(abs(z)))
