"""The two cohorts of such a study: what they must hold, and their cases as networks read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.cache import Cache
from common.data.cases import Case, Cohort
from common.data.splits import folds as deal_folds
from common.data.splits import split_by_patient
from common.data.transforms import Preparation, PreparedCase, expert_label
from common.errors import DataError, InputError
from common.seeds import derive
from simulation.preparation import made_whole, write_phantom
from simulation.study.jobs import Outcome, Workplace
from simulation.study.spec import Data, Source, open_source
from simulation.study.task_transfer.proxy import write_proxy
from simulation.study.task_transfer.settings import TaskTransfer, source_of

PHANTOM_SPACING_MM = 2.0
MODALITY: Mapping[str, str] = {"source": "t1n", "target": "t1c"}
STRUCTURES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "source": (("anterior", "posterior"), ("hippocampus",)),
    "target": (("NCR", "ET"), ("TC",), ("GTV",)),
}
"""Role -> sets of structures, any of which will do; together they are what is segmented."""

WORDS: Mapping[str, str] = {"source": "hippocampus", "target": "glioma"}
TEST_SHARE = 0.2
"""Of the hippocampus patients, to see whether that model learnt its own task."""


@dataclass(frozen=True)
class Parts:
    """Cases of disjoint patients; the tested ones also give the curve, by which nothing is chosen."""

    train: tuple[Case, ...]
    test: tuple[Case, ...]


def check_cohorts(study: TaskTransfer, data: Data) -> None:
    """Refuse what cannot work before anything is made; reads labels of real cases.

    Raises:
        InputError: too few phantom cases for the folds.
        DataError: a cohort without labels, of the other role, without the modality, with too few patients,
            or with no structure to learn.
    """
    for source in data.sources:
        if source.phantom is None:
            _check_real(study, source)
        elif source.role == "target":
            _check_patients(study, source, source.cases)


def make_cohort(place: Workplace, *, study: TaskTransfer, source: Source) -> Outcome:
    """Write the phantom cohort where it is one, and prepare every labelled case once."""
    if source.phantom is not None and not source.folder.is_dir():
        _write_phantom(study, source)
    cohort = open_source(source)
    empty = sum(not _label_of(case).any() for case in prepared(place.out, source, cohort, cohort.labelled))
    return Outcome([], {"cases": len(cohort.labelled), "empty": empty})


def prepared(out: Path, source: Source, cohort: Cohort, cases: Iterable[Case]) -> list[PreparedCase]:
    """Cases at their scans' own spacing, one channel, every structure of the role as a code.

    Raises:
        DataError: a case that cannot be read.
    """
    settings = Preparation(structures_of(cohort, source), (MODALITY[source.role],))
    cache = Cache(out / "cache")
    return [cache.prepared(case, cohort, settings) for case in cases]


def structures_of(cohort: Cohort, source: Source) -> tuple[str, ...]:
    """What is segmented in a cohort of this role, by the cohort's own names.

    Raises:
        DataError: its label map is not of this role.
    """
    known = set(cohort.label_map or {})
    found = next((names for names in STRUCTURES[source.role] if known.issuperset(names)), None)
    if found is not None:
        return found
    other = "target" if source.role == "source" else "source"
    swapped = any(known.issuperset(names) for names in STRUCTURES[other])
    raise DataError(
        f"cohort {source.name}: has role {source.role} and needs labels of "
        f"{' or '.join(' and '.join(names) for names in STRUCTURES[source.role])}, and its label map names "
        f"{', '.join(sorted(known))}; "
        + (
            f"that is a {WORDS[other]} cohort: were two --data folders mixed up?"
            if swapped
            else "declare label_map in cohort.toml"
        ),
        code="label-codes",
    )


def source_parts(study: TaskTransfer, cohort: Cohort) -> Parts:
    """Hippocampus patients to train on, and some to see what was learnt."""
    split = split_by_patient(cohort, seed=derive(study.seed, "source"), val=0.0, test=TEST_SHARE)
    return Parts((*split.train, *split.val), split.test)


def target_parts(study: TaskTransfer, cohort: Cohort, *, number: int) -> Parts:
    """The glioma patients that seed `number` trains on and tests."""
    deal = derive(study.seed, "deal", study.deal_of(number))
    split = deal_folds(cohort, k=study.folds, seed=deal, val=0.0)[study.fold_of(number)]
    return Parts((*split.train, *split.val), split.test)


def opened(data: Data, role: str) -> tuple[Source, Cohort]:
    """The cohort of a role, and where it comes from."""
    source = source_of(data, role)
    return source, open_source(source)


def _check_real(study: TaskTransfer, source: Source) -> None:
    cohort = open_source(source)
    if not cohort.labelled:
        raise DataError(
            f"cohort {source.name}: no case has a label, and a study needs expert labels to train and judge",
            code="missing",
        )
    structures = structures_of(cohort, source)
    _check_patients(study, source, len({case.patient for case in cohort.labelled}))
    with_structure = 0
    for case in cohort.labelled:
        if MODALITY[source.role] not in case.images:
            raise DataError(
                f"cohort {source.name}: case {case.name} has no {MODALITY[source.role]}, which role "
                f"{source.role} is segmented on; it has {', '.join(case.images)}",
                code="missing",
            )
        with_structure += bool(expert_label(case, cohort, structures).array.any())
    if with_structure < 2:
        raise DataError(
            f"cohort {source.name}: {with_structure} of {len(cohort.labelled)} labelled cases hold any "
            f"{' or '.join(structures)}; there is nothing to learn",
            code="missing",
        )


def _check_patients(study: TaskTransfer, source: Source, patients: int) -> None:
    if source.role == "source":
        if patients < 2:
            raise InputError(f"cohort {source.name}: {patients} labelled patient; at least 2 are needed")
        return
    trained = patients - -(-patients // study.folds)
    if patients < study.folds or trained < 2:
        raise InputError(
            f"cohort {source.name}: {patients} labelled patients for {study.folds} folds leave "
            f"{max(trained, 0)} to train on; give more, or set folds lower in a copy of the study's file"
        )


def _write_phantom(study: TaskTransfer, source: Source) -> None:
    seed = derive(study.seed, "phantom", source.name)
    if source.role == "target":
        write_phantom(
            source.folder,
            phantom=str(source.phantom),
            cases=source.cases,
            seed=seed,
            spacing_mm=PHANTOM_SPACING_MM,
        )
        return
    with made_whole(source.folder) as draft:
        write_proxy(
            draft, phantom=str(source.phantom), heads=source.cases, seed=seed, spacing_mm=PHANTOM_SPACING_MM
        )


def _label_of(case: PreparedCase) -> np.ndarray:
    assert case.label is not None
    return case.label
