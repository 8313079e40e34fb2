"""The two arms of a finished study side by side, and how sure a difference between them is.

A patient is tested by several seeds. `Contrast` holds the interval over seeds, corrected for the patients
that their splits share, and beside it what patients say, each averaged over the seeds that tested it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, TypeVar

from common.errors import InputError
from simulation.study.page import Results
from simulation.study.resampling import Estimate, Interval, Ratio, bootstrap_mean, ratio_of_means
from simulation.study.results import Row
from simulation.study.statistics import (
    FoldSize,
    SignedRank,
    TTest,
    corrected_t,
    mean_test_share,
    paired_t,
    wilcoxon,
)
from simulation.study.task_transfer.convergence import SHARE, Convergence, averaged, first_reach
from simulation.study.task_transfer.settings import ARMS, REGION, SCRATCH, TRANSFER, TaskTransfer, arm_job

METRICS = ("dice", "hd95", "assd", "masd")
MILD_SHARE = 0.9
"""Of a run's best average: our own, milder sign of convergence, on which no verdict rests."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Contrast:
    """Transfer minus scratch in one metric.

    Attributes:
        mean: over patients, each averaged over its seeds.
        published: plain paired t over seeds, as if their splits shared nobody; None where it has none.
        corrected: the same with the variance of Nadeau and Bengio.
        patients: mean over patients with its bootstrap interval.
        ranks: Wilcoxon's test over patients.
    """

    mean: float
    published: TTest | None
    corrected: TTest | None
    patients: Estimate | None
    ranks: SignedRank

    @property
    def interval(self) -> Interval | None:
        """What a verdict rests on: the corrected interval, the bootstrap's where there is none."""
        if self.corrected is not None:
            return self.corrected.interval
        return None if self.patients is None else self.patients.interval


@dataclass(frozen=True)
class Found:
    """The numbers of a finished study.

    Attributes:
        study: what was compared.
        results: all of it.
    """

    study: TaskTransfer
    results: Results

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Rows of tested patients' tumours."""
        return tuple(row for row in self.results.rows if row.region == REGION and row.case != "all")

    def facts(self, arm: str, number: int) -> Mapping[str, Any]:
        """What the job of one arm of one seed told."""
        return self.results.facts[arm_job(arm, number)]

    def by_patient(self, arm: str, metric: str) -> dict[str, float]:
        """Patient -> mean over cases and seeds, in order of name."""
        owner: dict[str, str] = {}
        for number in self.study.numbers:
            owner |= self.facts(arm, number)["patients"]
        return _means((owner[row.case], row.value) for row in self._of(arm, metric))

    def by_seed(self, arm: str, metric: str) -> dict[int, float]:
        """Seed -> mean over its tested patients."""
        return _means((row.seed, row.value) for row in self._of(arm, metric))

    def mean(self, arm: str, metric: str) -> float:
        """Over patients, each averaged over its seeds."""
        return fmean(self.by_patient(arm, metric).values())

    def contrast(self, metric: str) -> Contrast:
        """Transfer minus scratch, with every interval."""
        seeds = _minus(self.by_seed(TRANSFER, metric), self.by_seed(SCRATCH, metric))
        patients = _minus(self.by_patient(TRANSFER, metric), self.by_patient(SCRATCH, metric))
        share = mean_test_share([self._size(number) for number in self.study.numbers])
        return Contrast(
            mean=fmean(patients),
            published=_or_none(lambda: paired_t(seeds)),
            corrected=_or_none(lambda: corrected_t(seeds, test_share_ratio=share)),
            patients=_or_none(lambda: bootstrap_mean(patients, seed=self.study.seed)),
            ranks=wilcoxon(patients),
        )

    def convergence(self, arm: str, *, curve: str = "dice") -> dict[int, Convergence]:
        """Seed -> when the arm converged, by validation Dice or by training loss."""
        return {
            number: Convergence(**self.facts(arm, number)["convergence"][curve])
            for number in self.study.numbers
        }

    def ratio(self, *, curve: str = "dice") -> Ratio:
        """Epochs until convergence, scratch over transfer; a censored run counts its budget."""
        above, below = (list(self.convergence(arm, curve=curve).values()) for arm in (SCRATCH, TRANSFER))
        return ratio_of_means(
            [one.epoch for one in above],
            [one.epoch for one in below],
            seed=self.study.seed,
            censored=([one.censored for one in above], [one.censored for one in below]),
        )

    def early(self, arm: str) -> dict[int, int]:
        """Seed -> the first epoch whose average reaches `MILD_SHARE` of the run's best; never censored."""
        found = {}
        for number in self.study.numbers:
            curve = self.facts(arm, number)["dice"]
            found[number] = first_reach(curve, MILD_SHARE * float(averaged(curve).max())) or len(curve)
        return found

    def early_ratio(self) -> Ratio:
        """Of those epochs, scratch over transfer."""
        above, below = (list(self.early(arm).values()) for arm in (SCRATCH, TRANSFER))
        return ratio_of_means(above, below, seed=self.study.seed)

    def catch_up(self, number: int) -> int | None:
        """The first epoch at which transfer reaches 0.99 of scratch's best average; None if it never does."""
        best = float(averaged(self.facts(SCRATCH, number)["dice"]).max())
        return first_reach(self.facts(TRANSFER, number)["dice"], SHARE * best)

    def empties(self) -> dict[str, int]:
        """Rule for empty masks -> how many judged cases it scored, over both arms."""
        rules = [
            rule for arm in ARMS for number in self.study.numbers for rule in self.facts(arm, number)["rules"]
        ]
        return {rule: rules.count(rule) for rule in ("both-empty", "missed", "false")}

    def _of(self, arm: str, metric: str) -> list[Row]:
        return [row for row in self.rows if row.approach == arm and row.metric == metric]

    def _size(self, number: int) -> FoldSize:
        facts = self.facts(TRANSFER, number)
        return FoldSize(train=int(facts["trained"]), test=len(set(facts["patients"].values())))


def _means(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: fmean(values) for key, values in sorted(found.items())}


def _minus(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> list[float]:
    return [ours[key] - theirs[key] for key in ours]


def _or_none(compute: Callable[[], _T]) -> _T | None:
    """None where a test has nothing to hold the mean against."""
    try:
        return compute()
    except InputError:
        return None
