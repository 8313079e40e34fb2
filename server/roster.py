"""Who is there: which Flower node is which of the plan's sites, and what each said about itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from common import wire
from common.errors import QuorumError, RefusedUpdate
from common.instruction import Instruction
from server.exchange import ask
from server.run import Run

LOOK_S = 0.2


@dataclass
class Roster:
    """The sites met so far.

    Attributes:
        nodes: site -> Flower node id, in the plan's order.
        facts: site -> what it said about itself (counts, field strength, notes).
        strangers: nodes that are none of the plan's sites, or that refused; not asked again.
        domains: site -> number of its domain; empty where nothing is aligned.
        domain_names: what the domains are called, in the order of their numbers.
    """

    nodes: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    strangers: set[int] = field(default_factory=set)
    domains: dict[str, int] = field(default_factory=dict)
    domain_names: tuple[str, ...] = ()

    def weight_limit(self, site: str) -> int:
        """The most that a site may claim to weigh: the training patients it declared."""
        return int(self.facts[site]["patients"]["train"])


def meet(grid: Grid, run: Run, words: Instruction, roster: Roster, *, deadline_s: float) -> None:
    """Wait until every site of the plan has said hello, or until the deadline if a quorum has.

    Raises:
        QuorumError: fewer sites than the quorum by the deadline; names those that are missing.
    """
    end = time.monotonic() + deadline_s
    while True:
        greet_newcomers(grid, run, words, roster, deadline_s=max(end - time.monotonic(), LOOK_S))
        missing = [site for site in run.plan.site_names if site not in roster.nodes]
        if not missing:
            return
        if time.monotonic() > end or _nobody_else_can_come(grid):
            break
        time.sleep(LOOK_S)
    if len(roster.nodes) < run.plan.rounds.quorum:
        raise QuorumError(
            f"{len(roster.nodes)} of {len(run.plan.sites)} sites are usable, the quorum is "
            f"{run.plan.rounds.quorum}; missing: {', '.join(missing)}. See each site's own log (site.log)"
        )


def greet_newcomers(grid: Grid, run: Run, words: Instruction, roster: Roster, *, deadline_s: float) -> None:
    """Ask every node that is not known yet who it is; a site that joins late is met here too."""
    known = {*roster.nodes.values(), *roster.strangers}
    registered = _registered_names(grid)
    unknown = {
        str(node): node
        for node, name in registered.items()
        if node not in known and (name is None or name in run.plan.sites)
    }
    question = RecordDict({wire.INSTRUCTION: words.record()})
    questions = dict.fromkeys(unknown, question)
    for answer in ask(grid, unknown, questions, wire.HELLO, deadline_s=deadline_s) if unknown else ():
        node = unknown[answer.site]
        facts = _facts(answer.content) if answer.content is not None else None
        name = registered[node]
        if facts is not None and name is not None and facts["site"] != name:
            roster.strangers.add(node)
            run.event("site unusable", site=name, outcome="refused", code="identity")
            continue
        if facts is None or facts["site"] not in run.plan.sites or facts["site"] in roster.nodes:
            if answer.outcome in {"answered", "refused"}:
                roster.strangers.add(node)
            run.event(
                "site unusable",
                site=name or (facts["site"] if facts else "?"),
                outcome=answer.outcome,
                code=answer.code or "unknown-site",
            )
            continue
        roster.nodes[facts["site"]] = node
        roster.facts[facts["site"]] = facts
        run.event("site ready", site=facts["site"], patients=facts["patients"])
    order = [site for site in run.plan.site_names if site in roster.nodes]
    roster.nodes = {site: roster.nodes[site] for site in order}


def _registered_names(grid: Grid) -> dict[int, str | None]:
    """Node id -> the name under which its key was admitted; None in a simulation, where no key is."""
    return {node.node_id: node.name.rpartition("/")[2] or None for node in grid.get_nodes()}


def _nobody_else_can_come(grid: Grid) -> bool:
    """In a simulation every node is there from the start, and has been asked."""
    return bool(getattr(grid, "closed_circle", False))


def _facts(content: RecordDict) -> dict[str, Any] | None:
    try:
        facts = wire.read_metrics(content)
    except RefusedUpdate:
        return None
    patients = facts.get("patients")
    counted = isinstance(patients, Mapping) and isinstance(patients.get("train"), int)
    return facts if counted and isinstance(facts.get("site"), str) else None
