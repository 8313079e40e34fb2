"""Which messages of the hub this hospital allows: known, whole, of an approved plan, within policy and time.

Only what can be told from a message, the site and its policy is looked at here; nothing of it has run yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flwr.app import ArrayRecord, Message, RecordDict

from client import audit
from client.policy import Policy, excesses
from client.site import Site
from client.spending import Cost
from common import instruction, wire
from common.codec import CODECS
from common.errors import RefusedUpdate
from common.instruction import Instruction
from common.plan import Plan

LONGEST_GREETING_S = 120.0
"""The hub waits so long for a hello even where the plan's rounds are shorter."""

_SLACK_S = 5.0
_TELLS_LITTLE = 64 * 1024
"""Bytes that are reserved for a reply without weights, before it is known."""

_WITH_A_MODEL = frozenset({wire.INSTRUCTION, wire.TABLE, wire.WEIGHTS})

HOLDS: Mapping[str, frozenset[str]] = {
    wire.HELLO: frozenset({wire.INSTRUCTION}),
    wire.RECEIVE: _WITH_A_MODEL,
    wire.ROUND: _WITH_A_MODEL,
    wire.EVALUATE: _WITH_A_MODEL,
    wire.ADAPT: _WITH_A_MODEL,
    wire.ALONE: _WITH_A_MODEL,
}
"""The messages that a site knows, and the records that each is made of."""

_CLOCK_S = 300.0
"""By how much a hub's clock may be ahead; Flower itself takes no more."""


@dataclass(frozen=True)
class Order:
    """A message that may be carried out.

    Attributes:
        kind: message type, of `common.wire`.
        cost: the most that it may take.
        account: the folder in which its run's sums are kept.
    """

    kind: str
    words: Instruction
    cost: Cost
    account: Path


def read(message: Message) -> Instruction:
    """The instruction of a message that is known, whole and in time; its plan has not been looked at yet.

    Raises:
        RefusedUpdate: the code says why: `unknown-type`, `malformed`, `schema`, `size` or `expired`.
    """
    kind = message.metadata.message_type
    if kind not in HOLDS:
        raise RefusedUpdate(f"there is no message '{audit.plain(kind)}'", code="unknown-type")
    if not message.has_content() or set(message.content) != HOLDS[kind]:
        raise RefusedUpdate(f"a message '{kind}' is made of other records", code="malformed")
    _check_in_time(message)
    return instruction.read(message.content)


def check(site: Site, policy: Policy, message: Message, words: Instruction) -> Order:
    """What a message asks, if it may be asked here and now; sums over its run are looked at by `reserve`.

    Args:
        site: this one.
        policy: this hospital's.
        message: as Flower delivered it.
        words: what `read` found in it.

    Raises:
        RefusedUpdate: the code says why: `malformed`, `unapproved`, `not-planned`, a cap's, `minimum-sites`,
            `release` or `hours`.
        PlanError: the message holds no valid plan.
    """
    kind, plan = message.metadata.message_type, words.plan
    if plan.sha256 not in policy.approved_hashes:
        raise RefusedUpdate(
            f"plan '{plan.name}' ({plan.sha256[:12]}) is not approved here: read it with `fedglia site "
            "approve PLAN`, and say yes or no",
            code="unapproved",
        )
    _check_planned(site, kind, words)
    for excess in excesses(policy, plan):
        raise RefusedUpdate(excess.words, code=excess.code)
    if policy.releases and words.start not in policy.releases:
        raise RefusedUpdate(
            f"the run starts from model {words.start}, which releases does not name", code="release"
        )
    left_s = _seconds_left(message, plan)
    if not policy.is_open(datetime.now()):  # the clock on the hospital's wall
        raise RefusedUpdate(
            f"outside the hours: {policy.hours or 'any time'} {', '.join(policy.days)}".strip(), code="hours"
        )
    cost = Cost(left_s, _steps(kind, plan), _bytes(kind, plan, message.content))
    return Order(kind, words, cost, site.folder / "state" / words.run)


def _check_planned(site: Site, kind: str, words: Instruction) -> None:
    plan = words.plan
    wrong = ""
    if site.name not in plan.sites:
        wrong = f"plan '{plan.name}' has no site '{site.name}'"
    elif words.round_number > plan.rounds.count or (kind == wire.ROUND and words.round_number < 1):
        wrong = f"round {words.round_number} of {plan.rounds.count}"
    elif kind == wire.ALONE and not plan.evaluation.local_only:
        wrong = "the plan asks for no training without the others (evaluation.local_only)"
    elif words.domain is not None and plan.alignment.method == "none":
        wrong = "the plan aligns no domains, and the message names one"
    if wrong:
        raise RefusedUpdate(wrong, code="not-planned")


def _check_in_time(message: Message) -> None:
    """Whether anybody still waits; one that says it lives for ever is looked at with the plan."""
    ttl = message.metadata.ttl
    if not math.isnan(ttl) and not 0 < _left_s(message) <= ttl + _SLACK_S + _CLOCK_S:
        raise RefusedUpdate("the message came after its deadline, or from the future", code="expired")


def _left_s(message: Message) -> float:
    return message.metadata.created_at + message.metadata.ttl - time.time()


def _seconds_left(message: Message, plan: Plan) -> float:
    """Until nobody waits for the reply any more; a message may live as long as the plan says, not longer."""
    ttl = message.metadata.ttl
    if not ttl <= max(plan.rounds.deadline_s, LONGEST_GREETING_S) + _SLACK_S:  # NaN too
        raise RefusedUpdate(
            f"a message that lives {ttl} s; the plan's deadline is shorter", code="not-planned"
        )
    return min(max(_left_s(message), 0.0), ttl)  # it may have ended while the plan was read


def _steps(kind: str, plan: Plan) -> int:
    alone = plan.total_steps + plan.adaptation.adapt_steps
    return {
        wire.ROUND: plan.adaptation.local_steps,
        wire.ADAPT: plan.adaptation.adapt_steps,
        wire.ALONE: alone,
    }.get(kind, 0)


def _bytes(kind: str, plan: Plan, content: RecordDict) -> int:
    """An update has as many values as came in: the app compares both with the plan's network."""
    if kind != wire.ROUND:
        return _TELLS_LITTLE
    weights = content[wire.WEIGHTS]
    if not isinstance(weights, ArrayRecord):
        raise RefusedUpdate("the weights are no array", code="malformed")
    values = sum(len(array.data) for array in weights.values()) // 4
    return CODECS[plan.aggregation.codec].nbytes(values) + _TELLS_LITTLE
