"""A federated run of a study in one fold: the same hub and sites as `fedglia simulate`, in this process.

The run directory stays in the job's folder, with its own report to be made by `fedglia report`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from common.checkpoint import load
from common.data.cases import STRUCTURES
from common.errors import RunError
from common.models.network import build_from
from common.plan import Plan
from server.domains import domain_of
from server.run import create
from server.start import file_hash
from simulation.federation import Federation, simulate
from simulation.study.jobs import Outcome, Workplace
from simulation.study.results import Row, metric_rows
from simulation.study.site_transfer.centralised import MODEL
from simulation.study.site_transfer.judging import separability, tested
from simulation.study.site_transfer.settings import (
    SiteTransfer,
    job_name,
    site_folder,
    site_of,
)
from simulation.study.spec import Data, field_strength_t

UNKNOWN_START = "sha256:" + "0" * 64
"""Stands for a model that is not trained yet, where a plan is only looked at."""

METRICS = {
    "dice": "dice",
    "hd95_mm": "hd95",
    "assd_mm": "assd",
    "masd_mm": "masd",
    "nsd": "nsd",
    "lesion_dice": "lesion_dice",
    "lesion_hd95_mm": "lesion_hd95",
}
"""What a site reports of a case -> metric in the results."""


def plan_of(study: SiteTransfer, data: Data, name: str, *, fold: int, start: str | None = None) -> Plan:
    """The plan of a federated run.

    Args:
        study: what is compared.
        data: on which cohorts.
        name: of the federation in the study's file.
        fold: 0-based.
        start: `sha256:...` of the model to start from; None where it is not known yet.

    Raises:
        PlanError: the study's plan and this run's changes do not fit together.
    """
    run = study.federations[name]
    changes: dict[str, Any] = {
        "name": f"{study.name}-{name}"[:48],
        "rounds.count": study.rounds,
        "adaptation.local_steps": study.steps_of(run.steps) // study.rounds,
        "evaluation.local_only": "local_only" in run.rows,
        **({} if "adapted" in run.rows else {"adaptation.adapt_steps": 0}),
        **(_further(study, data, start) if run.start != "first" else {}),
        **run.plan,
    }
    plan = study.plan_for(data, fold=fold, changes=changes)
    if plan.alignment.method == "none" or declares_domains(plan, data):
        return plan
    return plan.override({"alignment.domains": "site"})


def _further(study: SiteTransfer, data: Data, start: str | None) -> dict[str, Any]:
    """What differs where a trained model is trained further: its rate too, as in the centralised half."""
    gentler = study.plan_for(data, fold=0).adaptation.adapt_learning_rate
    return {"model.start": start or UNKNOWN_START, "adaptation.learning_rate": gentler}


def declares_domains(plan: Plan, data: Data) -> bool:
    """Whether the cohorts say what the plan tells domains by, and there are two domains at least.

    Where they do not, each site of a federated run is a domain: a study of scans without a `cohort.toml`
    must not end at its last row, and the report says so.
    """
    found = {
        source.name: domain_of(
            plan, source.name, {"field_strength_t": field_strength_t(source), "degraded": source.degrade}
        )
        for source in data.sources
    }
    return None not in found.values() and len(set(found.values())) > 1


def carry_out(place: Workplace, *, study: SiteTransfer, data: Data, name: str, fold: int) -> Outcome:
    """Run the federation, or go on with one that was interrupted, and take its rows from what sites reported.

    Raises:
        RunError: the run could not go on, or a site did not report a model that the table needs.
    """
    run, folder = study.federations[name], place.folder / "run"
    start_file = None if run.start == "first" else place.of(job_name(run.start, -1)) / MODEL
    start = f"sha256:{file_hash(start_file)}" if start_file else None
    plan = plan_of(study, data, name, fold=fold, start=start)
    create(folder, plan, resume=True)
    _share_caches(place.out, folder, data)
    federation = Federation(
        plan,
        folder,
        folders={source.name: source.folder for source in data.sources},
        degrade={source.name: source.degrade for source in data.sources if source.degrade},
        start_file=start_file,
        workers=1,
    )
    began = time.monotonic()
    simulate(federation, resume=True, listen=lambda event: None)
    seconds = time.monotonic() - began
    rows = [
        row
        for stage, approach in run.rows.items()
        for row in _rows(place.out, folder, study=study, data=data, stage=stage, approach=approach, fold=fold)
    ]
    model = build_from(plan, load(folder / "checkpoints" / "last.safetensors").tensors)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    facts = {
        "curve": _curve(summary, data),
        "loss": [_mean_loss(record) for record in summary["rounds"]],
        "separability": separability(place, model, study=study, data=data, fold=fold),
        "kept": {site: facts.get("kept") for site, facts in summary["sites"].items()},
        "bytes": summary["bytes"],
        "domains": plan.alignment.domains if plan.alignment.method != "none" else None,
        "steps": plan.total_steps,
        "seconds": seconds,
    }
    _tidy(folder)
    return Outcome(rows, facts)


def _share_caches(out: Path, run_folder: Path, data: Data) -> None:
    """Let the run's sites read the cases that the study prepared."""
    for source in data.sources:
        cache = run_folder / "sites" / source.name / "cache"
        if not cache.is_symlink():
            cache.parent.mkdir(parents=True, exist_ok=True)
            shared = os.path.relpath(site_folder(out, source.name) / "cache", cache.parent)
            cache.symlink_to(shared, target_is_directory=True)


def _rows(
    out: Path,
    run_folder: Path,
    *,
    study: SiteTransfer,
    data: Data,
    stage: str,
    approach: str,
    fold: int,
) -> list[Row]:
    """What the sites reported of one model; a site reports its cases in the order of its split."""
    rows = []
    for source in data.sources:
        reported = _reported(run_folder, stage, source.name)
        cases = tested(study, data, source, site=site_of(out, source), fold=fold)
        for (number, case, plan), numbers in zip(cases, reported, strict=True):
            by_metric = {METRICS[key]: numbers[key] for key in METRICS if key in numbers}
            rows += metric_rows(
                by_metric,
                structures=STRUCTURES[plan.task.kind],
                of=Row(source.name, case.name, approach, number, study.seed, "", "", 0.0, ""),
            )
    return rows


def _reported(run_folder: Path, stage: str, site: str) -> list[dict[str, Any]]:
    file = run_folder / "stages" / stage / f"{site}.json"
    if not file.is_file():
        raise RunError(
            f"site {site} did not report its {stage} model; its site.log in the run's folder says why",
            code="silent",
        )
    cases: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["scores"]["cases"]
    return cases


def _curve(summary: dict[str, Any], data: Data) -> list[list[Any]]:
    """[step, mean validation Dice of the target sites] of the global model after each round."""
    targets = [source.name for source in data.role("target")]
    curve = []
    for number, record in enumerate(summary["rounds"]):
        values = [record["sites"].get(site, {}).get("validation_dice") for site in targets]
        known = [value for value in values if value is not None]
        curve.append([number, fmean(known) if known else None])
    return curve


def _mean_loss(record: dict[str, Any]) -> float | None:
    losses = [site["loss"] for site in record["sites"].values() if site.get("loss") is not None]
    return fmean(losses) if losses else None


def _tidy(run_folder: Path) -> None:
    """Leave the report's sources and the last model; the rounds in between and sites' moments are large."""
    rounds = sorted((run_folder / "checkpoints").glob("round-*.safetensors"))
    closed = [file for file in rounds if not file.name.endswith(".server.safetensors")]
    for file in closed[1:-1]:  # without the first and the last, a killed job could not be resumed
        file.unlink()
    for state in run_folder.glob("sites/*/state"):
        shutil.rmtree(state)
