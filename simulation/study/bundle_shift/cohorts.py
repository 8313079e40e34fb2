"""Who is in the study: phantom heads written as TractSeg-like folders, or real ones; prepared once.

A phantom patient is one head with one tumour, imaged four times: with and without the tumour, by the
scanner of the healthy cohort (source protocol) and by that of the patients (clinical protocol). The four
lie in folders of their own, named after the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.data.cache import load_entry, packed
from common.data.cases import Case
from common.data.phantom.bundle_head import BundleHead, make_bundle_head, write_bundle_head
from common.data.phantom.bundles import TUBES
from common.data.phantom.sites import Profile, case_seed, site_profile
from common.data.tractseg import Subject, check_subject, open_tractseg, prepare, truth_of
from common.data.transforms import PreparedCase
from common.data.volume import read_label, same_grid
from common.errors import DataError, InputError
from common.files import write_atomic
from common.seeds import derive, generator
from simulation.study.bundle_shift.settings import (
    AT_HOME,
    CELLS,
    PATIENTS,
    TRAINED,
    BundleShift,
    healthy_source,
    patient_source,
)
from simulation.study.jobs import Outcome, Workplace
from simulation.study.results import Row
from simulation.study.spec import Data, Source

ANATOMY = "anatomy"
"""Approach of rows that say what the tumour did to a bundle, whatever a model says."""

LEAST_HEALTHY = 3
"""One to train on and two to test on: one alone shows no spread."""


@dataclass(frozen=True)
class Split:
    """Names of subjects: healthy ones to train and to test on, and patients by fold."""

    train: tuple[str, ...]
    at_home: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @property
    def fold_of(self) -> dict[str, int]:
        """Patient -> the fold in which it is tested, in the order of names."""
        return dict(sorted((name, fold) for fold, names in enumerate(self.folds) for name in names))


def check_real(study: BundleShift, data: Data) -> None:
    """Refuse real folders that cannot be used; reads lists of files and headers alone.

    Raises:
        InputError: one role is real and the other a phantom, too few patients or healthy subjects.
        DataError: a subject without masks, modality or one of the bundles, or with files on different grids.
    """
    sources = (healthy_source(data), patient_source(data))
    real = [source for source in sources if source.phantom is None]
    if len(real) == 1:
        raise InputError(
            f"cohort {real[0].name} is real and the other a phantom: their bundles and scans have nothing in "
            "common; give a folder for both"
        )
    for source in real:
        if source.degrade is not None:
            raise InputError(f"--degrade {source.name}: degrades glioma scans, not bundle folders")
    volumes: dict[str, int] = {}
    bundles = bundles_of(study, data)
    for source in real:
        for subject in open_tractseg(source.folder):
            found = check_subject(subject, modalities=study.modalities, bundles=bundles)
            if volumes and found != volumes:
                raise DataError(
                    f"case {subject.name}: its files hold {found} volumes, those of others {volumes}",
                    code="dimensions",
                )
            volumes = found
    split_of(study, data)


def bundles_of(study: BundleShift, data: Data) -> tuple[str, ...]:
    """The bundles that are learnt, in the order of a network's channels.

    Raises:
        DataError: real subjects have none, or more than eight of which none were chosen.
    """
    source = healthy_source(data)
    if source.phantom is not None:
        return tuple(TUBES)
    if study.bundles:
        return tuple(study.bundles)
    first = open_tractseg(source.folder)[0]
    check_subject(first, modalities=study.modalities, bundles=tuple(first.bundles)[:1])
    if len(first.bundles) > 8:
        raise DataError(
            f"case {first.name}: has {len(first.bundles)} bundles; name at most 8 in the study's key bundles",
            code="too-many",
        )
    return tuple(first.bundles)


def split_of(study: BundleShift, data: Data) -> Split:
    """Who trains and who tests: shuffled by the study's seed.

    Raises:
        InputError: fewer patients than folds, or fewer than three healthy subjects.
    """
    healthy = _shuffled(_names(healthy_source(data)), derive(study.seed, "healthy"))
    patients = _shuffled(_names(patient_source(data)), derive(study.seed, "patients"))
    if len(healthy) < LEAST_HEALTHY:
        raise InputError(
            f"cohort {healthy_source(data).name}: {len(healthy)} healthy subjects; at least {LEAST_HEALTHY} "
            "are needed, two of them to test on"
        )
    if len(patients) < study.folds:
        raise InputError(
            f"cohort {patient_source(data).name}: {len(patients)} patients for {study.folds} folds; give "
            "more, or set folds lower in a copy of the study's file"
        )
    kept = min(max(2, round(len(healthy) * study.healthy_test)), len(healthy) - 1)
    folds = tuple(tuple(patients[fold :: study.folds]) for fold in range(study.folds))
    return Split(train=tuple(healthy[kept:]), at_home=tuple(healthy[:kept]), folds=folds)


def make_healthy(place: Workplace, *, study: BundleShift, data: Data) -> Outcome:
    """Write the healthy heads where they are phantoms, and prepare every modality."""
    source = healthy_source(data)
    if source.phantom is not None:
        for name in _names(source):
            head = _head(study, source, name, protocol=source, tumour=False)
            write_bundle_head(source.folder / name, head)
    subjects = {subject.name: subject for subject in open_tractseg(source.folder)}
    _prepare(place, study, data, list(subjects.values()))
    return Outcome([], {"subjects": len(subjects), "phantom": source.phantom is not None})


def make_cell(place: Workplace, *, study: BundleShift, data: Data, cell: str) -> Outcome:
    """One cell's patients: written where they are phantoms, prepared, and what the tumour did as rows."""
    source, rows = patient_source(data), []
    fold_of = split_of(study, data).fold_of
    if source.phantom is not None:
        protocol = healthy_source(data) if CELLS[cell].protocol == "source" else source
        for name in _names(source):
            head = _head(study, source, name, protocol=protocol, tumour=CELLS[cell].tumour)
            write_bundle_head(source.folder / cell / name, head)
            if cell == PATIENTS:
                rows += _anatomy_rows(study, head, name, fold=fold_of[name])
    subjects = subjects_in(data, cell)
    _prepare(place, study, data, subjects)
    if source.phantom is None:
        rows += [
            row
            for subject in subjects
            for row in _distance_rows(study, data, subject, fold=fold_of[subject.name])
        ]
    return Outcome(rows, {"subjects": len(subjects), "lesions": sum(s.lesion is not None for s in subjects)})


def subjects_in(data: Data, cell: str) -> list[Subject]:
    """The subjects of a cell, of `AT_HOME` or of `TRAINED`, by name."""
    if cell in (AT_HOME, TRAINED):
        return list(open_tractseg(healthy_source(data).folder))
    source = patient_source(data)
    return list(open_tractseg(source.folder if source.phantom is None else source.folder / cell))


def cohort_job(cell: str) -> str:
    """The job that prepares a cell."""
    return f"cohorts/{'healthy' if cell in (AT_HOME, TRAINED) else cell}"


def prepared(
    place: Workplace, data: Data, cell: str, names: Sequence[str], *, modality: str
) -> list[PreparedCase]:
    """Prepared cases of a cell, in the order of `names`.

    Raises:
        DataError: an entry is damaged.
    """
    found = []
    for name in names:
        case = load_entry(_entry(place, cohort_job(cell), name, modality), Case(name, name, {}))
        if case is None:
            raise DataError(f"case {name}: its prepared {modality} is damaged; delete {cohort_job(cell)}")
        found.append(case)
    return found


def _prepare(place: Workplace, study: BundleShift, data: Data, subjects: Sequence[Subject]) -> None:
    bundles = bundles_of(study, data)
    for subject in subjects:
        for modality in study.modalities:
            case = prepare(subject, modality, bundles=bundles, spacing_mm=study.spacing_mm)
            file = _entry(place, place.name, subject.name, modality)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, packed(case))


def _entry(place: Workplace, job: str, name: str, modality: str) -> Path:
    return place.of(job) / "prepared" / f"{name}-{modality}.safetensors"


def _names(source: Source) -> list[str]:
    if source.phantom is None:
        return [subject.name for subject in open_tractseg(source.folder)]
    return [f"{source.name}-{number:03d}" for number in range(1, source.cases + 1)]


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    return [names[index] for index in generator(seed, "split").permutation(len(names))]


def _head(study: BundleShift, source: Source, name: str, *, protocol: Source, tumour: bool) -> BundleHead:
    """The head of one phantom subject; `protocol` is the cohort whose scanner takes the images."""
    profile: Profile = site_profile(str(source.phantom))
    scanner = site_profile(str(protocol.phantom)).scanner
    number = int(name.rpartition("-")[2])
    return make_bundle_head(
        replace(profile, scanner=scanner),
        seed=case_seed(derive(study.seed, "bundles"), source.name, number),
        spacing_mm=study.spacing_mm,
        tumour=tumour,
        diffusion=str(protocol.phantom),
    )


def _anatomy_rows(study: BundleShift, head: BundleHead, name: str, *, fold: int) -> list[Row]:
    measured: tuple[tuple[str, Mapping[str, float], str], ...] = (
        ("displacement", head.displacement_mm, "mm"),
        ("interrupted", head.interrupted, "1"),
        ("oedema", head.oedema, "1"),
    )
    return [
        Row(PATIENTS, name, ANATOMY, fold, study.seed, bundle, metric, values[bundle], unit)
        for metric, values, unit in measured
        for bundle in values
    ]


def _distance_rows(study: BundleShift, data: Data, subject: Subject, *, fold: int) -> list[Row]:
    """Distance in mm from the lesion's border to the nearest voxel of each bundle; none without a lesion."""
    if subject.lesion is None:
        return []
    bundles = bundles_of(study, data)
    truth, lesion = truth_of(subject, bundles), read_label(subject.lesion)
    if not same_grid(truth, lesion):
        raise DataError(f"case {subject.name}: the lesion lies on another grid than the masks", code="grid")
    if not lesion.array.any():
        return []
    away = ndimage.distance_transform_edt(lesion.array == 0, sampling=lesion.spacing_mm)
    rows = []
    for bit, bundle in enumerate(bundles):
        mask = (truth.array >> bit & 1).astype(np.bool_)
        if mask.any():
            distance = float(away[mask].min())
            rows.append(
                Row(PATIENTS, subject.name, ANATOMY, fold, study.seed, bundle, "distance", distance, "mm")
            )
    return rows
