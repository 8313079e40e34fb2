"""The charts and pictures of such a study: every case, differences, learning curves, best and worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from simulation import charts
from simulation.study.comparison import Comparison
from simulation.study.page import Chart, Results, Shown
from simulation.study.pictures import Picture
from simulation.study.site_transfer.claims import leading
from simulation.study.site_transfer.contrasts import Pair, forest_rows
from simulation.study.site_transfer.scores import Scores
from simulation.study.site_transfer.settings import SiteTransfer, job_name

Points = dict[str, list[list[tuple[float, float]]]]
"""Name of a curve -> its repetitions -> (x, value)."""


def dots_chart(scores: Scores) -> Chart:
    """Mean Dice of each target case under each approach."""
    groups = {
        site: [
            charts.Dots(label, tuple(values[case] for case in sorted(values)))
            for name, label in scores.labels.items()
            if (values := scores.at((site,), name))
        ]
        for site in scores.targets
    }
    words = (
        "Mean Dice of each target test case, by approach: a mark for each case; the upright bar and the "
        "number are their mean. Marks in different rows are the same cases."
    )
    return Chart(
        charts.dot_chart(
            {site: rows for site, rows in groups.items() if rows},
            x_label="Dice, mean over structures (one mark per test case)",
            summary=words,
            left=charts.room_for(list(scores.labels.values())),
        ),
        words,
    )


def forest_chart(scores: Scores, dice: Mapping[Pair, Comparison]) -> Chart:
    """Differences to the baseline and to the reference."""
    study = scores.study
    groups = {
        f"minus {scores.labels[other]}": forest_rows(scores, dice, other)
        for other in dict.fromkeys((study.baseline, study.reference))
        if other in scores.labels
    }
    words = (
        "Difference of mean Dice on the same target patients, with the 95 % interval of the corrected t; "
        f"right of 0 is better. The broken line is the non-inferiority margin of {study.margin:g}."
    )
    return Chart(
        charts.forest_chart(
            {name: rows for name, rows in groups.items() if rows},
            x_label="difference of mean Dice (approach minus the other)",
            summary=words,
            margin=study.margin,
        ),
        words,
    )


def curve_charts(results: Results, study: SiteTransfer, labels: Mapping[str, str]) -> tuple[Chart, ...]:
    """Validation Dice at the target and training loss: by step, and by round for the federations."""
    return (
        _curves(_steps(results, study, labels), "step", "validation Dice", "validation Dice"),
        _curves(
            _rounds(results, study, "curve"),
            "global model after round (0: first model)",
            "validation Dice",
            "validation Dice",
        ),
        _curves(_steps(results, study, labels, key="loss"), "step", "training loss", "training loss"),
        _curves(_rounds(results, study, "loss"), "round", "training loss", "training loss"),
    )


def _curves(points: Points, x_label: str, y_label: str, what: str) -> Chart:
    bands = [charts.Band(name, _points(repeated)) for name, repeated in points.items() if repeated]
    words = (
        f"Mean {what} by {x_label.split(' (')[0]}, for {'; '.join(points)}. Lines are means over folds, "
        "bands reach from the lowest to the highest fold."
    )
    return Chart(charts.band_chart(bands, x_label=x_label, y_label=y_label, summary=words), words)


def _points(repeated: Sequence[Sequence[tuple[float, float]]]) -> tuple[charts.Point, ...]:
    by_x: dict[float, list[float]] = {}
    for curve in repeated:
        for x, value in curve:
            by_x.setdefault(x, []).append(value)
    return tuple(
        charts.Point(x, fmean(values), min(values), max(values)) for x, values in sorted(by_x.items())
    )


def _steps(results: Results, study: SiteTransfer, labels: Mapping[str, str], *, key: str = "curve") -> Points:
    """Centralised curves; an approach that goes on from another begins where that one ended."""
    found: Points = {}
    for name, approach in study.approaches.items():
        before = study.approaches.get(approach.start)
        offset = study.steps_of(before.steps) if before else 0
        folds = range(study.folds) if approach.by_fold else (-1,)
        for fold in folds:
            facts = results.facts.get(job_name(name, fold), {})
            curve = _curve(facts, key)
            if curve:
                found.setdefault(labels.get(name, name), []).append(
                    [(offset + step, value) for step, value in curve]
                )
    return found


def _curve(facts: Mapping[str, Any], key: str) -> list[tuple[float, float]]:
    """(step, value) of a job; its losses are means over the stretch that ends at the curve's step."""
    curve = facts.get("curve") or []
    if key == "loss":
        steps = [step for step, _ in curve]
        curve = list(zip(steps, facts.get("loss") or [], strict=False))
    return [(float(step), float(value)) for step, value in curve if value is not None]


def _rounds(results: Results, study: SiteTransfer, key: str) -> Points:
    found: Points = {}
    for name, run in study.federations.items():
        label = run.labels.get(run.rows.get("federated", ""), name)
        for fold in range(study.folds):
            facts = results.facts.get(job_name(name, fold), {})
            values = facts.get(key) or []
            pairs = enumerate(values, start=1) if key == "loss" else ((x, value) for x, value in values)
            curve = [(float(x), float(value)) for x, value in pairs if value is not None]
            if curve:
                found.setdefault(label, []).append(curve)
    return found


def best_and_worst(results: Results, scores: Scores) -> tuple[Shown, ...]:
    """The best and worst target case of the best approach that left pictures, and under the baseline."""
    study = scores.study
    pictures = {name: _pictures(results, study, name, scores.targets) for name in study.approaches}
    candidates = [name for name in scores.adapted if pictures.get(name)]
    best = leading(scores, candidates)
    if best is None:
        return ()
    values = scores.at(scores.targets, best[0])
    order = sorted((case for case in values if case in pictures[best[0]]), key=lambda case: -values[case])
    chosen = dict(zip(("Best", "Worst"), dict.fromkeys((order[0], order[-1])), strict=False)) if order else {}
    return tuple(
        _shown(scores, case, rank=rank, approach=best[0], pictures=pictures) for rank, case in chosen.items()
    )


def _shown(
    scores: Scores, case: str, *, rank: str, approach: str, pictures: Mapping[str, Mapping[str, Picture]]
) -> Shown:
    baseline = scores.study.baseline
    before = pictures.get(baseline, {}).get(case)
    names = [approach, *([baseline] if before else [])]
    told = [f"{scores.labels[name]} {scores.at(scores.targets, name)[case]:.3f}" for name in names]
    return Shown(
        pictures[approach][case],
        f"{rank} target case ({scores.site[case]}) of {scores.labels[approach]}: mean Dice {', '.join(told)}",
        scores.structures,
        model=scores.labels[approach],
        others=((scores.labels[baseline], before),) if before else (),
    )


def _pictures(results: Results, study: SiteTransfer, name: str, sites: Sequence[str]) -> dict[str, Picture]:
    """Case -> picture of an approach at some sites, from all its folds."""
    folds = range(study.folds) if study.approaches[name].by_fold else (-1,)
    return {
        f"{picture.site}/{picture.case}": picture
        for fold in folds
        for picture in results.pictures(job_name(name, fold))
        if picture.site in sites
    }
