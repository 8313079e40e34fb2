"""The numbers of such a study by approach, metric and region, case by case.

A source case is judged by the model of every fold and enters with the mean over folds; a target case is
judged once, in the fold in which its patient is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from common.data.cases import STRUCTURES
from simulation.study.comparison import Design
from simulation.study.page import Results
from simulation.study.results import MEAN
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.study.statistics import FoldSize

Values = Mapping[str, float]
"""Case, as `site/name`, -> value."""


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        study: whose numbers they are.
        structures: of the task, in their order.
        labels: approach -> its name in tables, centralised ones first; those that have numbers.
        values: (approach, metric, region) -> case -> value.
        site: case -> its site.
        fold: case of a target site -> the fold in which it was tested.
        patient: case -> its patient.
        sizes: fold -> patients of the target sites.
        targets: names of the target sites.
    """

    study: SiteTransfer
    structures: tuple[str, ...]
    labels: Mapping[str, str]
    values: Mapping[tuple[str, str, str], Values]
    site: Mapping[str, str]
    fold: Mapping[str, int]
    patient: Mapping[str, str]
    sizes: Mapping[int, FoldSize]
    targets: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites, in the order of the results."""
        return tuple(dict.fromkeys(self.site.values()))

    @property
    def design(self) -> Design:
        """Folds and patients of the target sites, for comparisons."""
        return Design(self.fold, self.sizes, self.patient)

    @property
    def adapted(self) -> tuple[str, ...]:
        """Approaches but the baseline."""
        return tuple(name for name in self.labels if name != self.study.baseline)

    def at(
        self, sites: Sequence[str], approach: str, metric: str = "dice", region: str = MEAN
    ) -> dict[str, float]:
        """Case -> value at some sites; empty where it was not measured."""
        known = self.values.get((approach, metric, region), {})
        return {case: value for case, value in known.items() if self.site[case] in sites}

    def mean(
        self, sites: Sequence[str], approach: str, metric: str = "dice", region: str = MEAN
    ) -> float | None:
        """Mean over the patients of some sites; None where nothing was measured."""
        values = self.by_patient(self.at(sites, approach, metric, region))
        return fmean(values.values()) if values else None

    def by_patient(self, values: Values) -> dict[str, float]:
        """Patient -> mean over that patient's cases."""
        cases: dict[str, list[float]] = {}
        for case, value in values.items():
            cases.setdefault(self.patient[case], []).append(value)
        return {patient: fmean(cases[patient]) for patient in sorted(cases)}


def scores_of(results: Results) -> Scores:
    """The numbers of a finished study of this kind."""
    study = results.study
    assert isinstance(study, SiteTransfer)
    collected: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    site, fold = {}, {}
    targets = tuple(source.name for source in results.data.role("target"))
    for row in results.rows:
        case = f"{row.site}/{row.case}"
        of = collected.setdefault((row.approach, row.metric, row.region), {})
        of.setdefault(case, []).append(row.value)
        site[case] = row.site
        if row.site in targets:
            fold[case] = row.fold
    patient = _patients(results, site)
    judged = {approach for approach, _, _ in collected}
    return Scores(
        study=study,
        structures=STRUCTURES[str(study.plan.get("task", {}).get("kind", "glioma"))],
        labels={name: label for name, label in labels_of(study).items() if name in judged},
        values={key: {case: fmean(values) for case, values in of.items()} for key, of in collected.items()},
        site=site,
        fold=fold,
        patient=patient,
        sizes=_sizes(results, fold, patient),
        targets=targets,
    )


def labels_of(study: SiteTransfer) -> dict[str, str]:
    """Approach -> its name in tables, centralised ones first."""
    named = {name: approach.label for name, approach in study.approaches.items()}
    for run in study.federations.values():
        named |= {name: run.labels[name] for name in run.rows.values()}
    return named


def _patients(results: Results, site: Mapping[str, str]) -> dict[str, str]:
    """Case -> patient, as the cohort's job wrote down; a case that it does not name is its own patient."""
    known = {
        f"{source.name}/{case}": f"{source.name}/{patient}"
        for source in results.data.sources
        for case, patient in results.facts.get(f"cohorts/{source.name}", {}).get("patients", {}).items()
    }
    return {case: known.get(case, case) for case in site}


def _sizes(results: Results, fold: Mapping[str, int], patient: Mapping[str, str]) -> dict[int, FoldSize]:
    """Fold -> target patients trained on and judged, as the cohorts' jobs wrote down."""
    everyone = {patient[case] for case in fold}
    trained: dict[int, int] = {}
    for source in results.data.role("target"):
        for number, count in enumerate(results.facts.get(f"cohorts/{source.name}", {}).get("trained", [])):
            trained[number] = trained.get(number, 0) + count
    sizes = {}
    for number in sorted(set(fold.values())):
        tested = len({patient[case] for case in fold if fold[case] == number})
        sizes[number] = FoldSize(train=max(trained.get(number, len(everyone) - tested), 1), test=tested)
    return sizes
