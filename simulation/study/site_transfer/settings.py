"""What the file of such a study says, and the one plan that all its approaches share.

Heras Rivera et al. (MIDL 2024) compare six centralised ways to bring an adult glioma model to a
sub-Saharan cohort. Here each is a row of the study's file, and so is each federated counterpart. One plan
says how all of them train; patients, folds, steps and seeds are shared. What the paper leaves open
(science.md A3, A4) is decided in the plan and in the rows, and is ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from client.site import Site
from common.plan import Plan
from common.plan import parse as parse_plan
from simulation.study.spec import Data, Name, Part, Source, Study

Share = Literal["total", "source", "rest"]


class Approach(Part):
    """A centralised way of training.

    Attributes:
        on: roles of the cohorts whose cases are pooled.
        start: `first` for the plan's first model, or the approach whose model is trained further.
        steps: `total`, `source` (what the source model gets) or `rest` (the others), so that every adapted
            model has seen the same number of steps.
    """

    label: str
    on: Annotated[list[Literal["source", "target"]], Field(min_length=1)]
    start: Name = "first"
    trains: Literal["all", "frozen-decoder", "frozen-encoder", "head", "norms"] = "all"
    steps: Share = "total"
    alignment: Literal["none", "dann", "dann-no-reversal", "dann-detached"] = "none"

    @property
    def by_fold(self) -> bool:
        """Whether it trains on target patients, and so once for each fold."""
        return "target" in self.on


class FederatedRun(Part):
    """One federated run a fold; each of its models may be a row of the table.

    Attributes:
        rows: model of the run (`federated`, `adapted`, `local_only`) -> approach; with the label of each.
        start: `first`, or the centralised approach whose model the federation starts from.
        plan: dotted keys that differ from the study's plan.
    """

    rows: Annotated[dict[Literal["federated", "adapted", "local_only"], Name], Field(min_length=1)]
    labels: dict[Name, str]
    start: Name = "first"
    steps: Share = "total"
    plan: dict[str, Any] = Field(default_factory=dict)


class SiteTransfer(Study):
    """A study of this kind.

    Attributes:
        folds: of each target cohort's patients; source cohorts keep one test set.
        steps, source_steps: training steps of an adapted model in all, and of the source model.
        rounds: of a federated run.
        weight: of the domain loss in an aligned approach, centralised or federated.
        plan: the plan that all approaches share, without name, seed and sites.
        baseline, reference: approaches that the statistics compare the others with.
    """

    kind: Literal["site-transfer"]
    folds: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=2)]
    source_steps: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(gt=0)] = 0.02
    curve_points: Annotated[int, Field(ge=1)] = 6
    margin: Annotated[float, Field(gt=0)] = 0.02
    plan: dict[str, Any]
    approaches: Annotated[dict[Name, Approach], Field(min_length=1)]
    federations: dict[Name, FederatedRun] = Field(default_factory=dict)
    baseline: Name
    reference: Name

    @model_validator(mode="after")
    def _fits_together(self) -> SiteTransfer:
        if {spec.role for spec in self.cohorts.values()} != {"source", "target"}:
            raise ValueError("the cohorts of a site-transfer study have the roles source and target, both")
        if self.source_steps >= self.steps:
            raise ValueError("source_steps must leave steps for the target")
        for name in (self.baseline, self.reference):
            if name not in self.approaches:
                raise ValueError(f"there is no approach '{name}' to compare with")
        self._check_plan()
        self._check_names()
        self._check_starts()
        for run in self.federations.values():
            if self.steps_of(run.steps) % self.rounds:
                raise ValueError(f"{self.steps_of(run.steps)} steps cannot be dealt to {self.rounds} rounds")
            if set(run.rows.values()) != set(run.labels):
                raise ValueError("a federation needs one label for each of its rows")
        return self

    def _check_plan(self) -> None:
        for key in ("schema", "name", "seed", "threads", "sites"):
            if key in self.plan:
                raise ValueError(f"plan.{key} is the study's to say, not its plan's")
        if self.plan.get("adaptation", {}).get("batch_size", 2) % 2:
            raise ValueError("plan.adaptation.batch_size must be even: half of a batch is of each domain")

    def _check_names(self) -> None:
        rows = [row for run in self.federations.values() for row in run.rows.values()]
        for name in (*self.federations, *rows):
            if name in self.approaches:
                raise ValueError(f"'{name}' names an approach and a federation, or a row of one")
        if len(set(rows)) < len(rows):
            raise ValueError("two federations give a row of the same name")
        for name, approach in self.approaches.items():
            if len(set(approach.on)) < len(approach.on):
                raise ValueError(f"approach {name} names a role twice")
            if approach.alignment != "none" and len(approach.on) < 2:
                raise ValueError(f"approach {name} aligns domains, and trains on one role alone")

    def _check_starts(self) -> None:
        known = ["first"]
        for name, approach in self.approaches.items():
            if approach.start not in known:
                raise ValueError(f"approach {name} starts from '{approach.start}', which is not above it")
            if not approach.by_fold:
                known.append(name)
        for run in self.federations.values():
            if run.start not in known:
                raise ValueError(f"a federation starts from '{run.start}', which is made in every fold anew")

    def steps_of(self, share: Share) -> int:
        """Steps that a share of the budget stands for."""
        rest = self.steps - self.source_steps
        return {"total": self.steps, "source": self.source_steps, "rest": rest}[share]

    def plan_for(self, data: Data, *, fold: int, changes: dict[str, Any] | None = None) -> Plan:
        """The plan of one fold, with one site for each cohort.

        Raises:
            PlanError: the study's plan, or a change, does not fit.
        """
        sites = {
            source.name: {
                **({"phantom": source.phantom, "cases": source.cases} if source.phantom else {}),
                **({"folds": self.folds, "fold": fold} if source.role == "target" else {}),
            }
            for source in data.sources
        }
        words = {"schema": 1, "name": self.name, "seed": self.seed, "threads": 1, "sites": sites, **self.plan}
        plan = parse_plan(words, origin=f"study {self.name}, plan")
        return plan.override({"rounds.quorum": len(data.sources), **(changes or {})})


def job_name(approach: str, fold: int) -> str:
    """The job of an approach or a federation in a fold; -1 for what is done once."""
    return f"fold-{fold + 1}/{approach}" if fold >= 0 else f"once/{approach}"


def site_folder(out: Path, name: str) -> Path:
    """Where a study keeps a site's folder, with its cache."""
    return out / "sites" / name


def site_of(out: Path, source: Source) -> Site:
    """The site that a cohort of the study is."""
    return Site(source.name, site_folder(out, source.name), source.folder, source.degrade)
