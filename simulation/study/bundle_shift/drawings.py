"""The charts and pictures of such a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from markupsafe import Markup

from simulation import charts
from simulation.axes import LEFT, RIGHT, Frame, grid, marker, room, svg, text, ticks
from simulation.study.bundle_shift.pieces import healthy_job, tuned_job
from simulation.study.bundle_shift.settings import (
    HEALTHY,
    PATIENTS,
    TUNED,
    BundleShift,
    approach_name,
)
from simulation.study.bundle_shift.shift import Scores, parts_of
from simulation.study.bundle_shift.tally import ALL, MODALITY_NAMES
from simulation.study.page import Chart, Results, Shown
from simulation.study.pictures import Picture
from simulation.study.resampling import Estimate

Dot = tuple[float, float]


def parts_chart(scores: Scores) -> Chart:
    """The drop and its parts under the model of the healthy, by modality."""
    groups: dict[str, list[charts.Difference]] = {}
    for modality in (*scores.modalities, None):
        parts = parts_of(scores, HEALTHY, modality=modality)
        for part in ("total", "systematic", "tumour", "interaction"):
            estimate: Estimate = getattr(parts, part)
            groups.setdefault(part, []).append(
                charts.Difference(
                    ALL if modality is None else MODALITY_NAMES[modality],
                    estimate.value,
                    (estimate.interval.low, estimate.interval.high),
                    strong=modality is None,
                )
            )
    words = (
        "Dice lost under the models of the healthy, and the parts of it, over all bundles, with 95 % "
        "intervals over patients; right of 0 is lost."
    )
    return Chart(charts.forest_chart(groups, x_label="Dice lost", summary=words), words)


def displacement_chart(scores: Scores) -> Chart:
    """Residual error of every bundle of every patient against its displacement."""
    clouds: dict[str, list[Dot]] = {}
    for bundle in scores.bundles:
        found, moved = scores.mean(TUNED, PATIENTS, bundle=bundle), scores.anatomy("displacement", bundle)
        clouds[bundle] = [(moved[patient], 1 - found[patient]) for patient in found if patient in moved]
    words = (
        "Residual error 1 - Dice of the fine-tuned models on patients (mean over modalities) against mean "
        "displacement of the bundle by the tumour: one mark for each bundle of each patient."
    )
    return Chart(
        scatter_chart(clouds, x_label="mean displacement, mm", y_label="1 - Dice", summary=words), words
    )


def scatter_chart(
    clouds: Mapping[str, Sequence[Dot]], *, x_label: str, y_label: str, summary: str, height: int = 320
) -> Markup:
    """Marks (x, y) in named groups, with a key at the right; nothing where there is no mark.

    Args:
        clouds: name -> marks.
        x_label: with its unit.
        y_label: with its unit.
        summary: what the chart shows, for those who do not see it.
        height: of the chart, pixels.
    """
    dots = [dot for cloud in clouds.values() for dot in cloud]
    if not dots:
        return Markup("")
    x_ticks = ticks(min(0.0, *(x for x, _ in dots)), max(x for x, _ in dots), 8)
    y_ticks = ticks(min(0.0, *(y for _, y in dots)), max(y for _, y in dots), 5)
    frame = Frame(
        (x_ticks[0], x_ticks[-1]),
        (y_ticks[0], y_ticks[-1]),
        height,
        left=LEFT,
        right=room(list(clouds), least=RIGHT),
    )
    body = [*grid(frame, y_ticks, x_ticks, x_label=x_label, y_label=y_label)]
    for index, (name, cloud) in enumerate(clouds.items()):
        body += [marker(frame.at_x(x), frame.at_y(y), index, f"{name}: {x:.2f}, {y:.3f}") for x, y in cloud]
        at_x, at_y = frame.at_x(x_ticks[-1]) + 14, 22 + 17 * index
        body += [marker(at_x, at_y, index, name), text(at_x + 9, at_y + 4, name, "")]
    return svg(body, height, summary)


def curve_charts(results: Results, study: BundleShift) -> tuple[Chart, ...]:
    """Dice of watched test subjects and training loss, by step."""
    charts_ = []
    for key, label in (("curve", "Dice"), ("loss", "training loss")):
        for words, jobs in (
            ("training on healthy subjects", {m: [healthy_job(m)] for m in study.modalities}),
            (
                "fine-tuning on patients",
                {m: [tuned_job(m, fold) for fold in range(study.folds)] for m in study.modalities},
            ),
        ):
            bands = [
                charts.Band(MODALITY_NAMES[m], _points(results, names, key)) for m, names in jobs.items()
            ]
            summary = (
                f"{label[0].upper()}{label[1:]} during {words}, by step; bands are the range over folds."
            )
            drawn = charts.band_chart(bands, x_label=f"step of {words}", y_label=label, summary=summary)
            charts_.append(Chart(drawn, summary))
    return tuple(charts_)


def best_and_worst(results: Results, scores: Scores, study: BundleShift) -> tuple[Shown, ...]:
    """The patients of the largest and smallest mean Dice after fine-tuning, under the best modality."""
    ranked = sorted(
        (fmean(values.values()), modality)
        for modality in scores.modalities
        if (values := scores.mean(TUNED, PATIENTS, modality=modality))
    )
    if not ranked:
        return ()
    modality = ranked[-1][1]
    after = _pictures(results, [tuned_job(modality, fold) for fold in range(study.folds)])
    before = _pictures(results, [f"{healthy_job(modality)}/{PATIENTS}"])
    dice = {name: scores.mean(name, PATIENTS, modality=modality) for name in (HEALTHY, TUNED)}
    order = sorted((case for case in dice[TUNED] if case in after), key=lambda case: -dice[TUNED][case])
    chosen = dict(zip(("Best", "Worst"), dict.fromkeys((order[0], order[-1])), strict=False)) if order else {}
    return tuple(
        Shown(
            after[case],
            f"{rank} patient of {approach_name(modality, TUNED)}: mean Dice {dice[TUNED][case]:.3f}, "
            f"{dice[HEALTHY][case]:.3f} before",
            scores.bundles,
            model=TUNED,
            others=((HEALTHY, before[case]),) if case in before else (),
        )
        for rank, case in chosen.items()
    )


def _points(results: Results, jobs: Sequence[str], key: str) -> tuple[charts.Point, ...]:
    by_x: dict[float, list[float]] = {}
    for job in jobs:
        facts = results.facts.get(job, {})
        curve = facts.get("curve") or []
        values = [y for _, y in curve] if key == "curve" else facts.get("loss") or []
        for (step, _), value in zip(curve, values, strict=False):
            by_x.setdefault(float(step), []).append(float(value))
    return tuple(charts.Point(x, fmean(ys), min(ys), max(ys)) for x, ys in sorted(by_x.items()))


def _pictures(results: Results, jobs: Sequence[str]) -> dict[str, Picture]:
    return {picture.case: picture for job in jobs for picture in results.pictures(job)}
