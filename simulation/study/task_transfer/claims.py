"""What the paper claims, and what this study's numbers say of it.

Tian et al. (Front Oncol 2022; 12:856346): 20 patients of one centre, one split of unknown size, P < 0.05 by a
test that is not named, no correction for several measures.
"""

from __future__ import annotations

from simulation.study.page import Verdict
from simulation.study.resampling import Interval, Ratio
from simulation.study.statistics import non_inferior
from simulation.study.task_transfer.contrasts import Contrast, Found
from simulation.study.task_transfer.settings import SCRATCH, TRANSFER
from simulation.tables import Table
from simulation.wording import count_text, gain_text

NAMES = {"dice": "Dice", "hd95": "HD95", "assd": "ASD (ASSD)", "masd": "ASD (MASD)"}
DIGITS = {"dice": 3, "hd95": 1, "assd": 2, "masd": 2}
UNITS = {"dice": "", "hd95": " mm", "assd": " mm", "masd": " mm"}
PUBLISHED = {"dice": ("0.940", "0.916"), "hd95": ("1.81", "2.58"), "assd": ("0.60", "0.76")}
"""Transfer and scratch, as published; which ASD is not said."""

TRANSFER_WITHIN, SCRATCH_BEYOND = 20, 50
"""Epochs: the paper's transfer converged within the first, its training from scratch not before the "
"second."""


def published_table() -> Table:
    """The paper's own numbers."""
    return Table(
        "As published: Tian et al. 2022, 20 patients, mean and standard deviation over test patients",
        ("arm", "DSC", "HD95, mm", "ASD, mm", "epochs"),
        (
            ("transfer", "0.9404 ± 0.0117", "1.8107 ± 0.3964", "0.6003 ± 0.1287", "at most 20"),
            ("scratch", "0.9158 ± 0.0178", "2.5761 ± 0.5365", "0.7579 ± 0.1468", "more than 50"),
        ),
    )


def verdicts(found: Found) -> tuple[Verdict, ...]:
    """Epochs, then Dice, HD95 and ASD."""
    return (speed(found), *(better(found, metric) for metric in PUBLISHED))


def speed(found: Found) -> Verdict:
    """It holds where the ratio is at least the declared one and the last Dice non-inferior."""
    study, ratio, dice = found.study, found.ratio(), found.contrast("dice")
    kept = None if dice.interval is None else non_inferior(dice.interval, study.margin)
    enough = _at_least(ratio, study.least_ratio)
    held = (
        "no"
        if "no" in (enough, {"inferior": "no"}.get(kept or ""))
        else "yes"
        if (enough, kept) == ("yes", "non-inferior")
        else "undecided"
    )
    within = sum(
        not one.censored and one.epoch <= TRANSFER_WITHIN for one in found.convergence(TRANSFER).values()
    )
    beyond = sum(one.epoch > SCRATCH_BEYOND for one in found.convergence(SCRATCH).values())
    return Verdict(
        f"Transfer converges in at most {TRANSFER_WITHIN} epochs, training from scratch in more than "
        f"{SCRATCH_BEYOND}. Reproduced if the ratio of epochs is at least {study.least_ratio:g} and the last "
        f"Dice non-inferior (margin {study.margin:g})",
        held,  # type: ignore[arg-type]
        f"ratio {ratio_text(ratio)}; Dice {contrast_text(dice, 'dice')}, {kept or 'not tested'}; transfer "
        "within "
        f"{TRANSFER_WITHIN} epochs in {within} of {study.seeds} seeds, scratch beyond {SCRATCH_BEYOND} in "
        f"{beyond}",
    )


def better(found: Found, metric: str) -> Verdict:
    """Whether transfer is better in one metric, by the interval that the corrected variance gives."""
    contrast = found.contrast(metric)
    ours, theirs = PUBLISHED[metric]
    return Verdict(
        f"Transfer has the better {NAMES[metric]} (paper: {ours} against {theirs}{UNITS[metric]}, P < 0.05)",
        _direction(contrast.interval, higher_is_better=metric == "dice"),  # type: ignore[arg-type]
        f"{value_text(found.mean(TRANSFER, metric), metric)} against "
        f"{value_text(found.mean(SCRATCH, metric), metric)}{UNITS[metric]}; "
        f"difference {contrast_text(contrast, metric)}; Wilcoxon over patients p {contrast.ranks.p:.2g}",
    )


def contrast_text(contrast: Contrast, metric: str) -> str:
    """A difference with the interval that its verdict rests on."""
    words = f"{gain_text(contrast.mean, DIGITS[metric])}{UNITS[metric]}"
    if contrast.interval is None:
        return words
    return f"{words} (95 % interval {range_text(contrast.interval, metric)})"


def value_text(value: float, metric: str) -> str:
    """A value in the digits of its metric, without its unit."""
    return f"{value:.{DIGITS[metric]}f}"


def range_text(interval: Interval, metric: str) -> str:
    """An interval of a difference, in the digits of its metric."""
    low, high = (gain_text(value, DIGITS[metric]) for value in (interval.low, interval.high))
    return f"{low} to {high}"


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval, and what censored runs make of it."""
    estimate = ratio.estimate
    interval = f"{estimate.interval.low:.2f} to {estimate.interval.high:.2f}"
    above, below = ratio.censored
    censored = {
        "exact": "no run censored",
        "at least": f"at least that, {count_text(above, 'run')} from scratch censored",
        "at most": f"at most that, {count_text(below, 'transfer run')} censored",
        "unknown": f"{count_text(above, 'run')} from scratch and {count_text(below, 'transfer run')} "
        "censored, so a bound in neither direction",
    }[ratio.bound]
    return f"{estimate.value:.2f} (95 % interval over seeds {interval}; {censored})"


def _at_least(ratio: Ratio, least: float) -> str:
    """Whether the true ratio is at least so much, as far as interval and censoring tell."""
    interval = ratio.estimate.interval
    if interval.low >= least and ratio.bound in ("exact", "at least"):
        return "yes"
    if interval.high < least and ratio.bound in ("exact", "at most"):
        return "no"
    return "undecided"


def _direction(interval: Interval | None, *, higher_is_better: bool) -> str:
    if interval is None or interval.low <= 0 <= interval.high:
        return "undecided"
    return "yes" if (interval.low > 0) == higher_is_better else "no"
