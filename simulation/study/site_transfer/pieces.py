"""The pieces of such a study: cohorts, centralised approaches and federations, fold by fold."""

from __future__ import annotations

import hashlib

import numpy as np

from client.site import create as create_site
from common.data.cases import STRUCTURES
from common.data.splits import split_as_planned
from common.data.transforms import expert_label
from common.errors import DataError, InputError
from common.plan import Plan
from common.seeds import derive
from server.start import starting_model
from simulation.preparation import write_phantom
from simulation.study.jobs import Job, Outcome, Workplace
from simulation.study.site_transfer import centralised, federated
from simulation.study.site_transfer.settings import SiteTransfer, job_name, site_folder, site_of
from simulation.study.spec import Data, Source, open_source


def check(study: SiteTransfer, data: Data) -> None:
    """Refuse what cannot work before any training: plan, first model, folds, labels of every real case.

    Raises:
        InputError: in words, naming the cohort or key.
    """
    plan = study.plan_for(data, fold=0)
    starting_model(plan)
    owners: dict[str, str] = {}
    for source in data.sources:
        if source.phantom is None:
            _check_real(source, plan, owners)
        elif source.role == "target" and source.cases < study.folds:
            raise InputError(f"cohort {source.name}: {source.cases} patients for {study.folds} folds")
    for name in study.federations:
        federated.plan_of(study, data, name, fold=0)


def _check_real(source: Source, plan: Plan, owners: dict[str, str]) -> None:
    """Folds, regions, and that no scan is in two cohorts; `owners`: label seen so far -> its cohort."""
    cohort = open_source(source)
    if not cohort.labelled:
        raise DataError(
            f"cohort {source.name}: no case has a label, and a study needs expert labels to train and judge",
            code="missing",
        )
    split_as_planned(cohort, plan, site=source.name)
    structures = STRUCTURES[plan.task.kind]
    found: set[int] = set()
    for case in cohort.labelled:
        label = expert_label(case, cohort, structures).array
        found |= set(np.unique(label).tolist())
        digest = hashlib.sha256(label.tobytes()).hexdigest()
        if owners.setdefault(digest, source.name) != source.name and label.any():
            raise DataError(
                f"cohorts {owners[digest]} and {source.name} hold the same case ({case.name}): it would be "
                "trained and tested on at once; keep it in one of them",
                code="shared",
            )
    for code, structure in enumerate(structures, start=1):
        if code not in found:
            raise DataError(
                f"cohort {source.name}: no label holds {structure}, so nothing could be learnt or said about "
                "it; add cases that have it, or correct label_map in cohort.toml",
                code="missing",
            )


def jobs(study: SiteTransfer, data: Data) -> list[Job]:
    """Cohorts, the approaches that need no target patient, then fold by fold everything else."""
    made = [
        Job(
            f"cohorts/{source.name}",
            make_cohort,
            {"study": study, "data": data, "source": source},
            cost=max(source.cases, 20) / 12,
        )
        for source in data.sources
    ]
    cohorts = tuple(job.name for job in made)
    pieces = [
        _centralised(study, data, name, fold=-1, needs=cohorts)
        for name, approach in study.approaches.items()
        if not approach.by_fold
    ]
    for fold in range(study.folds):
        pieces += [
            _centralised(study, data, name, fold=fold, needs=cohorts)
            for name, approach in study.approaches.items()
            if approach.by_fold
        ]
        pieces += [_federated(study, data, name, fold=fold, needs=cohorts) for name in study.federations]
    return made + pieces


def make_cohort(place: Workplace, *, study: SiteTransfer, data: Data, source: Source) -> Outcome:
    """Write the phantom cohort where it is one, and the site's folder all cases prepared."""
    plan = study.plan_for(data, fold=0)
    if source.phantom is not None and not source.folder.is_dir():
        write_phantom(
            source.folder,
            phantom=source.phantom,
            cases=source.cases,
            seed=derive(study.seed, "phantom", source.name),
            spacing_mm=plan.task.spacing_mm,
        )
    folder = site_folder(place.out, source.name)
    create_site(folder, name=source.name, data=source.folder, degrade=source.degrade)
    site = site_of(place.out, source)
    for case in site.cohort.labelled:
        site.prepared(plan, (case,))
    splits = [site.split(study.plan_for(data, fold=fold)) for fold in range(study.folds)]
    return Outcome(
        facts={
            "patients": {case.name: case.patient for case in site.cohort.labelled},
            "trained": [len({case.patient for case in split.train}) for split in splits],
        }
    )


def _centralised(study: SiteTransfer, data: Data, name: str, *, fold: int, needs: tuple[str, ...]) -> Job:
    approach = study.approaches[name]
    before = () if approach.start == "first" else (job_name(approach.start, -1),)
    arguments = {"study": study, "data": data, "name": name, "fold": fold}
    cost = study.steps_of(approach.steps) / 100 + 1
    return Job(job_name(name, fold), centralised.carry_out, arguments, needs=(*needs, *before), cost=cost)


def _federated(study: SiteTransfer, data: Data, name: str, *, fold: int, needs: tuple[str, ...]) -> Job:
    run = study.federations[name]
    before = () if run.start == "first" else (job_name(run.start, -1),)
    arguments = {"study": study, "data": data, "name": name, "fold": fold}
    trained = len(data.sources) * (2 if "local_only" in run.rows else 1)
    cost = trained * study.steps_of(run.steps) / 100 + 3
    return Job(job_name(name, fold), federated.carry_out, arguments, needs=(*needs, *before), cost=cost)
