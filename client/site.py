"""This site: its folder, its cohort and its patients' split.

SITE/site.toml     name, data folder, degradation: the only place that knows where the scans are
SITE/cache/        prepared cases
SITE/models/       models received and kept
SITE/state/        what stays here between rounds
SITE/predictions/  label maps of the kept model on the test cases, in each scan's own grid
SITE/site.log      errors in words, with the correlation id that the hub was given
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import tomli_w

from common.data.cache import Cache
from common.data.cases import STRUCTURES, Case, Cohort
from common.data.intake import open_cohort
from common.data.splits import Split, split_as_planned
from common.data.transforms import Preparation, PreparedCase
from common.errors import SiteError
from common.plan import Plan

FEDERATION_VARIABLE = "FEDGLIA_FEDERATION"
"""Folder of site folders; Flower's simulation engine numbers its nodes and knows no other way to tell one."""


@dataclass(frozen=True)
class Site:
    """A site folder, opened."""

    name: str
    folder: Path
    data: Path
    degrade: str | None = None

    @cached_property
    def cohort(self) -> Cohort:
        """The cases in the data folder."""
        return replace(open_cohort(self.data, self.name), degraded=self.degrade)

    @cached_property
    def cache(self) -> Cache:
        """Prepared cases on disk."""
        return Cache(self.folder / "cache")

    def split(self, plan: Plan) -> Split:
        """This site's patients: the same split for the same plan seed, whatever else changes."""
        return split_as_planned(self.cohort, plan, site=self.name)

    def prepared(self, plan: Plan, cases: tuple[Case, ...]) -> list[PreparedCase]:
        """Cases on the plan's working grid, from the cache where they are there."""
        preparation = Preparation(
            structures=STRUCTURES[plan.task.kind],
            spacing_mm=plan.task.spacing_mm,
            degradation=self.degrade,
        )
        return [self.cache.prepared(case, self.cohort, preparation) for case in cases]


def create(folder: Path, *, name: str, data: Path, degrade: str | None = None) -> None:
    """Make a site folder that reads `data`; making it again with the same words changes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"name": name, "data": str(data.resolve()), **({"degrade": degrade} if degrade else {})}
    draft = folder / "site.toml.tmp"
    draft.write_text(tomli_w.dumps(words))
    draft.replace(folder / "site.toml")


def open_site(folder: Path) -> Site:
    """The site that a folder describes.

    Raises:
        SiteError: no site.toml, or one that lacks a key.
    """
    try:
        words = tomllib.loads((folder / "site.toml").read_text())
        return Site(str(words["name"]), folder, Path(str(words["data"])), words.get("degrade"))
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise SiteError(f"{folder.name}: no usable site.toml ({error})") from None


def locate(node_config: Mapping[str, str | int | float | bool]) -> Site:
    """The site that a Flower node stands for.

    A deployed node names its folder (`site-dir`); a simulated one has a number (`partition-id`), which
    counts the site folders under `$FEDGLIA_FEDERATION` in the order of their names.

    Raises:
        SiteError: the node says neither.
    """
    if "site-dir" in node_config:
        return open_site(Path(str(node_config["site-dir"])))
    federation = os.environ.get(FEDERATION_VARIABLE)
    if federation and "partition-id" in node_config:
        folders = sorted(path.parent for path in Path(federation).glob("*/site.toml"))
        return open_site(folders[int(node_config["partition-id"])])
    raise SiteError("this node does not say which site it is: set site-dir in its node configuration")
