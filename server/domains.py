"""Which domain each site is of, where the plan aligns domains: a table that is fixed once for a run.

    RUN/domains.json    what the domains are called, in the order of their numbers

A domain is a field strength, as the sites' own `cohort.toml` declares it, or a site. The discriminator
has one output for each, so the table cannot grow: a site of a domain that is not in it is not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from common.errors import InputError, QuorumError
from common.learning.alignment import attach
from common.models.network import build
from common.plan import Plan
from common.seeds import derive
from server.roster import Roster
from server.run import Run

FILE = "domains.json"
STRONGEST_T = 21.0

_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,31}")


def domain_of(plan: Plan, site: str, facts: Mapping[str, Any]) -> str | None:
    """What a site's domain is called; None where it does not say what the plan tells domains by.

    Scans that were made to look like another scanner's are a domain of their own.

    Args:
        plan: whose `alignment.domains` says by what.
        site: its name.
        facts: what it says of itself: `field_strength_t`, `degraded`. Believed only where it makes sense.
    """
    if plan.alignment.domains == "site":
        return site
    strength, degraded = facts.get("field_strength_t"), facts.get("degraded")
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        return None
    if not 0 < strength <= STRONGEST_T:
        return None
    if degraded is None:
        return f"{strength:g} T"
    named = isinstance(degraded, str) and _PROFILE.fullmatch(degraded)
    return f"{strength:g} T as {degraded}" if named else None


def table_of(plan: Plan, found: Mapping[str, str | None]) -> tuple[str, ...]:
    """The domains of a run, in the order of their numbers.

    Args:
        plan: where it tells domains by site, all its sites count, also those that come later.
        found: site -> its domain; None where it does not say.

    Raises:
        InputError: fewer than two; says which there are, and which sites do not say theirs.
    """
    if plan.alignment.domains == "site":
        return plan.site_names
    names = {name for name in found.values() if name is not None}
    if len(names) < 2:
        raise InputError(_too_few(plan, found))
    return tuple(sorted(names, key=lambda name: (float(name.split()[0]), name)))


def agree(run: Run, roster: Roster) -> None:
    """Number the domains of the sites that are there; a site without a number is named and not used.

    The first call of a run fixes the table. Where the plan aligns nothing, nothing is done.

    Raises:
        InputError: see `table_of`.
        QuorumError: fewer sites than the quorum remain.
    """
    if run.plan.alignment.method == "none":
        return
    found = {site: domain_of(run.plan, site, roster.facts[site]) for site in roster.nodes}
    table = _kept(run) or _fix(run, table_of(run.plan, found))
    for site, name in found.items():
        if name in table:
            continue
        del roster.nodes[site]
        code = "no-domain" if name is None else "unknown-domain"
        run.event("site unusable", site=site, outcome="left out", code=code)
    roster.domain_names = table
    roster.domains = {site: table.index(name) for site, name in found.items() if name in table}
    if len(roster.nodes) < run.plan.rounds.quorum:
        raise QuorumError(
            f"{len(roster.nodes)} site(s) are of a domain of this run ({', '.join(table)}), the quorum is "
            f"{run.plan.rounds.quorum}: see that the others' cohort.toml declares field_strength_t, and "
            "resume the run"
        )


def first_discriminator(plan: Plan, *, domains: int) -> dict[str, Tensor]:
    """The discriminator before the first round, by the names of its parameters in the network."""
    network = build(plan, seed=0)
    names = attach(network, domains=domains, seed=derive(plan.seed, "discriminator"))
    state = network.state_dict()
    return {name: state[name] for name in names}


def _too_few(plan: Plan, found: Mapping[str, str | None]) -> str:
    silent = [site for site, name in found.items() if name is None]
    names = dict.fromkeys(name for name in found.values() if name is not None)
    there = ", ".join(f"{name} ({_listed(found, name)})" for name in names)
    missing = f"; {', '.join(silent)}: no field_strength_t in cohort.toml" if silent else ""
    return (
        f"alignment '{plan.alignment.method}' needs two domains or more, and by field strength there is "
        f"{there or 'none'}{missing}. Add a site of another, declare what is not declared, or set "
        "alignment.domains to 'site'"
    )


def _listed(found: Mapping[str, str | None], name: str) -> str:
    return ", ".join(site for site, other in found.items() if other == name)


def _kept(run: Run) -> tuple[str, ...]:
    file = run.folder / FILE
    return tuple(json.loads(file.read_text())["domains"]) if file.is_file() else ()


def _fix(run: Run, table: Iterable[str]) -> tuple[str, ...]:
    names = tuple(table)
    run.write_json(run.folder / FILE, {"schema": 1, "by": run.plan.alignment.domains, "domains": names})
    run.event("domains fixed", by=run.plan.alignment.domains, domains=list(names))
    return names
