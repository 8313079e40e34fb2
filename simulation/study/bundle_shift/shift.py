"""The drop on patients, split into parts: what the protocol costs, what the tumour costs, and the rest.

S(model; cell) is a patient's Dice, H the model of the healthy, F the fine-tuned one; all on the same heads.

- total        = S(H; source twin) - S(H; clinical tumour)
- systematic   = S(H; source twin) - S(H; clinical twin)
- tumour       = S(H; source twin) - S(H; source tumour)
- interaction  = total - systematic - tumour

A fine-tuned model is made for the clinical protocol, so what it recovers is measured there, and home stays
that of the healthy model:

- systematic left by F  = S(H; source twin) - S(F; clinical twin),   R_sys = 1 - left by F / left by H
- tumour left by F      = S(F; clinical twin) - S(F; clinical tumour),  R_tum likewise, at that protocol

A ratio is stated only where the interval of what it is relative to lies above 0. Intervals draw patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from common.errors import InputError
from simulation.study.bundle_shift.cohorts import ANATOMY
from simulation.study.bundle_shift.settings import HEALTHY, PATIENTS, TUNED, approach_name
from simulation.study.resampling import (
    Estimate,
    Interval,
    bootstrap_mean,
    ratio_of_differences,
    slope,
    spearman,
)
from simulation.study.results import Row

Case = dict[str, float]
"""Patient -> value."""


@dataclass(frozen=True)
class Scores:
    """Values of a finished study.

    Attributes:
        values: (metric, approach, cell, bundle) -> patient -> value.
        modalities, bundles: in the order of the study.
        seed: of the bootstrap.
    """

    values: Mapping[tuple[str, str, str, str], Mapping[str, float]]
    modalities: tuple[str, ...]
    bundles: tuple[str, ...]
    seed: int

    def mean(
        self,
        approach: str,
        cell: str,
        *,
        modality: str | None = None,
        bundle: str | None = None,
        metric: str = "dice",
    ) -> Case:
        """Patient -> mean over modalities and bundles; one of them where it is named."""
        asked = [modality] if modality else self.modalities
        parts = [
            self.values.get((metric, approach_name(one, approach), cell, name), {})
            for one in asked
            for name in ([bundle] if bundle else self.bundles)
        ]
        patients = sorted(set.intersection(*map(set, parts))) if parts else []
        return {patient: fmean(part[patient] for part in parts) for patient in patients}

    def anatomy(self, metric: str, bundle: str) -> Mapping[str, float]:
        """Patient -> what the tumour did to a bundle."""
        return self.values.get((metric, ANATOMY, PATIENTS, bundle), {})


@dataclass(frozen=True)
class Parts:
    """A model's drop and its parts, in Dice; positive is lost."""

    total: Estimate
    systematic: Estimate
    tumour: Estimate
    interaction: Estimate


@dataclass(frozen=True)
class Recovery:
    """What fine-tuning recovers at the clinical protocol.

    Attributes:
        before, after: what is lost under the model of the healthy and under the fine-tuned one.
        share: 1 - after / before; None where the interval of `before` touches 0.
    """

    before: Estimate
    after: Estimate
    share: Estimate | None


@dataclass(frozen=True)
class Residual:
    """Residual error 1 - Dice of the fine-tuned model on patients, against something the tumour did.

    Attributes:
        slope: of the error, for one unit; of the loss against the patient's own twin in `beyond_twin`.
        rank: Spearman's correlation.
        pairs: how many bundles of patients.
    """

    slope: Estimate
    rank: Estimate
    beyond_twin: Estimate
    pairs: int


def scores_of(rows: Iterable[Row], *, modalities: Sequence[str], bundles: Sequence[str], seed: int) -> Scores:
    """The rows by what they are of."""
    values: dict[tuple[str, str, str, str], Case] = {}
    for row in rows:
        values.setdefault((row.metric, row.approach, row.site, row.region), {})[row.case] = row.value
    return Scores(values, tuple(modalities), tuple(bundles), seed)


def parts_of(
    scores: Scores, approach: str, *, modality: str | None = None, bundle: str | None = None
) -> Parts:
    """The factorial of one model, against its own result at home."""

    def at(cell: str) -> Case:
        return scores.mean(approach, cell, modality=modality, bundle=bundle)

    home, shifted = at("source-twin"), at("clinical-twin")
    ill, both = at("source-tumour"), at(PATIENTS)
    return Parts(
        total=_mean(scores, home, lambda p: home[p] - both[p]),
        systematic=_mean(scores, home, lambda p: home[p] - shifted[p]),
        tumour=_mean(scores, home, lambda p: home[p] - ill[p]),
        interaction=_mean(scores, home, lambda p: shifted[p] + ill[p] - home[p] - both[p]),
    )


def recovered_systematic(
    scores: Scores, *, modality: str | None = None, bundle: str | None = None
) -> Recovery:
    """What fine-tuning recovers of the protocol's part."""
    home = scores.mean(HEALTHY, "source-twin", modality=modality, bundle=bundle)
    before, after = (
        scores.mean(approach, "clinical-twin", modality=modality, bundle=bundle)
        for approach in (HEALTHY, TUNED)
    )
    return _recovery(scores, {p: home[p] - before[p] for p in home}, {p: home[p] - after[p] for p in home})


def recovered_tumour(scores: Scores, *, modality: str | None = None, bundle: str | None = None) -> Recovery:
    """What fine-tuning recovers of the tumour's part, at the clinical protocol."""
    lost = []
    for approach in (HEALTHY, TUNED):
        twin, ill = (
            scores.mean(approach, cell, modality=modality, bundle=bundle)
            for cell in ("clinical-twin", PATIENTS)
        )
        lost.append({p: twin[p] - ill[p] for p in twin})
    return _recovery(scores, *lost)


def residual(
    scores: Scores, metric: str, *, modality: str | None = None, bundle: str | None = None
) -> Residual | None:
    """Error of the fine-tuned model against what the tumour did to each bundle; None where nothing varies.

    Over several bundles both are centred within each of them first: a bundle that is harder for everybody,
    and displaced more often, would look like an effect.
    """
    x: list[float] = []
    error: list[float] = []
    beyond: list[float] = []
    patients: list[str] = []
    for name in [bundle] if bundle else scores.bundles:
        ill = scores.mean(TUNED, PATIENTS, modality=modality, bundle=name)
        twin = scores.mean(TUNED, "clinical-twin", modality=modality, bundle=name)
        done = scores.anatomy(metric, name)
        known = [p for p in ill if p in twin and p in done]
        x += _centred([done[p] for p in known])
        error += _centred([1 - ill[p] for p in known])
        beyond += _centred([twin[p] - ill[p] for p in known])
        patients += known
    try:
        return Residual(
            slope(x, error, seed=scores.seed, clusters=patients),
            spearman(x, error, seed=scores.seed, clusters=patients),
            slope(x, beyond, seed=scores.seed, clusters=patients),
            len(x),
        )
    except InputError:
        return None


def drop_of_groups(first: Mapping[str, float], second: Mapping[str, float], *, seed: int) -> Estimate:
    """Mean of `first` minus mean of `second`, two groups of different people.

    The interval is put together from those of the two means (square-and-add; Zou and Donner, Stat Med 2008;
    27:1693-1702).

    Raises:
        InputError: a group of fewer than two.
    """
    one = bootstrap_mean(list(first.values()), seed=seed)
    other = bootstrap_mean(list(second.values()), seed=seed)
    value = one.value - other.value
    down = np.hypot(one.value - one.interval.low, other.interval.high - other.value)
    up = np.hypot(one.interval.high - one.value, other.value - other.interval.low)
    return Estimate(
        value,
        Interval(value - float(down), value + float(up)),
        units=one.units + other.units,
        resamples=min(one.resamples, other.resamples),
    )


def near_and_far(
    scores: Scores, approach: str, *, near_mm: float, home: Mapping[str, float], modality: str | None = None
) -> tuple[Case, Case]:
    """Patient -> mean drop of the bundles near the lesion, and of those far from it.

    A drop is against the mean of healthy subjects for the same bundle, `home`, so that easy and difficult
    bundles can be told together.
    """
    near: dict[str, list[float]] = {}
    far: dict[str, list[float]] = {}
    for bundle in scores.bundles:
        found = scores.mean(approach, PATIENTS, modality=modality, bundle=bundle)
        for patient, away in scores.anatomy("distance", bundle).items():
            group = far if away > near_mm else near
            group.setdefault(patient, []).append(home[bundle] - found[patient])
    return (
        {patient: fmean(values) for patient, values in near.items()},
        {patient: fmean(values) for patient, values in far.items()},
    )


def _mean(scores: Scores, patients: Iterable[str], difference: Callable[[str], float]) -> Estimate:
    return bootstrap_mean([difference(patient) for patient in patients], seed=scores.seed)


def _recovery(scores: Scores, before: Case, after: Case) -> Recovery:
    lost = bootstrap_mean(list(before.values()), seed=scores.seed)
    left = bootstrap_mean([after[patient] for patient in before], seed=scores.seed)
    share = None
    if lost.interval.low > 0:
        ratio = ratio_of_differences(
            [after[patient] for patient in before], list(before.values()), seed=scores.seed
        )
        share = Estimate(
            1 - ratio.value,
            Interval(1 - ratio.interval.high, 1 - ratio.interval.low),
            ratio.units,
            ratio.resamples,
        )
    return Recovery(lost, left, share)


def _centred(values: Sequence[float]) -> list[float]:
    middle = fmean(values) if values else 0.0
    return [value - middle for value in values]
