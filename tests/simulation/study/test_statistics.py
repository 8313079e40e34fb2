from __future__ import annotations

import re
from itertools import product
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from common.errors import InputError
from simulation.study import statistics
from simulation.study.resampling import Interval
from simulation.study.statistics import (
    EXACT_UP_TO,
    FoldSize,
    corrected_t,
    effect_size,
    holm,
    mean_test_share,
    non_inferior,
    paired_t,
    wilcoxon,
)

numbers = st.floats(-100, 100, allow_subnormal=False)
coarse = st.integers(-6, 6).map(lambda n: n / 2)
"""Few distinct values: ties and zeros are the rule."""


def differences_with(t: float, count: int) -> list[float]:
    """Differences whose plain paired t is `t`: standardised numbers moved by t / sqrt(count)."""
    values = np.random.default_rng(3).normal(size=count)
    standard = (values - values.mean()) / values.std(ddof=1)
    return list(standard + t / sqrt(count))


def test_paired_t_by_hand() -> None:
    """Differences 1, 2, 3, 6: mean 3, s^2 = (4 + 1 + 0 + 9) / 3 = 14 / 3, t = 3 / sqrt(14 / 12) = 2.7775.

    With three degrees of freedom t(0.975) = 3.1824 (any table), so the interval is 3 -+ 3.1824 x 1.0801.
    """
    found = paired_t([1, 2, 3, 6])
    assert (found.mean, found.df) == (3, 3)
    assert found.t == pytest.approx(3 / sqrt(14 / 12))
    assert found.interval.low == pytest.approx(3 - 3.18245 * sqrt(14 / 12), abs=1e-4)
    assert found.interval.high == pytest.approx(3 + 3.18245 * sqrt(14 / 12), abs=1e-4)
    assert found.p == pytest.approx(stats.ttest_1samp([1, 2, 3, 6], 0).pvalue)


def test_corrected_t_by_hand() -> None:
    """The same with r = 1/4: the variance of the mean is (1/4 + 1/4) x 14/3, twice as large."""
    plain, corrected = paired_t([1, 2, 3, 6]), corrected_t([1, 2, 3, 6], test_share_ratio=0.25)
    assert corrected.t == pytest.approx(plain.t / sqrt(2))
    assert corrected.interval.high - 3 == pytest.approx(sqrt(2) * (plain.interval.high - 3))


@pytest.mark.parametrize(("published", "corrected"), [(0.0506, 0.155), (0.0236, 0.094), (0.0519, 0.158)])
def test_published_p_values_corrected(published: float, corrected: float) -> None:
    """The three p-values of Heras Rivera et al. (MIDL 2024), read as two-sided paired t of ten folds.

    The published p gives back t with nine degrees of freedom; ten folds of ten have n_test / n_train 1/9.
    """
    differences = differences_with(float(stats.t.isf(published / 2, 9)), 10)
    assert paired_t(differences).p == pytest.approx(published, abs=1e-9)
    assert round(corrected_t(differences, test_share_ratio=1 / 9).p, 3) == corrected


def test_the_share_of_unequal_folds_is_the_mean_of_their_ratios() -> None:
    assert mean_test_share([FoldSize(train=9, test=1), FoldSize(train=8, test=2)]) == pytest.approx(
        (1 / 9 + 1 / 4) / 2
    )


def test_equal_approaches_do_not_differ() -> None:
    found = corrected_t([0.0, 0.0, 0.0], test_share_ratio=0.5)
    assert (found.mean, found.t, found.p, found.interval) == (0, 0, 1, Interval(0, 0))
    assert effect_size([0, 0]) == 0
    assert wilcoxon([0, 0]).p == 1


def test_what_only_rounding_tells_apart_is_equal() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in their last bits: no variance to test against, and a tie."""
    differences = [0.3 - 0.2, 0.2 - 0.1, 0.1]
    assert len(set(differences)) > 1
    with pytest.raises(InputError, match="all are equal"):
        paired_t(differences)
    assert wilcoxon([*differences, -0.1]).statistic == 7.5


@settings(max_examples=60)
@given(st.lists(numbers, min_size=2, max_size=12), st.floats(0.01, 2))
def test_invariants_of_the_t_tests(values: list[float], ratio: float) -> None:
    assume(np.ptp(np.round(values, 6)) > 0)
    plain, corrected = paired_t(values), corrected_t(values, test_share_ratio=ratio)
    assert 0 <= plain.p <= corrected.p <= 1
    for found in (plain, corrected):
        assert found.interval.low <= found.mean <= found.interval.high
        excludes_zero = found.interval.low > 0 or found.interval.high < 0
        assert excludes_zero == (found.p < 0.05) or found.p == pytest.approx(0.05)
    turned = corrected_t([-value for value in values], test_share_ratio=ratio)
    assert (turned.p, turned.t, turned.mean) == (corrected.p, -corrected.t, -corrected.mean)
    assert effect_size(values) == pytest.approx(plain.t / sqrt(len(values)))


def enumerated_p(values: list[float]) -> float:
    """Every way to give signs to the differences, each as likely: how many are at least as far out."""
    ranks = stats.rankdata(np.abs(values))
    sums: list[float] = [
        sum(float(rank) for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((False, True), repeat=len(values))
        if all(value or not sign for value, sign in zip(values, signs, strict=True))
    ]
    reached = float(sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0))
    below = sum(one <= reached for one in sums) / len(sums)
    above = sum(one >= reached for one in sums) / len(sums)
    return min(1.0, 2 * min(below, above))


@settings(max_examples=60, deadline=None)
@given(st.lists(coarse, min_size=1, max_size=8))
def test_wilcoxon_equals_the_enumeration_of_signs(values: list[float]) -> None:
    found = wilcoxon(values)
    assert found.exact
    assert found.p == pytest.approx(enumerated_p(values))
    assert (found.n, found.zeros, found.median) == (len(values), values.count(0), np.median(values))
    assert wilcoxon([-value for value in values]).p == found.p


@pytest.mark.parametrize("count", [5, 20, 50])
def test_wilcoxon_equals_scipys_exact_one_without_ties(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 1, count)
    assert wilcoxon(values.tolist()).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


def test_wilcoxon_of_many_equals_scipys_approximation() -> None:
    values = np.round(np.random.default_rng(0).normal(0.1, 1, EXACT_UP_TO + 60), 1)
    found = wilcoxon(values.tolist())
    assert not found.exact
    assert found.zeros > 0
    assert found.p == pytest.approx(
        float(stats.wilcoxon(values, zero_method="pratt", correction=False).pvalue)
    )
    assert found.p == pytest.approx(wilcoxon(values[:EXACT_UP_TO].tolist()).p, abs=0.3)


def test_five_patients_cannot_reach_five_percent() -> None:
    """All five positive is one sign pattern of 32, and its mirror: 2 / 32."""
    assert wilcoxon([1, 2, 3, 4, 5]).p == 0.0625


def test_zeros_make_wilcoxon_more_careful() -> None:
    """Of -1 -2 3 4 5 6 the negative ranks sum to 3; five of 64 sign patterns do not exceed it.

    Beside four zeros the ranks are 5 to 10, the negative ones sum to 11, and eight patterns do not exceed it.
    """
    assert wilcoxon([-1, -2, 3, 4, 5, 6]).p == 10 / 64
    assert wilcoxon([0, 0, 0, 0, -1, -2, 3, 4, 5, 6]).p == 16 / 64


def test_holm_by_hand() -> None:
    """Sorted .01 .03 .04: x3 = .03, x2 = .06, x1 = .04 raised to .06."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.5, 0.6]) == (1, 1)
    assert holm([]) == ()


def test_holm_counts_contrasts_that_could_not_be_tested() -> None:
    assert holm([0.01, None, 0.02]) == pytest.approx((0.03, None, 0.04))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_invariants_of_holm(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(before <= (after or 0) <= 1 for before, after in zip(values, adjusted, strict=True))
    pairs = sorted(zip(values, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(after for _, after in pairs if after is not None)
    assert all((after or 0) <= min(1, len(values) * before) for before, after in pairs)


def test_effect_size_by_hand() -> None:
    assert effect_size([1, 2, 3, 6]) == pytest.approx(3 / sqrt(14 / 3))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.03, "non-inferior"),
        (-0.019, -0.001, "non-inferior"),
        (-0.02, 0.01, "undecided"),
        (-0.05, -0.02, "undecided"),
        (-0.05, -0.021, "inferior"),
    ],
)
def test_non_inferiority(low: float, high: float, verdict: str) -> None:
    """A loss that is small but sure is non-inferior; an interval that touches the margin is undecided."""
    assert non_inferior(Interval(low, high)) == verdict
    assert non_inferior(Interval(-high, -low), higher_is_better=False) == verdict


@pytest.mark.parametrize("test", [paired_t, effect_size, lambda d: corrected_t(d, test_share_ratio=0.1)])
def test_refusals_of_the_t_tests(test: object) -> None:
    assert callable(test)
    with pytest.raises(InputError, match="at least 2"):
        test([0.1])
    with pytest.raises(InputError, match="all are equal and not zero"):
        test([0.1, 0.1, 0.1])
    with pytest.raises(InputError, match="not finite"):
        test([0.1, float("nan")])


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least 1"):
        wilcoxon([])
    with pytest.raises(InputError, match="n_test / n_train is 0"):
        corrected_t([1, 2], test_share_ratio=0)
    for folds in ([], [FoldSize(train=0, test=3)], [FoldSize(train=3, test=0)]):
        with pytest.raises(InputError, match="at least one patient"):
            mean_test_share(folds)
    with pytest.raises(InputError, match="outside 0 to 1"):
        holm([0.5, 1.5])
    with pytest.raises(InputError, match="margin is 0"):
        non_inferior(Interval(0, 1), 0)


def test_no_other_module_computes_statistics() -> None:
    """One place to read what a p-value of a report means."""
    root = Path(statistics.__file__).parents[2]
    knows = re.compile(r"scipy\.stats|from scipy import .*\bstats\b")
    rooms = [root / room for room in ("client", "common", "server", "simulation")]
    found = [path for room in rooms for path in room.rglob("*.py") if knows.search(path.read_text("utf-8"))]
    assert found == [Path(statistics.__file__)]
