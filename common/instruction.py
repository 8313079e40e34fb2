"""What the hub tells a site with every message: which run, plan, round, and model to start from.

Every message is whole in itself: a site that was restarted, or that never saw the message before, can
still tell what is asked, and check the plan's hash against those that it approved.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from common import wire
from common.errors import PlanError, RefusedUpdate
from common.plan import Plan, parse

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, RecordDict

MAX_DOMAINS = 4096
"""Outputs of a discriminator that a site is ready to make."""

MAX_PLAN_BYTES = 64 * 1024
"""Of a plan's text: some thousand sites."""

MAX_DOTS = 8
"""In a line of a plan's text, beside those in texts; the hub writes two at most."""

_WORDS = {"run", "plan", "round", "start", "new_head"}
_HEX = re.compile(r"[0-9a-f]{32,64}")
_TEXTS = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*",
    re.DOTALL,
)
"""Texts and comments of TOML, where a dot parts no key."""


@dataclass(frozen=True)
class Instruction:
    """The words of a message; weights, if any, lie beside it.

    Attributes:
        run: the run's random identity.
        plan_toml: the effective plan.
        round_number: 0 before the first round, the last round's number after it.
        start: SHA-256 of the whole first global model, which a site keeps under that name.
        new_head: whether the head was exchanged for this task.
        domain: number of the site's domain, from 0; None where nothing is aligned.
        domains: how many there are; 0 where nothing is aligned.
    """

    run: str
    plan_toml: str
    round_number: int
    start: str
    new_head: bool
    domain: int | None = None
    domains: int = 0

    @cached_property
    def plan(self) -> Plan:
        """The plan in the message, checked like any other.

        Raises:
            PlanError: it cannot be read, or is not a valid plan.
        """
        _check_cost(self.plan_toml)
        try:
            data = tomllib.loads(self.plan_toml)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
            raise PlanError(f"the hub's plan is not TOML ({str(error)[:200]})") from None
        return parse(data, origin="the hub's plan")

    def record(self) -> ConfigRecord:
        """The instruction as it travels."""
        words: dict[str, Any] = {
            "run": self.run,
            "plan": self.plan_toml,
            "round": self.round_number,
            "start": self.start,
            "new_head": self.new_head,
        }
        if self.domain is not None:
            words |= {"domain": self.domain, "domains": self.domains}
        return wire.pack_metrics(words)


def read(content: RecordDict) -> Instruction:
    """The instruction in a message.

    Raises:
        RefusedUpdate: code `malformed`: a part is missing, is not what it should be, or is not known here;
            what a newer hub asks for in words that this site does not know must not be half done.
    """
    words: dict[str, Any] = wire.read_metrics(content, wire.INSTRUCTION)
    if set(words) not in (_WORDS, _WORDS | {"domain", "domains"}):
        raise RefusedUpdate("the instruction lacks a part, or has one not known here", code="malformed")
    if not all(isinstance(word, str) and _HEX.fullmatch(word) for word in (words["run"], words["start"])):
        raise RefusedUpdate("the instruction names no run or no starting model", code="malformed")
    if type(words["round"]) is not int or words["round"] < 0 or type(words["new_head"]) is not bool:
        raise RefusedUpdate("the instruction's round or new_head is of a wrong type", code="malformed")
    domain, domains = words.get("domain", 0), words.get("domains", 1)
    if type(domain) is not int or type(domains) is not int or not 0 <= domain < domains <= MAX_DOMAINS:
        raise RefusedUpdate("the instruction's domain is none of its domains", code="malformed")
    aligned = "domain" in words
    return Instruction(
        run=words["run"],
        plan_toml=str(words["plan"]),
        round_number=words["round"],
        start=words["start"],
        new_head=words["new_head"],
        domain=domain if aligned else None,
        domains=domains if aligned else 0,
    )


def _check_cost(text: str) -> None:
    """Refuse what would be read for long: the time for a key grows faster than the square of its depth."""
    size = len(text.encode(errors="replace"))
    if size > MAX_PLAN_BYTES:
        raise PlanError(f"the hub's plan is {size} bytes long; {MAX_PLAN_BYTES} are allowed")
    if any(line.count(".") > MAX_DOTS for line in _TEXTS.sub("", text).split("\n")):
        raise PlanError(f"the hub's plan has a key with more than {MAX_DOTS} dots")
