"""Which approaches are compared with which, declared before any number is looked at, and the tests of each.

The family that Holm's correction counts is `declared`: every contrast that the report shows for Dice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulation.charts import Difference
from simulation.study.comparison import Comparison, compare, with_holm
from simulation.study.resampling import Interval
from simulation.study.site_transfer.scores import Scores
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.tables import Table
from simulation.wording import UNKNOWN, gain_text

Pair = tuple[str, str]
"""Approach, and the one that it is compared with."""


@dataclass(frozen=True)
class Parts:
    """Which approach plays which part in the paper's claims; None where a study has none."""

    dann: str | None
    no_reversal: str | None
    full: str | None
    frozen: str | None


def parts_of(study: SiteTransfer) -> Parts:
    """The parts, read from what each approach does, not from its name."""

    def first(wanted: Mapping[str, object]) -> str | None:
        for name, approach in study.approaches.items():
            if all(getattr(approach, key) == value for key, value in wanted.items()):
                return name
        return None

    tuned = {"on": ["target"], "start": study.baseline, "alignment": "none"}
    return Parts(
        dann=first({"alignment": "dann"}),
        no_reversal=first({"alignment": "dann-no-reversal"}),
        full=first({**tuned, "trains": "all"}),
        frozen=first({**tuned, "trains": "frozen-decoder"}),
    )


def counterpart(study: SiteTransfer, approach: str) -> str | None:
    """The centralised approach that a federated one is the counterpart of; None where it is the reference."""
    for run in study.federations.values():
        if run.rows.get("federated") != approach:
            continue
        alignment = run.plan.get("alignment.method", "none")
        trains = run.plan.get("adaptation.trains", "all")
        for name, other in study.approaches.items():
            if name != study.baseline and (other.alignment, other.trains) == (alignment, trains):
                plain = alignment == "none" and trains == "all"
                return None if plain or name == study.reference else name
    return None


def federated_rows(study: SiteTransfer) -> list[str]:
    """Approaches that are models of a federated run."""
    return [name for run in study.federations.values() for name in run.rows.values()]


def declared(scores: Scores) -> list[Pair]:
    """Every contrast of the report, in the order of its tables."""
    study, parts = scores.study, parts_of(scores.study)
    pairs = [(name, study.baseline) for name in scores.adapted]
    pairs += [(name, study.reference) for name in scores.adapted]
    if parts.dann:
        pairs += [(parts.dann, name) for name in study.approaches if name != study.baseline]
    if parts.full and parts.frozen:
        pairs.append((parts.frozen, parts.full))
    for name in federated_rows(study):
        other = counterpart(study, name)
        if other:
            pairs.append((name, other))
    known = [pair for pair in pairs if pair[0] != pair[1] and set(pair) <= set(scores.labels)]
    return list(dict.fromkeys(known))


def compared(scores: Scores, pairs: Iterable[Pair], *, metric: str = "dice") -> dict[Pair, Comparison]:
    """Each contrast on the target sites' patients, adjusted for how many there are.

    Args:
        scores: the numbers.
        pairs: of one family; one whose approaches were not both measured is left out.
        metric: `dice`, or `hd95`, where less is better.
    """
    found = {}
    for approach, against in pairs:
        ours, theirs = (scores.at(scores.targets, name, metric) for name in (approach, against))
        if ours and theirs:
            found[f"{approach} {against}"] = compare(
                ours,
                theirs,
                design=scores.design,
                seed=scores.study.seed,
                margin=scores.study.margin,
                higher_is_better=metric != "hd95",
            )
    adjusted = with_holm(found)
    return {(name.split()[0], name.split()[1]): one for name, one in adjusted.items()}


def interval_of(found: Comparison) -> Interval | None:
    """The interval that verdicts go by: the corrected t's, or the bootstrap's where there is none."""
    if found.corrected:
        return found.corrected.interval
    return found.bootstrap.interval if found.bootstrap else None


def difference_text(found: Comparison, digits: int = 3, unit: str = "") -> str:
    """`+0.123 [+0.010, +0.236]`."""
    interval = interval_of(found)
    # The interval of the corrected test lies around the mean of the folds, which may be of unequal size.
    centre = found.mean if found.corrected is None else found.corrected.mean
    shown = gain_text(centre, digits) + unit
    return f"{shown} {interval_text(interval, digits)}" if interval else f"{shown} (no interval)"


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """`[low, high]`."""
    if interval is None:
        return UNKNOWN
    return f"[{gain_text(interval.low, digits)}, {gain_text(interval.high, digits)}]"


def statistics_table(
    scores: Scores, found: Mapping[Pair, Comparison], pairs: Sequence[Pair], *, caption: str, both: bool
) -> Table:
    """Every test of some contrasts side by side.

    Args:
        scores: for the names of approaches.
        found: the tests.
        pairs: which of them, in order.
        caption: of the table.
        both: whether a row names both approaches or the first alone.
    """
    rows = []
    for pair in pairs:
        if pair in found:
            names = [scores.labels[name] for name in pair]
            label = " against ".join(names) if both else names[0]
            rows.append((label, *_test_cells(found[pair])))
    return Table(
        caption,
        (
            "approach",
            "mean",
            "t",
            "p",
            "95 % interval",
            "p",
            "p, Holm",
            "p",
            "p, Holm",
            "95 % interval",
            "d_z",
        ),
        tuple(rows),
        groups=(
            ("", 1),
            ("difference", 1),
            ("plain t: as published, invalid", 2),
            ("corrected t (Nadeau and Bengio)", 3),
            ("Wilcoxon, patients", 2),
            ("bootstrap", 1),
            ("effect", 1),
        ),
    )


def _test_cells(one: Comparison) -> tuple[str, ...]:
    plain, corrected = one.as_published, one.corrected
    return (
        gain_text(one.mean),
        _number(plain.t if plain else None),
        p_text(plain.p if plain else None),
        interval_text(corrected.interval if corrected else None),
        p_text(corrected.p if corrected else None),
        p_text(one.corrected_holm),
        p_text(one.wilcoxon.p),
        p_text(one.wilcoxon_holm),
        interval_text(one.bootstrap.interval if one.bootstrap else None),
        _number(one.effect),
    )


def p_text(p: float | None) -> str:
    """A p-value, three digits."""
    return UNKNOWN if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else gain_text(value, 2)


def forest_rows(scores: Scores, found: Mapping[Pair, Comparison], against: str) -> list[Difference]:
    """Rows of a forest plot: every approach against one."""
    rows = []
    for (approach, other), one in found.items():
        if other == against and approach != against:
            interval = interval_of(one)
            limits = (interval.low, interval.high) if interval else None
            rows.append(Difference(scores.labels[approach], one.mean, limits))
    return rows


def notes_of(found: Mapping[Pair, Comparison]) -> tuple[str, ...]:
    """What could not be computed, each reason once."""
    notes = dict.fromkeys(note for one in found.values() for note in one.notes)
    return tuple(f"{note[0].upper()}{note[1:]}." for note in notes)
