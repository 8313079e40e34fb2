"""What the report of a task-transfer study says."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import cast

from simulation.study.page import Page, Results, Section, notices_of
from simulation.study.task_transfer import drawings
from simulation.study.task_transfer.claims import (
    NAMES,
    contrast_text,
    published_table,
    range_text,
    ratio_text,
    value_text,
    verdicts,
)
from simulation.study.task_transfer.contrasts import METRICS, MILD_SHARE, Found
from simulation.study.task_transfer.convergence import FURTHER, SHARE, WINDOW, WITHIN
from simulation.study.task_transfer.pieces import SOURCE_JOB
from simulation.study.task_transfer.settings import (
    ARMS,
    SCRATCH,
    SOURCE_MODEL,
    SOURCE_REGION,
    TRANSFER,
    TaskTransfer,
    source_of,
)
from simulation.tables import Table
from simulation.wording import UNKNOWN, count_text, dice_text

FEW = 20
"""Patients below which the page says in words how little they show."""


def page(results: Results) -> Page:
    """The page."""
    found = Found(cast(TaskTransfer, results.study), results)
    claims = verdicts(found)
    return Page(
        title="From hippocampus to gross tumour volume: transfer against training from scratch",
        lead=_lead(found),
        notices=_notices(found),
        verdicts=claims,
        main=_main_table(found),
        sections=(
            Section(
                "Learning curves",
                "curves",
                (
                    "Both arms see the same crops in the same order under the same learning rate; only the "
                    "weights "
                    "that they start from differ. The tested patients give the curve, and nothing is chosen "
                    "by "
                    "them: the last model is judged.",
                ),
                charts=drawings.mean_curves(found),
            ),
            _convergence_section(found),
            _differences_section(found),
            Section("Best and worst patient", "patients", shown=drawings.best_and_worst(found)),
            _told_section(found),
            _source_section(found),
            Section("Curves of every seed", "seeds", charts=drawings.seed_curves(found), folded=True),
            Section(
                "What the paper says, and what it does not",
                "paper",
                (
                    "Not public are the network, the sequences, voxel spacing and crops, loss and learning "
                    "rate, "
                    "the sizes of the split, the test, and what was called converged. What is used here "
                    "instead "
                    "is this study's own choice, and its numbers cannot be compared with the paper's; only "
                    "the "
                    "direction can.",
                ),
                tables=(published_table(),),
            ),
        ),
    )


def _lead(found: Found) -> str:
    dice, ratio = found.contrast("dice"), found.ratio()
    return (
        f"Transfer from the hippocampus model changed Dice by {contrast_text(dice, 'dice')}: "
        f"{dice_text(found.mean(TRANSFER, 'dice'))} against {dice_text(found.mean(SCRATCH, 'dice'))} from "
        f"scratch, over {count_text(len(found.by_patient(TRANSFER, 'dice')), 'patient')} and "
        f"{count_text(found.study.seeds, 'seed')}. Epochs until convergence, scratch over transfer: "
        f"{ratio_text(ratio)}."
    )


def _notices(found: Found) -> tuple[str, ...]:
    patients = len(found.by_patient(TRANSFER, "dice"))
    return (*notices_of(found.results.data, shows_slices=True), *_small_notice(patients), *_box_notice(found))


def _small_notice(patients: int) -> Iterator[str]:
    if patients < FEW:
        yield (
            f"{patients} patients were tested. Intervals over seeds are about repeating this on the same "
            f"patients; what other patients would show, {patients} cannot say, and a difference that is not "
            "seen here may well be there."
        )


def _box_notice(found: Found) -> Iterator[str]:
    if found.study.drawn:
        yield (
            "The networks are told where the tumour is and about how large: they see a box around it, drawn "
            "too large and off the middle, in training and when judged, as the hippocampus crops tell too. "
            "Dice of a network that must find the tumour itself would be lower."
        )


def _main_table(found: Found) -> Table:
    rows = []
    for arm in ARMS:
        runs = found.convergence(arm).values()
        rows.append(
            (
                arm,
                *(value_text(found.mean(arm, metric), metric) for metric in METRICS),
                f"{fmean(one.epoch for one in runs):.1f}",
                f"{sum(one.censored for one in runs)} of {len(runs)}",
            )
        )
    ratio = found.ratio().estimate
    differences = (
        "transfer minus scratch",
        *(
            contrast_text(found.contrast(metric), metric).replace("95 % interval ", "").replace(" mm", "")
            for metric in METRICS
        ),
        f"ratio {ratio.value:.2f} ({ratio.interval.low:.2f} to {ratio.interval.high:.2f})",
        "",
    )
    return Table(
        "Tested patients in their scans' own grids: mean over patients, each averaged over its seeds",
        ("arm", "Dice", "HD95, mm", "ASSD, mm", "MASD, mm", "epochs", "censored"),
        tuple(rows),
        groups=(("", 1), ("agreement with the expert", 4), ("until convergence", 2)),
        footer=(differences,),
    )


def _convergence_section(found: Found) -> Section:
    epochs = found.study.epochs
    reached = sum(found.catch_up(number) is not None for number in found.study.numbers)
    rows = []
    for number in found.study.numbers:
        runs = {
            curve: [found.convergence(arm, curve=curve)[number] for arm in ARMS] for curve in ("dice", "loss")
        }
        reach = found.catch_up(number)
        rows.append(
            (
                str(number),
                *(f"{one.epoch}{' (censored)' if one.censored else ''}" for one in runs["dice"]),
                *(str(found.early(arm)[number]) for arm in ARMS),
                UNKNOWN if reach is None else str(reach),
                *(f"{one.epoch}{' (censored)' if one.censored else ''}" for one in runs["loss"]),
            )
        )
    return Section(
        "Epochs until convergence",
        "convergence",
        (
            f"The rule: the first epoch whose average over {WINDOW} epochs reaches {SHARE} of the run's best "
            f"average and stays within {WITHIN} for {FURTHER} further ones. A run without such an epoch is "
            f"censored and counts its budget of {epochs}; the first epoch that can be reached is {WINDOW}, "
            f"the last {epochs - FURTHER}. Each run is measured against its own best, so one that never "
            "learns much can converge early: read the epochs beside Dice.",
            f"By Dice, scratch over transfer: {ratio_text(found.ratio())}. By training loss, with the "
            f"same rule turned round: {ratio_text(found.ratio(curve='loss'))}.",
            "Two additions of our own, on which no verdict rests, since on few patients a curve is too "
            f"restless for the rule. The first epoch whose average reaches {MILD_SHARE} of the run's best, "
            f"scratch over transfer: {ratio_text(found.early_ratio())}. And the first at which transfer's "
            f"average reaches {SHARE} of the best that the same seed reached from scratch: in {reached} of "
            f"{found.study.seeds} seeds it ever does.",
        ),
        tables=(
            Table(
                "Epochs until convergence of each seed",
                ("seed", *ARMS, *ARMS, "transfer reaches scratch", *ARMS),
                tuple(rows),
                groups=(
                    ("", 1),
                    ("by Dice", 2),
                    (f"{MILD_SHARE} of the best", 2),
                    ("", 1),
                    ("by training loss", 2),
                ),
            ),
        ),
    )


def _differences_section(found: Found) -> Section:
    rows = []
    for metric in METRICS:
        one = found.contrast(metric)
        tests = [one.published, one.corrected]
        rows.append(
            (
                NAMES[metric],
                contrast_text(one, metric),
                *(UNKNOWN if test is None else f"{test.p:.3f}" for test in tests),
                f"{one.ranks.p:.3f}",
                UNKNOWN if one.patients is None else range_text(one.patients.interval, metric),
            )
        )
    return Section(
        "How sure the differences are",
        "differences",
        (
            "Verdicts rest on the interval over seeds with the variance of Nadeau and Bengio, since the "
            "seeds' "
            "splits share patients. The plain paired t-test takes them as independent and is shown as such. "
            "Wilcoxon's test and the bootstrap are over patients, each averaged over the seeds that tested "
            "it. "
            "ASSD pools the distances of both surfaces, MASD is the mean of the two directed means; the "
            "paper "
            "does not say which its ASD is. No p-value is corrected for testing several metrics.",
        ),
        tables=(
            Table(
                "Transfer minus scratch",
                ("metric", "difference", "paired t", "corrected t", "Wilcoxon", "interval over patients"),
                tuple(rows),
                groups=(("", 2), ("p", 3), ("bootstrap", 1)),
            ),
        ),
        charts=(drawings.difference_chart(found), drawings.patient_dots(found)),
    )


def _told_section(found: Found) -> Section:
    study, empty = found.study, found.empties()
    trained = sorted({found.facts(TRANSFER, number)["trained"] for number in study.numbers})
    outside = [value for number in study.numbers for value in found.facts(TRANSFER, number)["outside"]]
    box = (
        "A box is a cube around the structure, on average 1.8 times its longest extent and off its middle "
        "by up to "
        f"8 % of the edge, resampled to {study.edge} voxels along its longest side; {study.boxes} are drawn "
        "around each training tumour, one around each tested one, the same for both arms."
        if study.drawn
        else f"The whole head is resampled to {study.edge} voxels along its longest side; no box is given."
    )
    return Section(
        "What the networks were given",
        "given",
        (
            box,
            f"GTV is the tumour core on T1 with gadolinium. Each seed trains on "
            f"{' or '.join(map(str, trained))} patients; every patient is tested by "
            f"{study.seeds // study.folds} of {study.seeds} seeds. Steps of a run: {study.epochs} epochs of "
            f"{study.steps_per_epoch}, {study.batch_size} crops each.",
            f"Of the judged pairs of masks, over both arms, {empty['both-empty']} were empty on both sides "
            f"(Dice 1, 0 mm), in {empty['missed']} nothing was found of a tumour that is there, and in "
            f"{empty['false']} something was found where the expert saw none (both Dice 0 and the image's "
            "diagonal). A case without a core is shown whole, since there is nothing to draw a box around. "
            f"{sum(value > 0 for value in outside)} tested boxes cut off a part of the tumour, which counts "
            "as "
            "missed.",
            f"The hippocampus model's head is {study.head}"
            + (" and fine-tuned with the rest." if study.head == "kept" else " for a fresh one."),
        ),
    )


def _source_section(found: Found) -> Section:
    facts, source = found.results.facts[SOURCE_JOB], source_of(found.results.data, "source")
    cells = []
    for metric in METRICS:
        values = [
            row.value
            for row in found.results.rows
            if (row.approach, row.region, row.metric) == (SOURCE_MODEL, SOURCE_REGION, metric)
        ]
        cells.append(value_text(fmean(values), metric))
    return Section(
        "The hippocampus model",
        "source",
        (
            f"Trained once on {count_text(int(facts['train']), 'crop')} of cohort {source.name}, and judged "
            "on "
            f"{facts['test']} of other patients: what transfer starts from.",
        ),
        tables=(
            Table(
                "Hippocampus, tested crops",
                ("model", "Dice", "HD95, mm", "ASSD, mm", "MASD, mm"),
                (("hippocampus", *cells),),
            ),
        ),
    )
