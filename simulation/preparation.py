"""What a simulated federation needs before its first round: site folders, phantom cohorts, the model file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from client import site as client_site
from common.data.phantom.writer import write_cohort
from common.files import sweep_drafts
from common.plan import Plan
from common.seeds import derive
from server.run import GIVEN_FILE
from simulation.workers import context, end_with_parent

if TYPE_CHECKING:
    from simulation.federation import Federation


def prepare(federation: Federation) -> None:
    """Make site folders, and phantom cohorts where no folder was given; what is there from before is kept."""
    _keep_start_file(federation)
    for folder in federation.sites_folder.glob("**/"):
        sweep_drafts(folder)
    missing = []
    for name in federation.plan.site_names:
        data = federation.data_folder(name)
        client_site.create(
            federation.sites_folder / name, name=name, data=data, degrade=federation.degrade.get(name)
        )
        if name not in federation.folders and not data.is_dir():
            missing.append((data, federation.plan, name))
    workers = min(len(missing), cores())
    if workers > 1:
        method = context(__name__, "simulation.site_app")  # the second for the grid's workers
        with ProcessPoolExecutor(workers, mp_context=method, initializer=end_with_parent) as pool:
            list(pool.map(_write_phantom, *zip(*missing, strict=True)))
    else:
        for job in missing:
            _write_phantom(*job)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_start_file(federation: Federation) -> None:
    target = federation.run_folder / GIVEN_FILE
    if federation.start_file is not None and not target.is_file():
        draft = target.with_suffix(".tmp")
        shutil.copyfile(federation.start_file, draft)
        draft.replace(target)


def write_phantom(
    folder: Path, *, phantom: str, cases: int, seed: int, spacing_mm: float, healthy: bool = False
) -> None:
    """Write a phantom cohort into `folder`, whole or not at all."""
    with made_whole(folder) as draft:
        write_cohort(draft, site=phantom, cases=cases, seed=seed, spacing_mm=spacing_mm, healthy=healthy)


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A place beside `folder` to write in, moved there at the end: a kill leaves no folder half made."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    yield draft
    draft.rename(folder)


def _write_phantom(folder: Path, plan: Plan, name: str) -> None:
    site = plan.sites[name]
    write_phantom(
        folder,
        phantom=str(site.phantom),
        cases=site.cases,
        seed=derive(plan.seed, "phantom", name),
        spacing_mm=plan.task.spacing_mm,
        healthy=plan.task.kind == "tissue",
    )
