"""The tables of such a study."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from simulation.study.bundle_shift.settings import CELLS, HEALTHY, PATIENTS, TUNED
from simulation.study.bundle_shift.shift import (
    Recovery,
    Scores,
    parts_of,
    recovered_systematic,
    recovered_tumour,
    residual,
)
from simulation.study.resampling import Estimate
from simulation.tables import Table
from simulation.wording import UNKNOWN, dice_text, gain_text, mm_text

MODALITY_NAMES = {"t1": "T1w", "fa": "FA-like", "peaks": "peak-like"}
ALL = "all"

EFFECTS = {
    "displacement": "displacement, mm",
    "interrupted": "share taken by the core",
    "oedema": "share in oedema",
}
"""What a tumour does to a bundle -> in words, with its unit."""


def estimate_text(estimate: Estimate | None, digits: int = 3) -> str:
    """A number with its sign and 95 % interval; a dash where there is none."""
    if estimate is None:
        return UNKNOWN
    low, high = (gain_text(limit, digits) for limit in (estimate.interval.low, estimate.interval.high))
    return f"{gain_text(estimate.value, digits)} [{low}, {high}]"


def subsets(scores: Scores) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, modality and bundle of every row: each pair, each modality over all bundles, everything."""
    for modality in scores.modalities:
        for bundle in scores.bundles:
            yield f"{MODALITY_NAMES[modality]}, {bundle}", modality, bundle
        yield f"{MODALITY_NAMES[modality]}, {ALL}", modality, None
    yield "all modalities, all bundles", None, None


def main_table(scores: Scores) -> Table:
    """One row a modality, and all of them together."""
    names = [(MODALITY_NAMES[modality], modality) for modality in scores.modalities]
    rows = [_summary(scores, name, modality, None) for name, modality in names]
    return Table(
        "Dice over all bundles: what patients lose under the model of the healthy, and what fine-tuning "
        "recovers",
        _SUMMARY_COLUMNS,
        tuple(rows),
        footer=(_summary(scores, "all", None, None),),
    )


def bundles_table(scores: Scores) -> Table:
    """Every bundle under every modality."""
    rows = list(subsets(scores))
    return Table(
        "The drop, its parts and what is recovered, by modality and bundle (Dice, mean over patients with "
        "its 95 % interval)",
        _SUMMARY_COLUMNS,
        tuple(_summary(scores, *row) for row in rows),
        strong=tuple(number for number, row in enumerate(rows) if row[2] is None),
    )


def cells_table(scores: Scores) -> Table:
    """Mean Dice and HD95 in every cell, before and after fine-tuning."""
    rows = []
    for modality in scores.modalities:
        for approach in (HEALTHY, TUNED):
            cells = []
            for metric, text in (("dice", dice_text), ("hd95", mm_text)):
                for cell in CELLS:
                    values = scores.mean(approach, cell, modality=modality, metric=metric).values()
                    cells.append(text(fmean(values)) if values else UNKNOWN)
            rows.append((f"{MODALITY_NAMES[modality]}, {approach}", *cells))
    words = tuple(cell.replace("-", ", ") for cell in CELLS)
    return Table(
        "The factorial: mean over bundles and patients in each cell",
        ("model", *words, *words),
        tuple(rows),
        groups=(("", 1), ("Dice", len(CELLS)), ("HD95, mm", len(CELLS))),
    )


def recovery_table(scores: Scores) -> Table:
    """What is lost at the clinical protocol before and after fine-tuning."""
    rows = []
    for name, modality, bundle in subsets(scores):
        if bundle is None:
            parts = [
                recovered(scores, modality=modality, bundle=bundle)
                for recovered in (recovered_systematic, recovered_tumour)
            ]
            rows.append((name, *(text for part in parts for text in _recovery_texts(part))))
    columns = ("before", "after", "recovered")
    return Table(
        "What fine-tuning recovers, at the clinical protocol (Dice)",
        ("", *columns, *columns),
        tuple(rows),
        groups=(("", 1), ("systematic", 3), ("tumour", 3)),
    )


def residual_table(scores: Scores) -> Table:
    """Residual error against displacement, by modality and bundle."""
    rows = []
    for name, modality, bundle in subsets(scores):
        found = residual(scores, "displacement", modality=modality, bundle=bundle)
        texts = (
            [estimate_text(part) for part in (found.slope, found.rank, found.beyond_twin)] if found else []
        )
        rows.append((name, *(texts or [UNKNOWN] * 3)))
    return Table(
        "Residual error 1 - Dice of the fine-tuned models on patients, against mean displacement",
        ("", "slope, per mm", "Spearman", "slope of the loss against the twin, per mm"),
        tuple(rows),
    )


def effects_table(scores: Scores) -> Table:
    """The same against everything that a tumour does to a bundle, which come together."""
    rows = []
    for metric, words in EFFECTS.items():
        values = [value for bundle in scores.bundles for value in scores.anatomy(metric, bundle).values()]
        found = residual(scores, metric)
        rows.append(
            (
                words,
                f"{fmean(values):.2f}" if values else UNKNOWN,
                f"{max(values):.2f}" if values else UNKNOWN,
                estimate_text(found.rank) if found else UNKNOWN,
            )
        )
    return Table(
        "What the tumours do to the bundles, and how the fine-tuned models' error goes with it",
        ("", "mean", "largest", "Spearman with 1 - Dice"),
        tuple(rows),
    )


_SUMMARY_COLUMNS = (
    "",
    "healthy model, source twin",
    "healthy model, patients",
    "fine-tuned, patients",
    "drop",
    "systematic",
    "tumour",
    "interaction",
    "R systematic",
    "R tumour",
)


def _summary(scores: Scores, name: str, modality: str | None, bundle: str | None) -> tuple[str, ...]:
    parts = parts_of(scores, HEALTHY, modality=modality, bundle=bundle)
    means = [
        fmean(scores.mean(approach, cell, modality=modality, bundle=bundle).values())
        for approach, cell in ((HEALTHY, "source-twin"), (HEALTHY, PATIENTS), (TUNED, PATIENTS))
    ]
    shares = [
        recovered(scores, modality=modality, bundle=bundle).share
        for recovered in (recovered_systematic, recovered_tumour)
    ]
    return (
        name,
        *map(dice_text, means),
        *(estimate_text(part) for part in (parts.total, parts.systematic, parts.tumour, parts.interaction)),
        *(estimate_text(share, 2) if share else "not stated" for share in shares),
    )


def _recovery_texts(part: Recovery) -> tuple[str, str, str]:
    share = estimate_text(part.share, 2) if part.share else "not stated"
    return estimate_text(part.before), estimate_text(part.after), share
