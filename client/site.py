"""This site: its folder, its cohort and its patients' split.

SITE/site.toml     name, data folder, withdrawn patients, hub, policy; alone knows where the scans are
SITE/cache/        prepared cases
SITE/models/       models received and kept
SITE/state/        what stays here between rounds
SITE/predictions/  label maps of the kept model on the test cases, in each scan's own grid
SITE/site.log      errors in words, with the correlation id that the hub was given
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from client.policy import Policy, nearest, parse_policy
from common.data.cache import Cache
from common.data.cases import STRUCTURES, Case, Cohort
from common.data.intake import open_cohort
from common.data.splits import Split, split_as_planned
from common.data.transforms import Preparation, PreparedCase
from common.errors import DataError, SiteError
from common.plan import Plan

FEDERATION_VARIABLE = "FEDGLIA_FEDERATION"
"""Folder of site folders; Flower's simulation engine numbers its nodes and knows no other way to tell one."""


_KEYS: Mapping[str, type] = {
    "name": str,
    "data": str,
    "degrade": str,
    "withdrawn": list,
    "worker": str,
    "hub": dict,
    "policy": dict,
}
_HUB_KEYS: Mapping[str, type] = {"address": str, "runtime_port": int, "authority": str}


@dataclass(frozen=True)
class Site:
    """A site folder, opened.

    Attributes:
        degrade: the degradation that its scans are read with; None: as they are.
        policy: what this hospital allows; None for a site that is simulated.
        withdrawn: patients that are never used.
        worker: `fork` or `resident`, see `client.worker`.
        hub: HOST:PORT of the hub; empty for a site that is simulated.
        runtime_port: on 127.0.0.1, between this site's own two processes; 0 for a site that is simulated.
        authority: SHA-256 that the hub's authority must have at the first contact; empty: any is believed.
    """

    name: str
    folder: Path
    data: Path
    degrade: str | None = None
    policy: Policy | None = None
    withdrawn: frozenset[str] = frozenset()
    worker: str = "fork"
    hub: str = ""
    runtime_port: int = 0
    authority: str = ""

    @cached_property
    def cohort(self) -> Cohort:
        """The cases in the data folder."""
        return replace(open_cohort(self.data, self.name), degraded=self.degrade)

    @cached_property
    def cache(self) -> Cache:
        """Prepared cases on disk."""
        return Cache(self.folder / "cache")

    def split(self, plan: Plan) -> Split:
        """This site's patients: the same split for the same plan seed, whatever else changes.

        Who withdrew is taken out after the patients were dealt, so that the others stay where they were.

        Raises:
            DataError: too few labelled patients, or code `data`: none that trains is left.
        """
        dealt = split_as_planned(self.cohort, plan, site=self.name)
        train, val, test = (self._still_here(part) for part in (dealt.train, dealt.val, dealt.test))
        if not train:
            raise DataError(
                f"{self.name}: every training patient withdrew; this site cannot train on this plan",
                code="data",
            )
        return replace(dealt, train=train, val=val, test=test)

    def _still_here(self, cases: Iterable[Case]) -> tuple[Case, ...]:
        return tuple(case for case in cases if case.patient not in self.withdrawn)

    @property
    def unknown_withdrawn(self) -> tuple[str, ...]:
        """Withdrawn patients that the cohort does not have: gone from the folder, or misspelt."""
        return tuple(sorted(self.withdrawn.difference(self.cohort.patients)))

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
        SiteError: no site.toml, or one that lacks a key or has one that is not known.
    """
    try:
        words = tomllib.loads((folder / "site.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SiteError(f"{folder.name}: no usable site.toml ({error})") from None
    return site_of(words, folder)


def site_of(words: Mapping[str, Any], folder: Path) -> Site:
    """The site that already read words of a site.toml describe.

    Raises:
        SiteError: a key is missing, unknown, or of the wrong type; code `policy` where [policy] is wrong.
    """
    hub = words.get("hub", {})
    _check_keys(words, _KEYS, folder)
    _check_keys(hub, _HUB_KEYS, folder, within="hub.")
    for key in ("name", "data"):
        if key not in words:
            raise SiteError(f"{folder.name}: site.toml says no '{key}'")
    withdrawn = words.get("withdrawn", [])
    if not all(isinstance(patient, str) for patient in withdrawn):
        raise SiteError(f"{folder.name}: site.toml, withdrawn: write patients in quotes")
    if words.get("worker", "fork") not in ("fork", "resident"):
        raise SiteError(f"{folder.name}: site.toml, 'worker' must be 'fork' or 'resident'")
    deployed = "hub" in words or "policy" in words
    return Site(
        name=words["name"],
        folder=folder,
        data=Path(words["data"]),
        degrade=words.get("degrade"),
        policy=parse_policy(words.get("policy", {})) if deployed else None,
        withdrawn=frozenset(withdrawn),
        worker=words.get("worker", "fork"),
        hub=hub.get("address", ""),
        runtime_port=hub.get("runtime_port", 0),
        authority=hub.get("authority", ""),
    )


def _check_keys(
    words: Mapping[str, Any], known: Mapping[str, type], folder: Path, *, within: str = ""
) -> None:
    for key, value in words.items():
        if key not in known:
            raise SiteError(
                f"{folder.name}: site.toml, unknown key '{within}{key}'{nearest(key, list(known))}"
            )
        if not isinstance(value, known[key]) or isinstance(value, bool):
            kinds = {str: "a text in quotes", list: "a list", dict: "a table", int: "a whole number"}
            raise SiteError(f"{folder.name}: site.toml, '{within}{key}' must be {kinds[known[key]]}")


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
