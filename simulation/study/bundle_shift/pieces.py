"""The pieces of such a study: heads, one healthy model a modality, and its fine-tuned ones fold by fold."""

from __future__ import annotations

from simulation.study.bundle_shift.cohorts import (
    bundles_of,
    check_real,
    cohort_job,
    make_cell,
    make_healthy,
    prepared,
    split_of,
)
from simulation.study.bundle_shift.judging import judge
from simulation.study.bundle_shift.settings import (
    AT_HOME,
    HEALTHY,
    PATIENTS,
    TRAINED,
    TUNED,
    BundleShift,
    approach_name,
    cells,
    patient_source,
)
from simulation.study.bundle_shift.training import (
    MODEL,
    Course,
    fresh_network,
    load_network,
    train_network,
)
from simulation.study.jobs import Job, Outcome, Workplace
from simulation.study.pictures import keep
from simulation.study.spec import Data

WATCHED = 2
"""Test subjects whose Dice a training curve shows."""


def check(study: BundleShift, data: Data) -> None:
    """Refuse what cannot work before anything is made: see `cohorts.check_real`.

    Raises:
        InputError: in words, naming the cohort or case.
    """
    check_real(study, data)


def jobs(study: BundleShift, data: Data) -> list[Job]:
    """Cohorts, healthy models, their judgement cell by cell, then fold by fold what is fine-tuned."""
    common = {"study": study, "data": data}
    patients = sum(len(names) for names in split_of(study, data).folds)
    made = [Job("cohorts/healthy", make_healthy, common, cost=1.0)]
    made += [
        Job(cohort_job(cell), make_cell, {**common, "cell": cell}, cost=patients / 20) for cell in cells(data)
    ]
    needs = tuple(job.name for job in made)
    trained, judged, tuned = [], [], []
    for modality in study.modalities:
        one = {**common, "modality": modality}
        trained.append(Job(healthy_job(modality), train_healthy, one, needs=needs, cost=study.steps / 250))
        judged += [
            Job(
                f"{healthy_job(modality)}/{cell}",
                judge_healthy,
                {**one, "cell": cell},
                needs=(*needs, healthy_job(modality)),
                cost=patients / 40,
            )
            for cell in (AT_HOME, *cells(data))
        ]
        tuned += [
            Job(
                tuned_job(modality, fold),
                fine_tune,
                {**one, "fold": fold},
                needs=(*needs, healthy_job(modality)),
                cost=study.tune_steps / 250 + patients / study.folds / 10,
            )
            for fold in range(study.folds)
        ]
    return made + trained + judged + tuned


def healthy_job(modality: str) -> str:
    """The job that trains on healthy subjects."""
    return f"healthy/{modality}"


def tuned_job(modality: str, fold: int) -> str:
    """The job that fine-tunes and judges in a fold."""
    return f"fold-{fold + 1}/{modality}"


def train_healthy(place: Workplace, *, study: BundleShift, data: Data, modality: str) -> Outcome:
    """Train on healthy subjects under the source protocol; leaves model.safetensors."""
    split, bundles = split_of(study, data), bundles_of(study, data)
    cases = prepared(place, data, TRAINED, split.train, modality=modality)
    watched = prepared(place, data, AT_HOME, split.at_home[:WATCHED], modality=modality)
    model = fresh_network(study, channels=len(cases[0].image), bundles=len(bundles))
    course = Course(cases, watched, study.steps, study.learning_rate, ("healthy", modality))
    return Outcome([], {**train_network(place.folder, model, study, course), "steps": study.steps})


def judge_healthy(place: Workplace, *, study: BundleShift, data: Data, modality: str, cell: str) -> Outcome:
    """Judge the model of the healthy on every subject of a cell; keeps pictures of the patients."""
    split, bundles = split_of(study, data), bundles_of(study, data)
    model = load_network(study, place.of(healthy_job(modality)) / MODEL, bundles=len(bundles))
    fold_of = dict.fromkeys(split.at_home, -1) if cell == AT_HOME else split.fold_of
    rows, pictures = judge(
        place,
        model,
        study=study,
        data=data,
        modality=modality,
        cell=cell,
        fold_of=fold_of,
        approach=approach_name(modality, HEALTHY),
    )
    if cell == PATIENTS:
        keep(place.folder, pictures)
    return Outcome(rows)


def fine_tune(place: Workplace, *, study: BundleShift, data: Data, modality: str, fold: int) -> Outcome:
    """Train the healthy model further on the other folds' patients, and judge this fold's in all cells."""
    split, bundles = split_of(study, data), bundles_of(study, data)
    names = [name for other, part in enumerate(split.folds) if other != fold for name in part]
    model = load_network(study, place.of(healthy_job(modality)) / MODEL, bundles=len(bundles))
    tested = split.folds[fold]
    course = Course(
        prepared(place, data, PATIENTS, names, modality=modality),
        prepared(place, data, PATIENTS, tested[:WATCHED], modality=modality),
        study.tune_steps,
        study.tune_learning_rate,
        ("tuned", modality, fold),
    )
    facts = train_network(place.folder, model, study, course)
    rows = []
    for cell in cells(data):
        more, pictures = judge(
            place,
            model,
            study=study,
            data=data,
            modality=modality,
            cell=cell,
            fold_of=dict.fromkeys(tested, fold),
            approach=approach_name(modality, TUNED),
        )
        rows += more
        if cell == PATIENTS:
            keep(place.folder, pictures)
    return Outcome(rows, {**facts, "steps": study.tune_steps, "trained_on": len(names)})


def source_is_phantom(data: Data) -> bool:
    """Whether the patients were made up, and so have twins."""
    return patient_source(data).phantom is not None
