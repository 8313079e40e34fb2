"""Every model of such a study is judged the same way: each site's test patients, case by case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from client.site import Site
from common.data.cases import STRUCTURES, Case
from common.data.sampling import draw_batch
from common.data.transforms import expert_label, read_as_seen
from common.data.volume import Volume
from common.learning.evaluation import judge_case
from common.models.domain import pooled
from common.models.unet import UNet
from common.plan import Plan
from common.seeds import generator
from simulation.overlays import SHOWN
from simulation.study.jobs import Workplace
from simulation.study.pictures import Picture, keep, take
from simulation.study.probe import probe
from simulation.study.results import Row, case_rows
from simulation.study.site_transfer.settings import SiteTransfer, site_of
from simulation.study.spec import Data, Source

PATCHES_OF_A_CASE = 2
"""Patches of each case that the probe sees."""


def judge_sites(
    place: Workplace, model: UNet, *, study: SiteTransfer, data: Data, approach: str, fold: int
) -> list[Row]:
    """Rows of every test case, and its picture in the job's folder."""
    rows: list[Row] = []
    pictures: list[Picture] = []
    for source in data.sources:
        site = site_of(place.out, source)
        for number, case, plan in tested(study, data, source, site=site, fold=fold):
            prepared = site.prepared(plan, (case,))[0]
            task, wanted = plan.task.kind, plan.evaluation
            judged = judge_case(
                model,
                prepared,
                case=case,
                cohort=site.cohort,
                task=task,
                overlap=wanted.overlap,
                flips=wanted.flips,
            )
            rows += case_rows(
                judged.regions,
                judged.lesions,
                structures=STRUCTURES[task],
                of=Row(source.name, case.name, approach, number, study.seed, "", "", 0.0, ""),
            )
            truth = expert_label(case, site.cohort, STRUCTURES[task])
            scan = shown_scan(site, case, task)
            pictures.append(take(scan, truth, judged.prediction, site=source.name, case=case.name))
    keep(place.folder, pictures)
    return rows


def tested(
    study: SiteTransfer, data: Data, source: Source, *, site: Site, fold: int
) -> Iterator[tuple[int, Case, Plan]]:
    """(fold, case, plan) of the cases to judge at a site.

    A target site's patients of the fold, or all of them, each in the fold where it is tested, where `fold`
    is -1; a source site's test patients, with the fold of the model that judges them.
    """
    wanted = range(study.folds) if fold < 0 and source.role == "target" else (fold,)
    for number in wanted:
        plan = study.plan_for(data, fold=max(number, 0))
        for case in site.split(plan).test:
            yield number, case, plan


def shown_scan(site: Site, case: Case, task: str) -> Volume:
    """The scan under a picture's outlines, as the site's models saw it."""
    modality = next((name for name in SHOWN[task] if name in case.images), next(iter(case.images)))
    return read_as_seen(case, modality, site.degrade)


def separability(
    place: Workplace, model: UNet, *, study: SiteTransfer, data: Data, fold: int
) -> dict[str, Any]:
    """How well a fresh linear probe tells source from target patients by the frozen encoder's features.

    All labelled cases are used, by patient-wise cross-validation of the probe alone. The in-loop
    discriminator is no such measure: one at chance may just have lost.
    """
    plan = study.plan_for(data, fold=max(fold, 0))
    features, domains, patients = [], [], []
    for source in data.sources:
        site = site_of(place.out, source)
        for case in site.cohort.labelled:
            features.append(_features(model, site, case, plan=plan, seed=study.seed))
            domains += [int(source.role == "target")] * PATCHES_OF_A_CASE
            patients += [f"{source.name}/{case.patient}"] * PATCHES_OF_A_CASE
    found = probe(np.concatenate(features), np.array(domains), patients, seed=study.seed)
    return {"balanced_accuracy": found.balanced_accuracy, "auc": found.auc, "chance": found.chance}


def _features(model: UNet, site: Site, case: Case, *, plan: Plan, seed: int) -> np.ndarray:
    rng = generator(seed, "probe", site.name, case.name)
    prepared: Sequence[Any] = site.prepared(plan, (case,))
    batch = draw_batch(prepared, patch=plan.adaptation.patch_sides, size=PATCHES_OF_A_CASE, rng=rng)
    model.eval()
    with torch.inference_mode():
        image = batch.image.to(next(model.parameters()).device)
        return pooled(model.encode(image)).cpu().numpy().astype(np.float64)
