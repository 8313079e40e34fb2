"""The tables of such a study's means: by region, lesion and site, and how far domains can be told apart."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from simulation.study.comparison import Comparison
from simulation.study.page import Results
from simulation.study.resampling import FEW_UNITS, bootstrap_mean
from simulation.study.results import MEAN
from simulation.study.site_transfer.contrasts import (
    Pair,
    counterpart,
    difference_text,
    federated_rows,
    interval_text,
    p_text,
)
from simulation.study.site_transfer.scores import Scores
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.tables import Table
from simulation.wording import UNKNOWN, dice_text, gain_text, mm_text

FAILED = 0.5
"""Mean Dice below which a case counts as failed."""


def main_table(scores: Scores) -> Table:
    """In the form of the paper's Table 2: Dice and HD95 of each structure and their mean."""
    regions = (*scores.structures, MEAN)
    rows = [
        (
            scores.labels[name],
            *(dice_text(scores.mean(scores.targets, name, "dice", region)) for region in regions),
            *(mm_text(scores.mean(scores.targets, name, "hd95", region)) for region in regions),
        )
        for name in scores.labels
    ]
    means = {name: scores.mean(scores.targets, name) or 0.0 for name in scores.labels}
    best = max(means.values(), default=0.0)
    shown = (*scores.structures, "average")
    return Table(
        f"Target test cases ({', '.join(scores.targets)}), mean over patients, each tested once; the best "
        "mean Dice stands out",
        ("approach", *shown, *shown),
        tuple(rows),
        groups=(
            ("", 1),
            ("Dice (higher is better)", len(shown)),
            ("HD95, mm (lower is better)", len(shown)),
        ),
        strong=tuple(number for number, mean in enumerate(means.values()) if mean == best),
    )


def lesion_table(scores: Scores) -> Table | None:
    """Lesion-wise scores of BraTS 2023, and whole-region Dice of the composed regions; None without them."""
    regions = [
        name
        for name in ("ET", "TC", "WT")
        if any((approach, "lesion_dice", name) in scores.values for approach in scores.labels)
    ]
    if not regions:
        return None
    composed = [name for name in regions if name not in scores.structures]
    rows = [
        (
            scores.labels[name],
            *(dice_text(scores.mean(scores.targets, name, "lesion_dice", region)) for region in regions),
            *(mm_text(scores.mean(scores.targets, name, "lesion_hd95", region)) for region in regions),
            *(dice_text(scores.mean(scores.targets, name, "dice", region)) for region in composed),
        )
        for name in scores.labels
    ]
    return Table(
        "As in BraTS 2023: lesions count alike, a missed or made-up one as Dice 0 and the image's diagonal",
        ("approach", *regions, *regions, *composed),
        tuple(rows),
        groups=(
            ("", 1),
            ("lesion-wise Dice", len(regions)),
            ("lesion-wise HD95, mm", len(regions)),
            ("Dice of the region", len(composed)),
        ),
    )


def spread_table(scores: Scores) -> Table:
    """How patients differ, and how often a structure was lost."""
    rows = []
    for name, label in scores.labels.items():
        each = sorted(scores.by_patient(scores.at(scores.targets, name)).values())
        if each:
            rows.append(
                (
                    label,
                    str(len(each)),
                    dice_text(fmean(each)),
                    dice_text(stdev(each) if len(each) > 1 else None),
                    dice_text(median(each)),
                    dice_text(float(np.quantile(each, 0.1))),
                    f"{sum(value < FAILED for value in each)}",
                    *(_lost_text(scores, name, region) for region in scores.structures),
                )
            )
    return Table(
        f"Mean Dice by patient, and cases by structure: Dice 0 (missed or made up) / Dice 1 (as a rule: "
        f"absent and not marked); failed is a mean Dice below {FAILED}",
        ("approach", "patients", "mean", "SD", "median", "worst tenth", "failed", *scores.structures),
        tuple(rows),
        groups=(("", 1), ("Dice, mean over structures", 6), ("Dice 0 / Dice 1", len(scores.structures))),
    )


def _lost_text(scores: Scores, approach: str, region: str) -> str:
    values = scores.at(scores.targets, approach, region=region).values()
    return f"{sum(value == 0 for value in values)} / {sum(value == 1 for value in values)}"


def sites_table(scores: Scores) -> Table:
    """Mean Dice at each site, their mean and the worst site."""
    rows = []
    for name, label in scores.labels.items():
        means = {site: scores.mean((site,), name) for site in scores.sites}
        known = {site: mean for site, mean in means.items() if mean is not None}
        if known:
            worst = min(known, key=lambda site: known[site])
            rows.append(
                (
                    label,
                    *(dice_text(mean) for mean in means.values()),
                    dice_text(fmean(known.values())),
                    f"{worst} {known[worst]:.3f}",
                )
            )
    return Table(
        "Mean Dice at each site's test patients; a source site keeps one test set, judged in every fold",
        ("approach", *scores.sites, "mean of sites", "worst site"),
        tuple(rows),
        groups=(("", 1), ("site", len(scores.sites)), ("over sites", 2)),
    )


def gaps_table(scores: Scores, dice: Mapping[Pair, Comparison]) -> Table | None:
    """Federated approaches against centralised ones on the target's patients; None without any."""
    study, rows = scores.study, []
    for name in federated_rows(study):
        for other in (study.reference, counterpart(study, name)):
            one = dice.get((name, other or ""))
            if one is not None and other is not None:
                by_patient = " (by bootstrap)" if one.verdict_from == "bootstrap" else ""
                verdict = f"{one.verdict or UNKNOWN}{by_patient}"
                rows.append(
                    (
                        scores.labels[name],
                        scores.labels[other],
                        difference_text(one),
                        interval_text(one.bootstrap.interval if one.bootstrap else None),
                        p_text(one.wilcoxon_holm),
                        verdict,
                    )
                )
    if not rows:
        return None
    return Table(
        f"Federated against centralised, target patients, mean Dice; non-inferiority margin {study.margin:g}",
        ("federated", "centralised", "gap, 95 % interval", "bootstrap interval", "p, Holm", "verdict"),
        tuple(rows),
        groups=(("", 2), ("corrected t", 1), ("patients", 1), ("Wilcoxon", 1), ("", 1)),
    )


def site_gaps_table(scores: Scores) -> Table | None:
    """Gap to the reference at each site; None without a federated approach."""
    reference, rows = scores.study.reference, []
    for name in federated_rows(scores.study):
        cells = [_site_gap(scores, name, reference, site) for site in scores.sites]
        if name in scores.labels and any(cell != UNKNOWN for cell in cells):
            rows.append((scores.labels[name], *cells))
    if not rows:
        return None
    return Table(
        f"Gap to {scores.labels.get(reference, reference)} at each site, mean Dice; intervals by bootstrap "
        f"of the site's patients, from {FEW_UNITS} of them",
        ("approach", *scores.sites),
        tuple(rows),
    )


def _site_gap(scores: Scores, approach: str, other: str, site: str) -> str:
    ours, theirs = (scores.at((site,), name) for name in (approach, other))
    shared = {case: ours[case] - theirs[case] for case in ours if case in theirs}
    each = list(scores.by_patient(shared).values())
    if not each:
        return UNKNOWN
    if len(each) < FEW_UNITS:
        return gain_text(fmean(each))
    return f"{gain_text(fmean(each))} {interval_text(bootstrap_mean(each, seed=scores.study.seed).interval)}"


def separability_table(scores: Scores, results: Results) -> Table | None:
    """How well a fresh probe tells source from target by frozen features; None where nobody looked."""
    rows = []
    for approach, found in separability_of(scores.study, results.facts).items():
        if approach in scores.labels:
            cells = [
                _range_text([one[key] for one in found if one.get(key) is not None])
                for key in ("balanced_accuracy", "auc", "chance")
            ]
            rows.append((scores.labels[approach], str(len(found)), *cells))
    if not rows:
        return None
    return Table(
        "A fresh linear probe on the frozen encoder, judged on patients that the probe has not seen (the "
        "encoder may have); chance is the largest AUC of 19 shuffles of the domains between patients",
        ("approach", "models", "balanced accuracy", "AUC", "chance"),
        tuple(rows),
        groups=(("", 2), ("mean (lowest to highest over folds)", 3)),
    )


def separability_of(
    study: SiteTransfer, facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Mapping[str, float]]]:
    """Approach -> what the probe found in each fold; of a federated run, of its global model."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for job, of in facts.items():
        measured, name = of.get("separability"), job.rpartition("/")[2]
        if not measured:
            continue
        if name in study.federations:
            name = study.federations[name].rows.get("federated", name)
        by_approach = measured if isinstance(next(iter(measured.values())), Mapping) else {name: measured}
        for approach, numbers in by_approach.items():
            found.setdefault(approach, []).append(numbers)
    return found


def _range_text(values: list[float]) -> str:
    if not values:
        return UNKNOWN
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}"
