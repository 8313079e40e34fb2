"""The charts and pictures of such a study."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from simulation import charts
from simulation.charts import Band, Difference, Dots, Point
from simulation.study.page import Chart, Shown
from simulation.study.pictures import Picture
from simulation.study.resampling import Interval
from simulation.study.results import Row
from simulation.study.task_transfer.contrasts import Found
from simulation.study.task_transfer.convergence import WINDOW, averaged
from simulation.study.task_transfer.settings import ARMS, REGION, SCRATCH, TRANSFER, arm_job

LABELS = {"dice": "Dice of tested patients", "loss": "training loss"}


def mean_curves(found: Found) -> tuple[Chart, ...]:
    """Both arms' curves, averaged over five epochs: mean over seeds, and their range."""
    drawn = []
    for curve, label in LABELS.items():
        bands = []
        for arm in ARMS:
            runs = [averaged(found.facts(arm, number)[curve]) for number in found.study.numbers]
            columns = zip(*(run.tolist() for run in runs), strict=True)
            bands.append(Band(arm, tuple(_point(at, values) for at, values in enumerate(columns, WINDOW))))
        words = (
            f"{label.capitalize()} by epoch under both arms, averaged over the last {WINDOW} epochs: mean "
            f"over {len(found.study.numbers)} seeds, and the range from the lowest to the highest."
        )
        drawn.append(Chart(charts.band_chart(bands, x_label="epoch", y_label=label, summary=words), words))
    return tuple(drawn)


def seed_curves(found: Found) -> tuple[Chart, ...]:
    """Both arms' curves of each seed, epoch by epoch."""
    drawn = []
    for number in found.study.numbers:
        for curve, label in LABELS.items():
            bands = [
                Band(arm, tuple(_point(at, (y,)) for at, y in enumerate(found.facts(arm, number)[curve], 1)))
                for arm in ARMS
            ]
            words = f"Seed {number}: {label} by epoch under both arms."
            svg = charts.band_chart(bands, x_label="epoch", y_label=label, summary=words, height=220)
            drawn.append(Chart(svg, words))
    return tuple(drawn)


def patient_dots(found: Found) -> Chart:
    """Dice of each patient under both arms."""
    rows = [Dots(arm, tuple(found.by_patient(arm, "dice").values())) for arm in ARMS]
    words = "Dice of each patient, averaged over the seeds that tested it; the bar is their mean."
    return Chart(charts.dot_chart({"": rows}, x_label="Dice", summary=words), words)


def difference_chart(found: Found) -> Chart:
    """Transfer minus scratch in Dice, over seeds (corrected) and over patients (bootstrap)."""
    contrast = found.contrast("dice")
    rows = []
    if contrast.corrected is not None:
        interval = contrast.corrected.interval
        rows.append(_difference("over seeds, corrected", contrast.corrected.mean, interval))
    if contrast.patients is not None:
        rows.append(_difference("over patients, bootstrap", contrast.mean, contrast.patients.interval))
    words = "Dice, transfer minus scratch, with 95 % intervals; right of 0 transfer is better."
    svg = charts.forest_chart(
        {"transfer minus scratch": rows},
        x_label="difference in Dice",
        summary=words,
        margin=found.study.margin,
    )
    return Chart(svg, words)


def best_and_worst(found: Found) -> tuple[Shown, ...]:
    """The patients with the largest and smallest Dice under transfer, in the first deal of patients."""
    numbers = [number for number in found.study.numbers if found.study.deal_of(number) == 0]
    pictures = {arm: _pictures(found, arm, numbers) for arm in ARMS}
    dice = {arm: {row.case: row.value for row in found.rows if _is_of(row, arm, numbers)} for arm in ARMS}
    order = sorted(pictures[TRANSFER], key=lambda case: -dice[TRANSFER][case])
    chosen = dict(zip(("Best", "Worst"), dict.fromkeys((order[0], order[-1])), strict=False)) if order else {}
    return tuple(
        Shown(
            pictures[TRANSFER][case],
            f"{rank} patient of transfer: Dice {dice[TRANSFER][case]:.3f}, {dice[SCRATCH][case]:.3f} from "
            "scratch",
            (REGION,),
            model=TRANSFER,
            others=((SCRATCH, pictures[SCRATCH][case]),),
        )
        for rank, case in chosen.items()
    )


def _is_of(row: Row, arm: str, numbers: Sequence[int]) -> bool:
    return row.approach == arm and row.metric == "dice" and row.seed in numbers


def _difference(name: str, value: float, interval: Interval) -> Difference:
    return Difference(name, value, (interval.low, interval.high))


def _point(at: int, values: Sequence[float]) -> Point:
    return Point(float(at), fmean(values), min(values), max(values))


def _pictures(found: Found, arm: str, numbers: Sequence[int]) -> dict[str, Picture]:
    return {
        picture.case: picture
        for number in numbers
        for picture in found.results.pictures(arm_job(arm, number))
    }
