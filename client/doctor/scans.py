"""The scans: every case in words, the split that training needs, and one real training step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject
from client.site import Site
from common.data.splits import Split
from common.errors import FedGliaError
from common.plan import Plan, parse

MENDS = {
    "not-a-file": "correct data in site.toml, or fetch the file again",
    "no-case": "correct data in site.toml; which layouts can be read: docs/site-handbook.md",
    "grid": "resample the label or the modality onto the first modality's grid",
    "label-codes": "write the codes into [label_map] of cohort.toml",
    "undeclared": "write field_strength_t into cohort.toml",
    "missing": "add the modality, or accept a less accurate result",
    "twin": "name the patient of both cases in [patients] of cohort.toml",
}
LOOK = "fedglia data check {folder}; correct the scan or take the case out"


def check_cases(subject: Subject) -> Iterator[Said]:
    """What is there to say about each case? Every voxel is read."""
    from common.data.intake import check

    data = subject.site.data
    for found in check(data):
        mend = "" if found.level == "PASS" else MENDS.get(found.code, LOOK.format(folder=data))
        yield Said(found.level, found.text, mend)


def check_split(subject: Subject) -> Iterator[Said]:
    """Are there enough labelled patients to train, to choose and to test on?"""
    try:
        split = subject.site.split(_plan(subject.site))
    except FedGliaError as error:
        yield failed(str(error), "label more patients; fedglia data check says which cases have a label")
        return
    counts = [len({case.patient for case in part}) for part in (split.train, split.val, split.test)]
    words = "{} patient(s) would train, {} choose, {} test".format(*counts)
    if not counts[1] or not counts[2]:
        yield warned(f"{words}: results would say little", "label more patients")
    else:
        yield passed(words)


def check_step(subject: Subject) -> Iterator[Said]:
    """Does a real training step on one real case work here?"""
    import torch

    from client.adaptation import Bench, train_round
    from common.models.network import build, build_from

    plan = _plan(subject.site)
    with tempfile.TemporaryDirectory(dir=subject.folder / "cache") as folder:
        site = _one_case(subject.site, Path(folder))
        try:
            model = build_from(plan, build(plan, seed=1).state_dict())
            names = tuple(name for name, _ in model.named_parameters())
            trained = train_round(Bench(site, plan), model, names=names, round_number=1, optimiser_state={})
        except FedGliaError as error:
            yield failed(f"no training step is possible: {error}", LOOK.format(folder=subject.site.data))
            return
        except torch.OutOfMemoryError:
            yield failed("the GPU's memory is too small for one step", "nvidia-smi: end what else uses it")
            return
    if not np.isfinite(trained.losses[0]):
        yield failed("a training step gave no number", LOOK.format(folder=subject.site.data))
        return
    device = next(model.parameters()).device.type
    where = "a GPU" if device == "cuda" else "the processor"
    yield passed(f"one training step on one case took {trained.seconds:.1f} s on {where}")


@dataclass(frozen=True)
class _OneCase(Site):
    """The same site with a single training case, so that a step takes seconds."""

    def split(self, plan: Plan) -> Split:
        """The first training case alone."""
        dealt = super().split(plan)
        return replace(dealt, train=dealt.train[:1], val=(), test=())


def _one_case(site: Site, folder: Path) -> Site:
    return _OneCase(site.name, folder, site.data, site.degrade, withdrawn=site.withdrawn)


def _plan(site: Site) -> Plan:
    """A plan of one small step for this site's structures."""
    try:
        tissue = "ET" not in (site.cohort.label_map or {"ET": 3})
    except FedGliaError:
        tissue = False
    return parse(
        {
            "schema": 1,
            "name": "site-check",
            "task": {"kind": "tissue" if tissue else "glioma"},
            "model": {"preset": "nano", "start": "scratch"},
            "adaptation": {"local_steps": 1, "adapt_steps": 0},
            "rounds": {"count": 1, "quorum": 1},
            "sites": {site.name: {}},
        },
        origin="the check's own plan",
    )
