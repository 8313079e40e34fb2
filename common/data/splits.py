"""Training, validation and test cases: by patient, whose time points never straddle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.data.cases import Case, Cohort
from common.errors import DataError
from common.plan import Plan, SitePlan
from common.seeds import derive, generator


@dataclass(frozen=True)
class Split:
    """Labelled cases of disjoint patients; `notes` say what was not possible, in words."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def split_as_planned(cohort: Cohort, plan: Plan, *, site: str) -> Split:
    """The split of a site of a plan: one of its folds where it names folds, else by the plan's shares.

    Raises:
        DataError: fewer labelled patients than it takes.
    """
    wanted = plan.sites.get(site, SitePlan())
    seed, shares = derive(plan.seed, "split", site), plan.evaluation
    if wanted.folds:
        return folds(cohort, k=wanted.folds, seed=seed, val=shares.val_share)[wanted.fold]
    return split_by_patient(cohort, seed=seed, val=shares.val_share, test=shares.test_share)


def split_by_patient(cohort: Cohort, *, seed: int, val: float = 0.2, test: float = 0.3) -> Split:
    """Deals the labelled patients out: shares `val` and `test` are rounded, each at least one patient.

    Two patients give one to train and one to test, three give one to each. The same seed and patients give
    the same split, whatever the order of the cases.

    Raises:
        DataError: fewer than two labelled patients.
    """
    patients = _shuffled(cohort, seed=seed, least=2)
    n = len(patients)
    n_test = min(max(1, round(n * test)), n - 1)
    n_val = min(max(1, round(n * val)), n - n_test - 1)
    return _split(
        cohort,
        test=patients[:n_test],
        val=patients[n_test : n_test + n_val],
        train=patients[n_test + n_val :],
    )


def folds(cohort: Cohort, *, k: int, seed: int, val: float = 0.2) -> tuple[Split, ...]:
    """`k` splits in which every labelled patient is tested once; `val` is the share of the others.

    Raises:
        DataError: `k` is below 2 or above the number of labelled patients.
    """
    if k < 2:
        raise DataError(f"{k} folds: cross-validation needs at least 2", code="folds")
    patients = _shuffled(cohort, seed=seed, least=k)
    return tuple(_fold(cohort, patients, tested=patients[index::k], val=val) for index in range(k))


def _fold(cohort: Cohort, patients: Sequence[str], *, tested: Sequence[str], val: float) -> Split:
    """The others follow the tested ones in a circle, so that validation patients differ between folds."""
    at = patients.index(tested[0])
    others = [patient for patient in [*patients[at:], *patients[:at]] if patient not in tested]
    n_val = min(max(1, round(len(others) * val)), len(others) - 1)
    return _split(cohort, test=tested, val=others[:n_val], train=others[n_val:])


def _shuffled(cohort: Cohort, *, seed: int, least: int) -> list[str]:
    patients = sorted({case.patient for case in cohort.labelled})
    if len(patients) < least:
        raise DataError(
            f"cohort {cohort.name}: {len(patients)} labelled patient{'' if len(patients) == 1 else 's'}; "
            f"at least {least} are needed, so that none is in training and test at once",
            code="too-few",
        )
    return [patients[index] for index in generator(seed, "split").permutation(len(patients))]


def _split(cohort: Cohort, *, train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> Split:
    def of(patients: Sequence[str]) -> tuple[Case, ...]:
        return tuple(case for case in cohort.labelled if case.patient in patients)

    notes = []
    unlabelled = len(cohort.cases) - len(cohort.labelled)
    if unlabelled:
        notes.append(
            f"{unlabelled} of {len(cohort.cases)} cases have no label and are in no part of the split"
        )
    if not val:
        notes.append("too few patients for validation: the last model is kept, not the best")
    if len(test) < 3:
        notes.append(
            f"only {len(test)} patient{'' if len(test) == 1 else 's'} to test on: no spread can be stated"
        )
    return Split(of(train), of(val), of(test), tuple(notes))
