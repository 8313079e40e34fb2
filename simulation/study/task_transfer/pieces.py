"""The pieces of such a study: cohorts, the hippocampus model, and both arms of every seed."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from common.checkpoint import load, save
from common.data.cases import Case, Cohort
from common.data.transforms import expert_label, read_as_seen
from common.data.volume import Volume
from common.learning.augmentation import Augmentation
from common.metrics import RegionScore, scores
from common.models.unet import UNet, exchange_head
from common.seeds import derive
from simulation.study.jobs import Job, Outcome, Workplace
from simulation.study.pictures import keep, take
from simulation.study.results import Row, metric_rows
from simulation.study.spec import Data, Source
from simulation.study.stretches import DRAFT
from simulation.study.task_transfer.cohorts import (
    MODALITY,
    Parts,
    check_cohorts,
    make_cohort,
    opened,
    prepared,
    source_parts,
    structures_of,
    target_parts,
)
from simulation.study.task_transfer.convergence import Convergence, converged
from simulation.study.task_transfer.crops import Crop, crop_of, restored
from simulation.study.task_transfer.settings import (
    ARMS,
    REGION,
    SOURCE_MODEL,
    SOURCE_REGION,
    TRANSFER,
    TaskTransfer,
    arm_job,
)
from simulation.study.task_transfer.training import (
    MODEL,
    STRONG,
    Course,
    found_in,
    fresh_network,
    train_network,
)

SOURCE_JOB = f"once/{SOURCE_MODEL}"
SOURCE_CHUNK = 50
"""Steps of the hippocampus model between two points of its curve."""


def check(study: TaskTransfer, data: Data) -> None:
    """Refuse what cannot work before any training; see `check_cohorts`."""
    check_cohorts(study, data)


def jobs(study: TaskTransfer, data: Data) -> list[Job]:
    """Cohorts, the hippocampus model, then seed by seed both arms."""
    made = [
        Job(f"cohorts/{source.name}", make_cohort, {"study": study, "source": source}, cost=0.2)
        for source in data.sources
    ]
    cohorts = tuple(job.name for job in made)
    given = {"study": study, "data": data}
    once = Job(SOURCE_JOB, train_source, given, needs=cohorts, cost=study.source_steps / 100)
    cost = study.epochs * study.steps_per_epoch / 100
    arms = [
        Job(
            arm_job(arm, number),
            train_arm,
            {**given, "arm": arm, "number": number},
            needs=(*cohorts, SOURCE_JOB) if arm == TRANSFER else cohorts,
            cost=cost,
        )
        for number in study.numbers
        for arm in ARMS
    ]
    return [*made, once, *arms]


def train_source(place: Workplace, *, study: TaskTransfer, data: Data) -> Outcome:
    """The hippocampus model, judged on patients of its own that it was not trained on."""
    source, cohort = opened(data, "source")
    parts = source_parts(study, cohort)
    train, test = _crops(place, study, source, cohort, parts, boxes=1, seed=study.seed)
    model = fresh_network(study, seed=derive(study.seed, "network", "source"))
    chunk = min(SOURCE_CHUNK, study.source_steps)
    course = Course(
        [crop.seen for crop in train],
        test,
        epochs=-(-study.source_steps // chunk),
        steps_per_epoch=chunk,
        learning_rate=study.source_learning_rate,
        stream=("source",),
        augmentation=Augmentation(),
    )
    facts = train_network(place.folder, model, study, course)
    save(place.folder / MODEL, model.state_dict(), {"kind": "study model", "preset": study.network})
    rows = []
    for case, crop in zip(parts.test, test, strict=True):
        of = Row(source.name, case.name, SOURCE_MODEL, -1, study.seed, SOURCE_REGION, "", 0.0, "")
        rows += score_rows(_judged(model, source, cohort, case, crop)[0], of=of)
    (place.folder / DRAFT).unlink(missing_ok=True)
    return Outcome(rows, {**facts, "train": len(parts.train), "test": len(parts.test)})


def train_arm(place: Workplace, *, study: TaskTransfer, data: Data, arm: str, number: int) -> Outcome:
    """One arm of one seed: train for the whole budget, judge the last model on the tested patients.

    Args:
        place: the job's.
        study: what is compared.
        data: on which cohorts.
        arm: `transfer` or `scratch`; they differ in the weights that they start from alone.
        number: the seed.
    """
    source, cohort = opened(data, "target")
    parts = target_parts(study, cohort, number=number)
    train, test = _crops(place, study, source, cohort, parts, boxes=study.boxes, seed=number)
    model = _start(place, study, arm, number=number)
    course = Course(
        [crop.seen for crop in train],
        test,
        epochs=study.epochs,
        steps_per_epoch=study.steps_per_epoch,
        learning_rate=study.learning_rate,
        stream=("target", number),
        augmentation=STRONG,
    )
    facts = train_network(place.folder, model, study, course)
    save(place.folder / MODEL, model.state_dict(), {"kind": "study model", "preset": study.network})
    of = Row(source.name, "all", arm, study.fold_of(number), number, REGION, "", 0.0, "")
    by_dice, by_loss = converged(facts["dice"]), converged(facts["loss"], falling=True)
    rows = [*_epoch_rows("dice", by_dice, of), *_epoch_rows("loss", by_loss, of)]
    pictures, rules = [], []
    for case, crop in zip(parts.test, test, strict=True):
        score, truth, found = _judged(model, source, cohort, case, crop)
        rows += score_rows(score, of=replace(of, case=case.name))
        rules.append(score.rule)
        scan = read_as_seen(case, MODALITY[source.role], source.degrade)
        pictures.append(take(scan, truth, found, site=source.name, case=case.name))
    keep(place.folder, pictures)
    (place.folder / DRAFT).unlink(missing_ok=True)
    told = {
        "convergence": {"dice": asdict(by_dice), "loss": asdict(by_loss)},
        "trained": len({case.patient for case in parts.train}),
        "patients": {case.name: case.patient for case in parts.test},
        "rules": rules,
        "outside": [crop.outside for crop in test],
    }
    return Outcome(rows, {**facts, **told})


def score_rows(score: RegionScore, *, of: Row) -> list[Row]:
    """Dice, HD95, and both readings of ASD: pooled (assd) and mean of the two directed means (masd)."""
    measured = {
        "dice": score.dice,
        "hd95": score.hd95_mm,
        "assd": score.assd_mm,
        "masd": score.masd_mm,
    }
    values = {metric: {of.region: value} for metric, value in measured.items()}
    return metric_rows(values, structures=(of.region,), of=of)


def _epoch_rows(curve: str, found: Convergence, of: Row) -> list[Row]:
    return [
        replace(of, metric=f"epochs_{curve}", value=float(found.epoch), unit="epoch"),
        replace(of, metric=f"censored_{curve}", value=float(found.censored), unit="1"),
    ]


def _start(place: Workplace, study: TaskTransfer, arm: str, *, number: int) -> UNet:
    """The network as an arm starts; an exchanged head is the same that the other arm starts with."""
    seed = derive(study.seed, "network", number)
    model = fresh_network(study, seed=seed)
    if arm == TRANSFER:
        model.load_state_dict(dict(load(place.of(SOURCE_JOB) / MODEL).tensors))
        if study.head == "exchanged":
            exchange_head(model, classes=2, seed=seed)
    return model


def _crops(
    place: Workplace,
    study: TaskTransfer,
    source: Source,
    cohort: Cohort,
    parts: Parts,
    *,
    boxes: int,
    seed: int,
) -> tuple[list[Crop], list[Crop]]:
    """Crops to train on, `boxes` of each case, and one of each tested case."""
    drawn = source.role == "target" and study.drawn
    train = prepared(place.out, source, cohort, parts.train)
    test = prepared(place.out, source, cohort, parts.test)
    given = [
        crop_of(case, edge=study.edge, drawn=drawn, seed=derive(study.seed, "train", seed, box))
        for case in train
        for box in range(boxes if drawn else 1)
    ]
    judged = derive(study.seed, "test", seed)
    return given, [crop_of(case, edge=study.edge, drawn=drawn, seed=judged) for case in test]


def _judged(
    model: UNet, source: Source, cohort: Cohort, case: Case, crop: Crop
) -> tuple[RegionScore, Volume, Volume]:
    """The score of a case in its scan's own grid, the expert's mask and the model's."""
    expert = expert_label(case, cohort, structures_of(cohort, source))
    truth = Volume((expert.array > 0).astype(np.uint8), expert.affine)
    found = Volume(restored(found_in(model, crop), crop), expert.affine)
    score = scores(found.array, truth.array, truth.spacing_mm, {REGION: (1,)})[REGION]
    return score, truth, found
