from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from common.errors import InputError
from simulation.study.probe import Separability, _auc, _fit, _with_one, probe

Features = NDArray[np.float64]
PATIENTS, SAMPLES, CHANNELS = 24, 4, 6
DOMAINS = np.repeat(np.arange(PATIENTS) % 2, SAMPLES)
NAMES = [f"patient-{number}" for number in np.repeat(np.arange(PATIENTS), SAMPLES)]


def features(shift: float, *, seed: int = 0, of_patient: float = 1.0) -> Features:
    """Samples that share their patient's offset; the first channel moves by `shift` with the domain."""
    rng = np.random.default_rng(seed)
    values = of_patient * np.repeat(rng.normal(size=(PATIENTS, CHANNELS)), SAMPLES, axis=0)
    values += rng.normal(size=values.shape)
    values[:, 0] += shift * DOMAINS
    return values


def probed(values: Features, *, seed: int = 0) -> Separability:
    return probe(values, DOMAINS, NAMES, seed=seed)


def test_domains_far_apart_are_told_apart() -> None:
    """Ten standard deviations: every sample is called right."""
    found = probed(features(20.0))
    assert (found.balanced_accuracy, found.auc) == (1, 1)
    assert found.chance < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_domains_alike_are_not(seed: int) -> None:
    found = probed(features(0.0, seed=seed))
    assert found.auc <= found.chance
    assert 0.2 < found.balanced_accuracy < 0.8


def test_one_time_in_twenty_noise_passes_for_a_difference() -> None:
    """40 noises: more than 7 above chance has a binomial probability of 0.2 %."""
    above = [(found := probed(features(0.0, seed=seed))).auc > found.chance for seed in range(100, 140)]
    assert sum(above) <= 7


def test_patients_recognised_again_do_not_count_as_a_domain() -> None:
    """Each patient has a fingerprint and domains have none: folds by sample see a difference of domains."""
    values = features(0.0, of_patient=50.0, seed=4)
    assert probed(values).auc <= probed(values).chance
    by_sample = probe(values, DOMAINS, [f"sample-{number}" for number in range(len(values))], seed=0)
    assert by_sample.auc > by_sample.chance + 0.1


def test_equal_features_leave_nothing_to_tell() -> None:
    """All samples the same: the probe has no feature left, all scores tie."""
    found = probed(np.full((PATIENTS * SAMPLES, CHANNELS), 3.7))
    assert (found.balanced_accuracy, found.auc, found.chance) == (0.5, 0.5, 0.5)


def test_more_patients_of_one_domain_do_not_make_a_difference() -> None:
    """Ninety to ten without any difference: calling all the larger one would be right at 90 %."""
    rng = np.random.default_rng(0)
    domains = (np.arange(100) >= 90).astype(int)
    found = probe(rng.normal(size=(100, 5)), domains, [f"p{number}" for number in range(100)], seed=0)
    assert 0.3 < found.balanced_accuracy < 0.7


def test_units_of_features_do_not_matter() -> None:
    values = features(1.0)
    scaled = values * [1e-4, 1e3, 1, 1, 1, 1] + [0, 5, -70, 0, 0, 0]
    assert probed(scaled).auc == pytest.approx(probed(values).auc)


def test_the_same_input_gives_the_same_output() -> None:
    values = features(0.7)
    assert probed(values) == probed(values)
    assert probed(values) != probed(values, seed=1)


def test_a_feature_that_is_constant_in_training_is_left_out() -> None:
    """One held-out patient has another value there: divided by no spread it would decide all."""
    values = features(20.0)
    values[:, -1] = 1.0
    values[:SAMPLES, -1] = 2.0
    assert probed(values).auc == 1


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
def test_the_fit_equals_scikit_learns(shift: float) -> None:
    values, domains = features(shift), DOMAINS.copy()
    domains[: SAMPLES * 4] = 0
    theirs = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=10_000)
    theirs.fit(values, domains)
    expected = np.append(theirs.coef_[0], theirs.intercept_)
    assert _fit(values, domains) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert _with_one(values).shape == (len(values), CHANNELS + 1)


def test_auc_by_hand() -> None:
    """Scores 1 and 3 against 1 and 2: above in two pairs of four, equal in one."""
    assert _auc(np.array([1.0, 3.0, 1.0, 2.0]), np.array([1, 1, 0, 0])) == 2.5 / 4


def test_refusals() -> None:
    values = features(0.0)
    with pytest.raises(InputError, match="not finite"):
        probed(values * np.nan)
    with pytest.raises(InputError, match="two patients of each"):
        probe(values, np.zeros_like(DOMAINS), NAMES, seed=0)
    with pytest.raises(InputError, match="two patients of each"):
        probe(values[:6], DOMAINS[:6], NAMES[:6], seed=0)
    with pytest.raises(InputError, match="two domains; name them apart"):
        probe(values, DOMAINS, ["one"] * len(DOMAINS), seed=0)
