"""How well a fresh linear classifier tells two domains apart by frozen features.

An adversarial discriminator at chance proves nothing: it may just have lost. A probe that is trained anew,
on features that no longer change, and judged on patients that it has not seen, measures what is left.

With few patients one half is not what a probe reaches by chance: a patient held out moves the mean of the
others the opposite way, so cross-validation of pure noise lies somewhat below, and by luck well above. The
same probe on domains shuffled between patients shows how far luck goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.seeds import generator

RIDGE = 1.0
"""Penalty on the squared weights of the standardised features."""

NEWTON_STEPS = 25

SHUFFLES = 19
"""Shuffles of domains; a probe above all of 19 is there by luck one time in 20."""


@dataclass(frozen=True)
class Separability:
    """How well domains are told apart on held-out patients.

    Attributes:
        balanced_accuracy: mean over the domains of the part that is called right.
        auc: how often a sample of domain 1 is ranked above one of domain 0 of the same fold; mean over folds,
            since scores of two probes have no common scale.
        chance: the largest AUC with domains shuffled between patients. Domains are told apart where `auc` is
            larger (p below 0.05); where it is not, this many patients cannot show it.
    """

    balanced_accuracy: float
    auc: float
    chance: float


def probe(
    features: NDArray[np.floating[Any]],
    domains: NDArray[np.integer[Any]],
    patients: Sequence[str],
    *,
    seed: int,
    folds: int = 5,
) -> Separability:
    """Ridge logistic regression in patient-wise cross-validation, domains weighted equally.

    Features are standardised by the patients that a probe is trained on; one that is constant there is left
    out. The same input gives the same output.

    Args:
        features: (N, C).
        domains: (N,) 0 or 1.
        patients: (N,) whose each sample is; a patient is never in training and test at once.
        seed: deals the patients and shuffles the domains.
        folds: fewer where a domain has fewer patients.

    Raises:
        InputError: a feature that is not finite, a patient of two domains, or a domain with fewer than two
            patients.
    """
    if not np.isfinite(features).all():
        raise InputError("probe: a feature is not finite; the model that gave it has diverged")
    domain_of = _domains_of(domains, patients)
    found = _judge(features, domain_of, patients, seed=seed, folds=folds)
    names = sorted(domain_of)
    shuffled = []
    for number in range(SHUFFLES):
        order = generator(seed, "probe", "shuffle", number).permutation(len(names))
        swapped = {name: domain_of[names[other]] for name, other in zip(names, order, strict=True)}
        shuffled.append(_judge(features, swapped, patients, seed=seed, folds=folds)[1])
    return Separability(balanced_accuracy=found[0], auc=found[1], chance=max(shuffled))


def _domains_of(domains: NDArray[np.integer[Any]], patients: Sequence[str]) -> dict[str, int]:
    """Patient -> domain, each domain having two patients at least."""
    found: dict[str, int] = {}
    for patient, domain in zip(patients, domains.tolist(), strict=True):
        if found.setdefault(patient, domain) != domain:
            raise InputError("probe: a patient has samples of two domains; name them apart")
    known = list(found.values())
    if min(known.count(0), known.count(1)) < 2:
        raise InputError("probe: two domains (0 and 1) need two patients of each at least")
    return found


def _judge(
    features: NDArray[np.floating[Any]],
    domain_of: Mapping[str, int],
    patients: Sequence[str],
    *,
    seed: int,
    folds: int,
) -> tuple[float, float]:
    """Balanced accuracy and AUC on held-out patients."""
    dealt = _deal(domain_of, seed=seed, folds=folds)
    fold_of = np.array([dealt[patient] for patient in patients])
    domains = np.array([domain_of[patient] for patient in patients])
    called, ranked = np.zeros(len(domains), dtype=bool), []
    for fold in range(int(fold_of.max()) + 1):
        held = fold_of == fold
        mean, spread = features[~held].mean(0), features[~held].std(0)
        usable = spread > 1e-9 * np.abs(features[~held]).max(0, initial=0.0)
        standard = (features[:, usable] - mean[usable]) / spread[usable]
        scores = _with_one(standard[held]) @ _fit(standard[~held], domains[~held])
        called[held] = scores > 0
        ranked.append(_auc(scores, domains[held]))
    right = [float(np.mean(called[domains == domain] == bool(domain))) for domain in (0, 1)]
    return float(np.mean(right)), float(np.mean(ranked))


def _deal(domain_of: Mapping[str, int], *, seed: int, folds: int) -> dict[str, int]:
    """Patient -> fold; each domain's patients are dealt out evenly, so that each fold holds both."""
    groups = [sorted(name for name, domain in domain_of.items() if domain == which) for which in (0, 1)]
    k = min(folds, *(len(group) for group in groups))
    fold_of: dict[str, int] = {}
    for number, group in enumerate(groups):
        for place, index in enumerate(generator(seed, "probe", number).permutation(len(group))):
            fold_of[group[index]] = place % k
    return fold_of


def _with_one(x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.hstack([x, np.ones((len(x), 1))])


def _fit(x: NDArray[np.floating[Any]], y: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Weights and offset by Newton's method; the penalty makes the problem strictly convex."""
    design = _with_one(x)
    share = np.where(y == 1, 0.5 / (y == 1).mean(), 0.5 / (y == 0).mean())
    ridge = np.diag([RIDGE] * x.shape[1] + [1e-6])
    weights = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (share * (p - y)) + ridge @ weights
        curvature = (design * (share * p * (1 - p) + 1e-9)[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return weights


def _auc(scores: NDArray[np.float64], domains: NDArray[np.integer[Any]]) -> float:
    """Mann-Whitney: ties count one half."""
    ones, zeros = scores[domains == 1], scores[domains == 0]
    above = (ones[:, None] > zeros[None]).mean() + 0.5 * (ones[:, None] == zeros[None]).mean()
    return float(above)
