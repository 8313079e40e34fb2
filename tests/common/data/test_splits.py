from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.cases import Case, Cohort
from common.data.splits import Split, folds, split_as_planned, split_by_patient
from common.errors import DataError
from common.plan import Plan, parse
from common.seeds import derive


def cohort(patients: int, *, visits: int = 1, unlabelled: int = 0) -> Cohort:
    cases = [
        Case(f"{patient}-{visit}", f"P{patient}", {}, label=Path("seg.nii.gz"))
        for patient in range(patients)
        for visit in range(visits)
    ]
    cases += [Case(f"u{number}", f"U{number}", {}) for number in range(unlabelled)]
    return Cohort("site", Path(), tuple(cases))


def patients(split: Split) -> tuple[set[str], set[str], set[str]]:
    return tuple({case.patient for case in part} for part in (split.train, split.val, split.test))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("count", "expected"), [(2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (6, (3, 1, 2)), (20, (10, 4, 6))]
)
def test_sizes(count: int, expected: tuple[int, int, int]) -> None:
    split = split_by_patient(cohort(count), seed=1)
    assert (len(split.train), len(split.val), len(split.test)) == expected


@given(count=st.integers(2, 40), visits=st.integers(1, 3), seed=st.integers(0, 99))
def test_patients_never_straddle_and_none_is_lost(count: int, visits: int, seed: int) -> None:
    whole = cohort(count, visits=visits)
    split = split_by_patient(whole, seed=seed)
    train, val, test = patients(split)
    assert len(train | val | test) == len(train) + len(val) + len(test)
    assert train | val | test == set(whole.patients)
    assert len(split.train) + len(split.val) + len(split.test) == len(whole.cases)
    assert train
    assert test


def test_a_split_depends_on_seed_and_patients_alone() -> None:
    whole = cohort(12)
    turned = Cohort("other", Path("x"), tuple(reversed(whole.cases)))
    assert patients(split_by_patient(whole, seed=3)) == patients(split_by_patient(turned, seed=3))
    assert patients(split_by_patient(whole, seed=3)) != patients(split_by_patient(whole, seed=4))


def test_notes_say_what_was_not_possible() -> None:
    notes = " / ".join(split_by_patient(cohort(2, unlabelled=3), seed=0).notes)
    assert "3 of 5 cases have no label" in notes
    assert "too few patients for validation" in notes
    assert "only 1 patient to test on" in notes
    assert split_by_patient(cohort(20), seed=0).notes == ()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_patients(count: int) -> None:
    with pytest.raises(DataError, match=f"cohort site: {count} labelled patient"):
        split_by_patient(cohort(count, visits=3, unlabelled=5), seed=0)


@given(count=st.integers(3, 25), k=st.integers(2, 10), seed=st.integers(0, 9))
def test_folds_test_every_patient_once(count: int, k: int, seed: int) -> None:
    if k > count:
        with pytest.raises(DataError, match="at least"):
            folds(cohort(count), k=k, seed=seed)
        return
    whole = cohort(count, visits=2)
    parts = folds(whole, k=k, seed=seed)
    tested = [patient for split in parts for patient in sorted(patients(split)[2])]
    assert sorted(tested) == sorted(whole.patients)
    for split in parts:
        train, val, test = patients(split)
        assert train
        assert len(train | val | test) == len(train) + len(val) + len(test)
        assert train | val | test == set(whole.patients)


def planned(**site: int) -> Plan:
    data = {"schema": 1, "name": "x", "seed": 5, "rounds": {"quorum": 1}, "sites": {"ssa": site}}
    return parse(data, origin="test")


def test_a_plan_without_folds_splits_by_its_shares() -> None:
    plan, seed = planned(), derive(5, "split", "ssa")
    assert split_as_planned(cohort(9), plan, site="ssa") == split_by_patient(cohort(9), seed=seed)


def test_a_site_that_the_plan_does_not_name_is_split_too() -> None:
    expected = split_by_patient(cohort(9), seed=derive(5, "split", "elsewhere"))
    assert split_as_planned(cohort(9), planned(), site="elsewhere") == expected


def test_the_folds_of_a_plan_are_those_of_cross_validation() -> None:
    expected = folds(cohort(9), k=3, seed=derive(5, "split", "ssa"), val=0.2)
    found = [split_as_planned(cohort(9), planned(folds=3, fold=number), site="ssa") for number in range(3)]
    assert tuple(found) == expected


def test_a_plan_of_more_folds_than_patients() -> None:
    with pytest.raises(DataError, match="cohort site: 4 labelled patients; at least 5"):
        split_as_planned(cohort(4), planned(folds=5), site="ssa")


def test_one_fold_is_none() -> None:
    with pytest.raises(DataError, match="1 folds"):
        folds(cohort(5), k=1, seed=0)
