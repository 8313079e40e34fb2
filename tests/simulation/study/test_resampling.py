from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from common.errors import InputError
from simulation.study.resampling import (
    FEW_UNITS,
    Estimate,
    Interval,
    bootstrap_mean,
    ratio_of_means,
    slope,
    spearman,
)
from simulation.study.statistics import paired_t

numbers = st.floats(-100, 100, allow_subnormal=False)
RNG = np.random.default_rng(5)
X = RNG.normal(size=40).tolist()
Y = (np.array(X) + RNG.normal(size=40)).tolist()


def test_two_values_by_hand() -> None:
    """Of 0 and 1 the resampled means are 0, 1/2 and 1, a quarter, a half and a quarter of the time."""
    found = bootstrap_mean([0, 1], seed=0)
    assert found == Estimate(value=0.5, interval=Interval(0, 1), units=2, resamples=10_000)


def test_normal_values_give_students_interval() -> None:
    """The expansion is made so that this holds; plain percentiles of 12 values are 15 % narrower."""
    scores = np.asarray(stats.norm.ppf((np.arange(12) + 0.5) / 12))
    found, student = bootstrap_mean(scores.tolist(), seed=1, resamples=40_000), paired_t(scores.tolist())
    assert found.interval.low == pytest.approx(student.interval.low, rel=0.05)
    plain = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert -plain.confidence_interval.low < 0.9 * -found.interval.low


def test_equals_scipys_percentiles_at_the_expanded_level() -> None:
    """60 skewed values: SciPy's interval at the level that the formula gives, from other draws."""
    values = np.random.default_rng(2).exponential(size=60)
    tail = stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf(0.025, 59))
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * tail, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap_mean(values.tolist(), seed=0).interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


@pytest.mark.parametrize("units", [FEW_UNITS, 20])
def test_holds_the_truth_as_often_as_it_says(units: int) -> None:
    """500 samples with mean 0: the binomial's 99.9 % range about 95 % of them begins at 92 %."""
    samples = np.random.default_rng(units).normal(size=(500, units))
    intervals = [
        bootstrap_mean(row.tolist(), seed=n, resamples=2000).interval for n, row in enumerate(samples)
    ]
    assert np.mean([one.low <= 0 <= one.high for one in intervals]) > (0.92 if units == 20 else 0.9)


def test_clusters_are_drawn_whole() -> None:
    """Two sites of 1 and 3 patients: means are 0 (twice the first), 6 (twice the second), or 18 / 4."""
    found = bootstrap_mean([0, 6, 6, 6], seed=0, clusters=["a", "b", "b", "b"])
    assert (found.value, found.units) == (4.5, 2)
    assert found.interval == Interval(0, 6)


def test_alike_patients_of_a_site_widen_the_interval() -> None:
    values, sites = np.repeat(np.random.default_rng(0).normal(size=12), 5), np.repeat(np.arange(12), 5)
    alone = bootstrap_mean(values.tolist(), seed=0).interval
    by_site = bootstrap_mean(values.tolist(), seed=0, clusters=sites.tolist()).interval
    assert by_site.high - by_site.low > 1.8 * (alone.high - alone.low)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=12), st.integers(0, 99), st.integers(2, 12))
def test_invariants_of_the_mean(values: list[float], seed: int, sites: int) -> None:
    clusters = [place % sites for place in range(len(values))]
    for names in (None, clusters):
        assume(names is None or len(set(clusters)) > 1)
        found = bootstrap_mean(values, seed=seed, resamples=300, clusters=names)
        assert found == bootstrap_mean(values, seed=seed, resamples=300, clusters=names)
        assert found.value == pytest.approx(np.mean(values))
        assert min(values) - 1e-9 <= found.interval.low <= found.interval.high <= max(values) + 1e-9
        turned = bootstrap_mean([-value for value in values], seed=seed, resamples=300, clusters=names)
        assert (turned.interval.low, turned.interval.high) == pytest.approx(
            (-found.interval.high, -found.interval.low)
        )
    whole = bootstrap_mean(values, seed=seed)
    assert whole.interval.low - 1e-9 <= whole.value <= whole.interval.high + 1e-9


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([0.1] * 7, seed=3).interval == Interval(0.1, 0.1)


def test_many_patients_are_drawn_in_pieces() -> None:
    """3000 patients: the interval is that of the normal approximation to within a tenth of its width."""
    values = np.random.default_rng(0).normal(size=3000)
    found = bootstrap_mean(values.tolist(), seed=0, resamples=2000)
    reach = 1.96 * values.std() / np.sqrt(3000)
    assert found.resamples == 2000
    assert found.interval.high - found.value == pytest.approx(reach, rel=0.1)


def test_ratio_by_hand() -> None:
    """Two seeds, 40 / 20 and 60 / 20: the resampled ratios are 2, 2.5 and 3."""
    found = ratio_of_means([40, 60], [20, 20], seed=0)
    assert (found.estimate.value, found.estimate.interval) == (2.5, Interval(2, 3))
    assert (found.bound, found.censored) == ("exact", (0, 0))


def test_seeds_are_drawn_in_pairs() -> None:
    """Twice as long for every seed: the ratio is 2 whatever is drawn."""
    found = ratio_of_means([20, 40, 90], [10, 20, 45], seed=0)
    assert found.estimate.interval == Interval(2, 2)


@pytest.mark.parametrize(
    ("above", "below", "bound"),
    [
        ([True, False], (), "at least"),
        ((), [False, True], "at most"),
        ([True, True], [True, False], "unknown"),
    ],
)
def test_a_censored_run_makes_the_ratio_a_bound(above: list[bool], below: list[bool], bound: str) -> None:
    found = ratio_of_means([60, 50], [20, 60], seed=0, censored=(above, below))
    assert (found.bound, found.censored) == (bound, (sum(above), sum(below)))
    assert found.estimate == ratio_of_means([60, 50], [20, 60], seed=0).estimate


def test_correlation_and_slope_equal_scipys() -> None:
    assert spearman(X, Y, seed=0).value == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert slope(X, Y, seed=0).value == pytest.approx(stats.linregress(X, Y).slope)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_correlation_and_slope_with_ties_equal_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = ([float(value) for value in side] for side in zip(*pairs, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    rank = spearman(x, y, seed=0, resamples=200)
    assert rank.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert -1 <= rank.interval.low <= rank.interval.high <= 1
    assert slope(x, y, seed=0, resamples=200).value == pytest.approx(stats.linregress(x, y).slope, abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (spearman, lambda x, y: stats.spearmanr(x, y).statistic),
        (slope, lambda x, y: stats.linregress(x, y).slope),
    ],
)
def test_intervals_equal_those_of_drawing_pairs_one_by_one(
    ours: Callable[..., Estimate], theirs: Callable[..., float]
) -> None:
    draws = np.random.default_rng(0).integers(0, 40, size=(1500, 40))
    values = [float(theirs(np.array(X)[draw], np.array(Y)[draw])) for draw in draws]
    tail = stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.025, 39))
    interval = ours(X, Y, seed=0).interval
    width = interval.high - interval.low
    assert (interval.low, interval.high) == pytest.approx(
        np.quantile(values, [tail, 1 - tail]), abs=0.1 * width
    )


def test_a_line_has_its_slope_in_every_resample_that_has_one() -> None:
    """Of three points 1 in 9 resamples is one point three times: no slope, left out and counted."""
    found = slope([0, 1, 2], [1, 3, 5], seed=0, resamples=3000)
    assert (found.value, found.interval.low, found.interval.high) == pytest.approx((2, 2, 2))
    assert found.resamples == pytest.approx(3000 * 8 / 9, rel=0.05)


@pytest.mark.parametrize("measure", [spearman, slope])
def test_several_values_of_a_patient_are_drawn_together(measure: Callable[..., Estimate]) -> None:
    patients = [place // 4 for place in range(40)]
    found = measure(X, Y, seed=0, clusters=patients)
    assert found.units == 10
    assert found.value == pytest.approx(measure(X, Y, seed=0).value)
    assert found == measure(X, Y, seed=0, clusters=[f"patient {name}" for name in patients])


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least 1"):
        bootstrap_mean([], seed=0)
    with pytest.raises(InputError, match="alone shows no spread"):
        bootstrap_mean([1], seed=0)
    with pytest.raises(InputError, match="alone shows no spread"):
        bootstrap_mean([1, 2], seed=0, clusters=["a", "a"])
    with pytest.raises(InputError, match="3 values but 2 cluster"):
        bootstrap_mean([1, 2, 3], seed=0, clusters=["a", "b"])
    with pytest.raises(InputError, match="not finite"):
        bootstrap_mean([1, float("inf")], seed=0)
    with pytest.raises(InputError, match="differ in length"):
        ratio_of_means([1, 2], [1, 2, 3], seed=0)
    with pytest.raises(InputError, match="differ in length"):
        ratio_of_means([1, 2], [1, 2], seed=0, censored=([True], ()))
    with pytest.raises(InputError, match="not positive"):
        ratio_of_means([1, 2], [0, 2], seed=0)


@pytest.mark.parametrize("measure", [spearman, slope])
def test_refusals_of_pairs(measure: Callable[..., Estimate]) -> None:
    with pytest.raises(InputError, match="at least 3"):
        measure([1, 2], [1, 2], seed=0)
    with pytest.raises(InputError, match="give pairs"):
        measure([1, 2, 3], [1, 2, 3, 4], seed=0)
    with pytest.raises(InputError, match="same in all cases"):
        measure([1, 1, 1], [1, 2, 3], seed=0)
