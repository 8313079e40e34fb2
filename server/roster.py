"""Who is there: which Flower node is which of the plan's sites, and what each said about itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict

from common import wire
from common.errors import QuorumError, RefusedUpdate
from common.instruction import Instruction
from server.answers import Answer
from server.exchange import Line, ask
from server.link import Link
from server.run import Run

LOOK_S = 0.2
LINK_LOOK_S = 1.0
LINK_GREETING_S = 30.0
LIST_DEADLINE_S = 10.0
ASK_AGAIN_S = 30.0
"""Until a deployed site that refused is asked again; each refusal is a line in that site's audit."""
LONGEST_PEACE_S = 900.0


@dataclass
class Roster:
    """The sites met so far.

    Attributes:
        nodes: site -> Flower node id, in the plan's order.
        facts: site -> what it said about itself (counts, field strength, notes).
        turned_away: nodes of no site of the plan, that refused, or did not answer -> when a deployed hub
            asks again, `time.monotonic` seconds.
        unanswered: node -> how often it did not answer a greeting in a row.
        domains: site -> number of its domain; empty where nothing is aligned.
        domain_names: what the domains are called, in the order of their numbers.
    """

    nodes: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    turned_away: dict[int, float] = field(default_factory=dict)
    unanswered: dict[int, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    domain_names: tuple[str, ...] = ()

    def forgive(self) -> None:
        """Ask who did not answer again at the next occasion: it may be at work on what nobody waits for."""
        for node in self.unanswered:
            self.turned_away.pop(node, None)
        self.unanswered.clear()

    def weight_limit(self, site: str) -> int:
        """The most that a site may claim to weigh: the training patients it declared."""
        return int(self.facts[site]["patients"]["train"])


def meet(line: Line, run: Run, words: Instruction, roster: Roster, *, deadline_s: float) -> None:
    """Wait until every site of the plan has said hello, or until the deadline if a quorum has.

    A deployed hub without a quorum waits on, as long as a round may last: a site's node that died is let in
    again only after a while, and an approval takes a person.

    Raises:
        QuorumError: fewer sites than the quorum by the deadline; names those that are missing.
        StoppedError: the run is to stop.
    """
    began = time.monotonic()
    longest_s = run.plan.rounds.deadline_s if isinstance(line, Link) else deadline_s
    while True:
        left_s = deadline_s - (time.monotonic() - began)
        least_s = LINK_GREETING_S if isinstance(line, Link) else LOOK_S
        greet_newcomers(line, run, words, roster, deadline_s=max(left_s, least_s))
        roster.forgive()
        missing = [site for site in run.plan.site_names if site not in roster.nodes]
        if not missing or _nobody_else_can_come(line):
            break
        enough = len(roster.nodes) >= run.plan.rounds.quorum
        if time.monotonic() - began > (deadline_s if enough else longest_s):
            break
        run.check_stop()
        time.sleep(LINK_LOOK_S if isinstance(line, Link) else LOOK_S)
    if len(roster.nodes) < run.plan.rounds.quorum:
        raise QuorumError(
            f"{len(roster.nodes)} of {len(run.plan.sites)} sites are usable, the quorum is "
            f"{run.plan.rounds.quorum}; missing: {', '.join(missing)}. See each site's own log (site.log)"
        )


def greet_newcomers(line: Line, run: Run, words: Instruction, roster: Roster, *, deadline_s: float) -> None:
    """Ask every node that is not known yet who it is; a site that joins late is met here too."""
    unknown = _newcomers(line, run, roster)
    question = RecordDict({wire.INSTRUCTION: words.record()})
    questions = dict.fromkeys(unknown, question)
    answers = ask(line, unknown, questions, wire.HELLO, deadline_s=deadline_s, run=run, enough=lambda: True)
    for answer in answers if unknown else ():
        node = unknown[answer.site]
        facts = _facts(answer.content) if answer.content is not None else None
        name = str(facts["site"]) if facts else "?"
        code = answer.code or _fault(line, run, roster, registered=answer.site, facts=facts)
        if facts is None or code:
            _turn_away(line, roster, node, answer)
            known = answer.site if isinstance(line, Link) else name
            run.event("site unusable", site=known, outcome=answer.outcome, code=code)
            continue
        roster.nodes[name] = node
        roster.facts[name] = facts
        run.event("site ready", site=name, patients=facts["patients"])
    order = [site for site in run.plan.site_names if site in roster.nodes]
    roster.nodes = {site: roster.nodes[site] for site in order}


def _newcomers(line: Line, run: Run, roster: Roster) -> dict[str, int]:
    """Nodes to be greeted: of a deployed hub by the name under which their key was admitted.

    In a simulation nodes have no keys, and one that was turned away is not asked again. A hospital may
    approve a plan that it refused a minute ago.
    """
    if isinstance(line, Link):
        asked_lately = {node for node, until in roster.turned_away.items() if time.monotonic() < until}
        nodes = line.nodes(within_s=LIST_DEADLINE_S)
        named = {facts.name: node for node, facts in sorted(nodes.items())}
        return {
            site: named[site]
            for site in run.plan.site_names
            if site in named and named[site] not in {roster.nodes.get(site), *asked_lately}
        }
    known = {*roster.nodes.values(), *roster.turned_away}
    return {str(node): node for node in line.get_node_ids() if node not in known}


def _turn_away(line: Line, roster: Roster, node: int, answer: Answer) -> None:
    """Leave a node in peace for a while; one that is silent for longer each time, as every round waits."""
    if answer.outcome in {"answered", "refused"}:
        roster.turned_away[node] = time.monotonic() + ASK_AGAIN_S
    elif answer.outcome == "late" and isinstance(line, Link):  # in a simulation it is asked again
        times = roster.unanswered[node] = roster.unanswered.get(node, -1) + 1
        roster.turned_away[node] = time.monotonic() + min(ASK_AGAIN_S * 2**times, LONGEST_PEACE_S)


def _fault(line: Line, run: Run, roster: Roster, *, registered: str, facts: dict[str, Any] | None) -> str:
    """Why a node that answered is not taken: a code, empty where it is."""
    if facts is None:
        return "unknown-site"
    if isinstance(line, Link):
        return "" if facts["site"] == registered else "identity"
    return "" if facts["site"] in run.plan.sites and facts["site"] not in roster.nodes else "unknown-site"


def _nobody_else_can_come(line: Line) -> bool:
    """In a simulation every node is there from the start, and has been asked."""
    return bool(getattr(line, "closed_circle", False))


def _facts(content: RecordDict) -> dict[str, Any] | None:
    try:
        facts = wire.read_metrics(content)
    except RefusedUpdate:
        return None
    patients = facts.get("patients")
    counted = isinstance(patients, Mapping) and isinstance(patients.get("train"), int)
    return facts if counted and isinstance(facts.get("site"), str) else None
