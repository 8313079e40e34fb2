"""Whether the three findings of the paper hold here."""

from __future__ import annotations

from typing import Literal

from simulation.study.bundle_shift.settings import HEALTHY
from simulation.study.bundle_shift.shift import (
    Residual,
    Scores,
    parts_of,
    recovered_systematic,
    recovered_tumour,
    residual,
)
from simulation.study.bundle_shift.tally import estimate_text
from simulation.study.page import Verdict
from simulation.study.resampling import Estimate

HALF = 0.5
"""Share from which a part counts as recovered; declared before the study was run (science.md B1)."""

DROP = "A model trained on healthy subjects drops on patients."
SYSTEMATIC = "Fine-tuning recovers the systematic part of the drop (acquisition and preprocessing)."
TUMOUR = "Fine-tuning does not recover the part that comes from large deformation by the tumour."

Held = Literal["yes", "no", "undecided"]


def verdicts(scores: Scores) -> tuple[Verdict, ...]:
    """The three findings, over all bundles and modalities."""
    drop = parts_of(scores, HEALTHY).total
    systematic, tumour = recovered_systematic(scores), recovered_tumour(scores)
    error = residual(scores, "displacement")
    return (
        Verdict(DROP, above(drop), f"Drop {estimate_text(drop)} Dice over all; {_drops(scores)}."),
        Verdict(
            SYSTEMATIC,
            "undecided" if systematic.share is None else beyond_half(systematic.share),
            f"Lost before {estimate_text(systematic.before)}, after {estimate_text(systematic.after)} Dice; "
            f"recovered {_share_text(systematic.share)}; half of it counts as recovered. "
            f"{_shares(scores, systematic=True)}",
        ),
        Verdict(
            TUMOUR,
            not_recovered(tumour.share, error),
            f"Lost before {estimate_text(tumour.before)}, after {estimate_text(tumour.after)} Dice; "
            f"recovered {_share_text(tumour.share)}. Error for each mm of displacement "
            f"{estimate_text(error.slope if error else None)} Dice. {_shares(scores, systematic=False)}",
        ),
    )


def undecidable(drop: Estimate) -> tuple[Verdict, ...]:
    """The three findings where patients are real and have no twin."""
    words = "Real patients have no tumour-free twin at either protocol; see near and far bundles."
    return (
        Verdict(
            DROP, above(drop), f"Drop {estimate_text(drop)} Dice over all, other people than the healthy."
        ),
        Verdict(SYSTEMATIC, "undecided", words),
        Verdict(TUMOUR, "undecided", words),
    )


def above(drop: Estimate) -> Held:
    """Whether there is a drop: `yes` where all of the interval lies above 0."""
    if drop.interval.low > 0:
        return "yes"
    return "no" if drop.interval.high < 0 else "undecided"


def beyond_half(share: Estimate) -> Held:
    """Whether more than half was recovered."""
    if share.interval.low > HALF:
        return "yes"
    return "no" if share.interval.high < HALF else "undecided"


def not_recovered(share: Estimate | None, error: Residual | None) -> Held:
    """Whether less than half was recovered, and what is left grows with displacement."""
    if share is None or error is None:
        return "undecided"
    if share.interval.low > HALF or error.slope.interval.high < 0:
        return "no"
    if share.interval.high < HALF and error.slope.interval.low > 0:
        return "yes"
    return "undecided"


def _drops(scores: Scores) -> str:
    pairs = [(modality, bundle) for modality in scores.modalities for bundle in scores.bundles]
    sure = sum(
        above(parts_of(scores, HEALTHY, modality=modality, bundle=bundle).total) == "yes"
        for modality, bundle in pairs
    )
    return f"the interval lies above 0 for {sure} of {len(pairs)} pairs of modality and bundle"


def _shares(scores: Scores, *, systematic: bool) -> str:
    """How many of the pairs of modality and bundle agree by their point values."""
    recovered = recovered_systematic if systematic else recovered_tumour
    shares = [
        recovered(scores, modality=modality, bundle=bundle).share
        for modality in scores.modalities
        for bundle in scores.bundles
    ]
    stated = [share.value for share in shares if share is not None]
    agree = sum((value > HALF) == systematic for value in stated)
    side = "more" if systematic else "less"
    return (
        f"Stated for {len(stated)} of {len(shares)} pairs of modality and bundle, {side} than half "
        f"in {agree}."
    )


def _share_text(share: Estimate | None) -> str:
    return (
        "not stated, since the interval of the loss touches 0" if share is None else estimate_text(share, 2)
    )
