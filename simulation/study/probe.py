"""How well a fresh linear classifier tells two domains apart by frozen features.

An adversarial discriminator at chance proves nothing: it may just have lost. A probe that is trained anew,
on features that no longer change, and judged on patients that it has not seen, measures what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.seeds import generator

RIDGE = 1.0
"""Penalty on the squared weights of the standardised features."""

NEWTON_STEPS = 25


@dataclass(frozen=True)
class Separability:
    """How well domains are told apart on held-out patients.

    Attributes:
        balanced_accuracy: mean over the domains of the part that is called right; 0.5 is chance.
        auc: chance that a sample of domain 1 is ranked above one of domain 0; 0.5 is chance.
    """

    balanced_accuracy: float
    auc: float


def probe(
    features: NDArray[np.floating[Any]],
    domains: NDArray[np.integer[Any]],
    patients: Sequence[str],
    *,
    seed: int,
    folds: int = 5,
) -> Separability:
    """Ridge logistic regression in patient-wise cross-validation, domains weighted equally.

    Args:
        features: (N, C).
        domains: (N,) 0 or 1.
        patients: whose each sample is; a patient is never in training and test at once.
        seed: deals the patients.
        folds: fewer where a domain has fewer patients.

    Raises:
        InputError: a domain with fewer than two patients.
    """
    fold_of = _deal(domains, patients, seed=seed, folds=folds)
    scores = np.zeros(len(domains))
    for fold in range(int(fold_of.max()) + 1):
        held = fold_of == fold
        mean, spread = features[~held].mean(0), features[~held].std(0) + 1e-9
        weights = _fit((features[~held] - mean) / spread, domains[~held])
        scores[held] = _with_one((features[held] - mean) / spread) @ weights
    right = [float(np.mean((scores > 0)[domains == domain] == bool(domain))) for domain in (0, 1)]
    return Separability(float(np.mean(right)), _auc(scores, domains))


def _deal(
    domains: NDArray[np.integer[Any]], patients: Sequence[str], *, seed: int, folds: int
) -> NDArray[np.int64]:
    """Fold of each sample; each domain's patients are dealt out evenly."""
    fold_of: dict[str, int] = {}
    groups = [sorted({p for p, domain in zip(patients, domains, strict=True) if domain == d}) for d in (0, 1)]
    if min(len(group) for group in groups) < 2:
        raise InputError("a probe of two domains needs two patients of each at least")
    k = min(folds, *(len(group) for group in groups))
    for number, group in enumerate(groups):
        for place, index in enumerate(generator(seed, "probe", number).permutation(len(group))):
            fold_of[group[index]] = place % k
    return np.array([fold_of[patient] for patient in patients])


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
