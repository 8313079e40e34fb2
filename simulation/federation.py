"""A whole federation on one machine: cohorts + plan -> run directory.

    RUN/sites/<name>/       the site's own folder, as a hospital would have it
    RUN/cohorts/<name>/     its phantom cases, where no folder was given

Everything that can be wrong with the input is looked for before anything is made.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from flwr.app import Context, RecordDict

from client import site as client_site
from common.data.cases import STRUCTURES
from common.data.intake import open_cohort
from common.data.phantom.acquisition import DEGRADATIONS
from common.data.phantom.sites import SITES
from common.data.splits import split_as_planned
from common.data.transforms import expert_label
from common.errors import InputError, SiteError
from common.flower import QUIET
from common.plan import Plan
from server import app as hub
from server.domains import domain_of, table_of
from server.run import GIVEN_FILE, Listener, check_free, create, exclusive
from server.start import starting_model
from simulation.grid import HUB_NODE, RUN_ID, LocalGrid
from simulation.preparation import cores, prepare

Engine = Literal["local", "flower"]


@dataclass(frozen=True)
class Federation:
    """What is simulated, and where.

    Attributes:
        folders: site -> folder of real cases; a site that is not named gets the plan's phantom.
        degrade: site -> profile that its scans are made to look like.
        start_file: model file, where the plan names one by its hash.
        workers: processes that run sites; None: one for each core, at most one for each site.
    """

    plan: Plan
    run_folder: Path
    folders: Mapping[str, Path] = field(default_factory=dict)
    degrade: Mapping[str, str] = field(default_factory=dict)
    start_file: Path | None = None
    engine: Engine = "local"
    workers: int | None = None

    @property
    def sites_folder(self) -> Path:
        """Folder of site folders."""
        return self.run_folder / "sites"

    def data_folder(self, name: str) -> Path:
        """Where a site's cases are."""
        return self.folders.get(name, self.run_folder / "cohorts" / name)


def check(federation: Federation) -> None:
    """Refuse what cannot work, before anything is made.

    Raises:
        SiteError: a site unknown to the plan or without cases, an unknown profile or phantom, or other
            folders than the run in the run directory was started with.
        DataError: a folder that cannot be read, has too few patients, or whose labels do not fit.
        CheckpointError: the plan's first model is not there or does not fit.
        InputError: the plan aligns domains and there are fewer than two; or Flower's engine is asked for and
            not installed.
    """
    plan = federation.plan
    _check_start(federation)
    for name in (*federation.folders, *federation.degrade):
        _check_known(name, plan.site_names, f"plan {plan.name} has no site '{name}'")
    for profile in federation.degrade.values():
        _check_known(profile, tuple(DEGRADATIONS), f"there is no degradation '{profile}'")
    for name, part in plan.sites.items():
        _check_same_data(federation, name)
        if name in federation.folders:
            _check_cohort(federation, name)
        elif federation.folders or part.phantom is None:
            raise SiteError(
                f"site '{name}' of plan {plan.name} has no cases: add --site {name}=FOLDER, or take it out "
                f"of a copy of the plan (fedglia plan show {plan.name} > my.toml)"
            )
        else:
            _check_known(part.phantom, tuple(SITES), f"site '{name}': there is no phantom '{part.phantom}'")
    _check_domains(federation)
    if federation.engine == "flower" and importlib.util.find_spec("ray") is None:
        raise InputError(
            "--engine flower needs Ray, which is not installed here: "
            "pip install -c constraints.txt -e '.[flower-engine]'"
        )


def simulate(federation: Federation, *, resume: bool, listen: Listener) -> None:
    """Carry the federation out; what it leaves is in the run directory.

    Raises:
        LockedError: another process writes this run.
        InputError: see `check`; or the run directory holds something else.
        RunError: the run could not go on; it can be resumed.
    """
    check_free(federation.run_folder, federation.plan, resume=resume)
    federation.run_folder.mkdir(parents=True, exist_ok=True)
    with exclusive(federation.run_folder / "lock", what=f"run {federation.run_folder.name}"):
        create(federation.run_folder, federation.plan, resume=resume)
        with _environment(federation), _heard_by(listen):
            listen({"event": "preparing cohorts", "sites": list(federation.plan.site_names)})
            prepare(federation)
            if federation.engine == "flower":
                from simulation.flower_engine import run_on_flower

                run_on_flower(federation.plan)
            else:
                _run_here(federation)


def _run_here(federation: Federation) -> None:
    from simulation.site_app import load_client_app

    names = sorted(federation.plan.site_names)
    configs = {
        HUB_NODE + 1 + number: {"site-dir": str(federation.sites_folder / name)}
        for number, name in enumerate(names)
    }
    at_once = cores() // federation.plan.threads
    workers = min(len(names), federation.workers if federation.workers is not None else at_once)
    with LocalGrid(configs, load_client_app, workers=workers if workers > 1 else 0) as grid:
        hub.app(grid, Context(RUN_ID, HUB_NODE, cast(Any, {}), RecordDict(), cast(Any, {})))


def _check_known(name: str, known: tuple[str, ...], complaint: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(known)}"
    raise SiteError(f"{complaint}{hint}")


def _check_start(federation: Federation) -> None:
    if not (federation.run_folder / "checkpoints").is_dir():
        given = federation.run_folder / GIVEN_FILE
        starting_model(federation.plan, federation.start_file or (given if given.is_file() else None))


def _check_cohort(federation: Federation, name: str) -> None:
    cohort = open_cohort(federation.folders[name], name)
    split_as_planned(cohort, federation.plan, site=name)
    for case in cohort.labelled:
        expert_label(case, cohort, STRUCTURES[federation.plan.task.kind])


def _check_domains(federation: Federation) -> None:
    """The hub would only leave a site out that does not say its domain; here it can be mended at once."""
    plan = federation.plan
    if plan.alignment.method == "none":
        return
    found = {
        name: domain_of(plan, name, {"field_strength_t": strength, "degraded": federation.degrade.get(name)})
        for name, strength in _field_strengths(federation).items()
    }
    table_of(plan, found)
    silent = [name for name, domain in found.items() if domain is None]
    if silent:
        raise SiteError(
            f"site '{silent[0]}': its cohort.toml declares no field_strength_t, which plan {plan.name} tells "
            "domains by: declare it, or set alignment.domains to 'site'"
        )


def _field_strengths(federation: Federation) -> dict[str, float | None]:
    return {
        name: open_cohort(federation.folders[name], name).field_strength_t
        if name in federation.folders
        else SITES[str(part.phantom)].field_strength_t
        for name, part in federation.plan.sites.items()
    }


def _check_same_data(federation: Federation, name: str) -> None:
    """A resumed run must go on with the scans that it began with; the plan's hash does not say which."""
    folder = federation.sites_folder / name
    if not (folder / "site.toml").is_file():
        return
    site = client_site.open_site(folder)
    if site.data != federation.data_folder(name).resolve() or site.degrade != federation.degrade.get(name):
        raise SiteError(
            f"site '{name}': run {federation.run_folder.name} was started with other cases or another "
            "degradation of them; give the same --site and --degrade, or name a new folder"
        )


@contextmanager
def _environment(federation: Federation) -> Iterator[None]:
    """Variables by which apps that get no configuration find their folders; put back afterwards."""
    ours = {
        hub.RUN_VARIABLE: str(federation.run_folder.resolve()),
        hub.ENGINE_VARIABLE: federation.engine,
        client_site.FEDERATION_VARIABLE: str(federation.sites_folder.resolve()),
        **QUIET,
    }
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _heard_by(listen: Listener) -> Iterator[None]:
    hub.listeners.append(listen)
    try:
        yield
    finally:
        hub.listeners.remove(listen)
