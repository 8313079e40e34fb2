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
from common.errors import RefusedUpdate
from common.plan import Plan, parse

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, RecordDict

_HEX = re.compile(r"[0-9a-f]{32,64}")


@dataclass(frozen=True)
class Instruction:
    """The words of a message; weights, if any, lie beside it.

    Attributes:
        run: the run's random identity.
        plan_toml: the effective plan.
        round_number: 0 before the first round, the last round's number after it.
        start: SHA-256 of the whole first global model, which a site keeps under that name.
        new_head: whether the head was exchanged for this task.
        stage: what the answer will be filed as, for evaluations.
    """

    run: str
    plan_toml: str
    round_number: int
    start: str
    new_head: bool
    stage: str = ""

    @cached_property
    def plan(self) -> Plan:
        """The plan in the message, checked like any other."""
        return parse(tomllib.loads(self.plan_toml), origin="the hub's plan")

    def record(self) -> ConfigRecord:
        """The instruction as it travels."""
        return wire.pack_metrics(
            {
                "run": self.run,
                "plan": self.plan_toml,
                "round": self.round_number,
                "start": self.start,
                "new_head": self.new_head,
                "stage": self.stage,
            }
        )


def read(content: RecordDict) -> Instruction:
    """The instruction in a message.

    Raises:
        RefusedUpdate: code `malformed`: a part is missing or is not what it should be.
    """
    words: dict[str, Any] = wire.read_metrics(content, wire.INSTRUCTION)
    identities = (words.get("run"), words.get("start"))
    if not all(isinstance(word, str) and _HEX.fullmatch(word) for word in identities):
        raise RefusedUpdate("the instruction names no run or no starting model", code="malformed")
    round_number, stage, plan = words.get("round"), words.get("stage"), words.get("plan")
    if not isinstance(round_number, int) or not isinstance(stage, str) or not isinstance(plan, str):
        raise RefusedUpdate("the instruction lacks its round, stage or plan", code="malformed")
    return Instruction(
        run=str(words["run"]),
        plan_toml=plan,
        round_number=round_number,
        start=str(words["start"]),
        new_head=words.get("new_head") is True,
        stage=stage,
    )
