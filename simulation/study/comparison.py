"""One approach against another on the same patients: every test and interval of the study in one value."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from common.errors import InputError
from simulation.study.resampling import FEW_UNITS, RESAMPLES, Estimate, bootstrap_mean
from simulation.study.statistics import (
    MARGIN,
    FoldSize,
    SignedRank,
    TTest,
    Verdict,
    corrected_t,
    effect_size,
    holm,
    mean_test_share,
    non_inferior,
    paired_t,
    wilcoxon,
)

_Key = TypeVar("_Key", str, int)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Design:
    """Which case was judged where: shared by all comparisons of a study.

    Attributes:
        folds: case -> the fold in which it was judged; one fold a patient.
        sizes: fold -> patients trained on and judged.
        patients: case -> patient; without it each case is a patient.
        clusters: case -> what the bootstrap draws whole (a site, a fold); without it patients.
    """

    folds: Mapping[str, int]
    sizes: Mapping[int, FoldSize]
    patients: Mapping[str, str] | None = None
    clusters: Mapping[str, Hashable] | None = None


@dataclass(frozen=True)
class Comparison:
    """One approach against another on the same patients.

    Attributes:
        patients, folds: how many.
        mean: mean difference over patients, approach minus baseline.
        as_published: plain paired t on fold means.
        corrected: the same with Nadeau's and Bengio's variance.
        corrected_holm: its p after `with_holm`.
        wilcoxon: signed rank over patients.
        wilcoxon_holm: its p after `with_holm`.
        bootstrap: mean over patients with its interval.
        effect: Cohen's d_z over patients.
        verdict: non-inferiority by the corrected interval, or by the bootstrap's where there is none.
        verdict_from: which of them.
        notes: for each value that is None, why; and where the bootstrap had few units.
    """

    patients: int
    folds: int
    mean: float
    as_published: TTest | None
    corrected: TTest | None
    wilcoxon: SignedRank
    bootstrap: Estimate | None
    effect: float | None
    verdict: Verdict | None
    verdict_from: Literal["corrected t", "bootstrap"] | None
    corrected_holm: float | None = None
    wilcoxon_holm: float | None = None
    notes: tuple[str, ...] = ()


def compare(
    approach: Mapping[str, float],
    baseline: Mapping[str, float],
    *,
    design: Design,
    seed: int,
    margin: float | None = MARGIN,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
) -> Comparison:
    """All tests of one approach against another, from the same out-of-fold cases.

    Cases of one patient are averaged first; a fold's mean is that of its patients. What needs two folds, two
    patients or some variance is None where they lack, and a note says so.

    Args:
        approach: case -> value of the metric.
        baseline: case -> value; the same cases.
        design: the folds, patients and clusters of these cases; it may know more cases.
        seed: of the bootstrap.
        margin: for `non_inferior`, in the metric's unit; None where none was declared: no verdict.
        higher_is_better: False for distances.
        resamples: of the bootstrap.

    Raises:
        InputError: the approaches have other cases, there is none, a value is not finite, a case has no fold,
            patient or cluster, a fold has no size, or a patient lies in two folds or clusters.
    """
    owner = {case: case for case in approach} if design.patients is None else design.patients
    values = _by_patient(_differences(approach, baseline), _known(owner, approach, "patient"))
    each, means = (
        list(values.values()),
        _fold_means(values, _of_patients(design.folds, approach, owner, "fold")),
    )
    share = mean_test_share(list(_known(design.sizes, means, "size").values()))
    cluster = _of_patients(owner if design.clusters is None else design.clusters, approach, owner, "cluster")
    names = [cluster[who] for who in values]
    notes: list[str] = []
    corrected = _or_note(lambda: corrected_t(list(means.values()), test_share_ratio=share), notes)
    drawn = _or_note(lambda: bootstrap_mean(each, seed=seed, resamples=resamples, clusters=names), notes)
    if drawn and drawn.units < FEW_UNITS:
        notes.append(f"bootstrap: {drawn.units} units are few; its interval is too narrow below {FEW_UNITS}")
    verdict, source = None, corrected or drawn
    if source and margin is not None:
        verdict = non_inferior(source.interval, margin, higher_is_better=higher_is_better)
    return Comparison(
        patients=len(each),
        folds=len(means),
        mean=float(np.mean(each)),
        as_published=_or_note(lambda: paired_t(list(means.values())), notes),
        corrected=corrected,
        wilcoxon=wilcoxon(each),
        bootstrap=drawn,
        effect=_or_note(lambda: effect_size(each), notes),
        verdict=verdict,
        verdict_from=None if verdict is None else "corrected t" if corrected else "bootstrap",
        notes=tuple(dict.fromkeys(notes)),
    )


def with_holm(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The comparisons of one declared family, with their p-values adjusted for its size."""
    corrected = holm([one.corrected.p if one.corrected else None for one in comparisons.values()])
    ranked = holm([one.wilcoxon.p for one in comparisons.values()])
    return {
        name: replace(one, corrected_holm=first, wilcoxon_holm=second)
        for (name, one), first, second in zip(comparisons.items(), corrected, ranked, strict=True)
    }


def _differences(approach: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    odd = sorted(approach.keys() ^ baseline.keys())
    if odd:
        raise InputError(f"comparison: {len(odd)} cases of one approach alone, '{odd[0]}' first; judge both")
    return {case: approach[case] - baseline[case] for case in sorted(approach)}


def _known(of: Mapping[_Key, _T], keys: Mapping[_Key, object], what: str) -> dict[_Key, _T]:
    """The part of `of` that is about `keys`, all of which it must know."""
    lacking = [key for key in keys if key not in of]
    if lacking:
        raise InputError(f"comparison: no {what} is given for '{lacking[0]}' ({len(lacking)} in all)")
    return {key: of[key] for key in keys}


def _by_patient(values: Mapping[str, float], owner: Mapping[str, str]) -> dict[str, float]:
    """Mean value of each patient's cases, in order of name."""
    cases: dict[str, list[float]] = {who: [] for who in sorted(set(owner.values()))}
    for case, value in values.items():
        cases[owner[case]].append(value)
    return {who: float(np.mean(found)) for who, found in cases.items()}


def _fold_means(values: Mapping[str, float], fold: Mapping[str, int]) -> dict[int, float]:
    """Mean over the patients of each fold, in order of fold."""
    found: dict[int, list[float]] = {number: [] for number in sorted(set(fold.values()))}
    for who, value in values.items():
        found[fold[who]].append(value)
    return {number: float(np.mean(of_fold)) for number, of_fold in found.items()}


def _of_patients(
    of: Mapping[str, _T], cases: Mapping[str, object], owner: Mapping[str, str], what: str
) -> dict[str, _T]:
    """What `of` says of the cases, said of their patients; one answer each."""
    answers: dict[str, _T] = {}
    for case, value in _known(of, cases, what).items():
        if answers.setdefault(owner[case], value) != value:
            raise InputError(f"comparison: patient '{owner[case]}' lies in more than one {what}")
    return answers


def _or_note(compute: Callable[[], _T], notes: list[str]) -> _T | None:
    try:
        return compute()
    except InputError as error:
        notes.append(str(error))
        return None
