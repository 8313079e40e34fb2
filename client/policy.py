"""What this hospital allows: the [policy] of site.toml, and what of a plan goes beyond it.

Everything has a default that a small plan fits into. A key that is not known is an error that names the
nearest one, so that a limit which was misspelt is never taken for a limit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from common.errors import SiteError
from common.plan import Plan

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Metric = Literal[
    "loss",
    "domain_loss",
    "validation_dice",
    "dice",
    "hd95_mm",
    "empty",
    "cases",
    "train_s",
    "busy_s",
    "precision",
    "field_strength_t",
    "notes",
]

METRICS: Mapping[Metric, str] = {
    "loss": "mean training loss of a round",
    "domain_loss": "mean training loss of the network that tells domains apart",
    "validation_dice": "overlap with the experts' outlines (Dice, 0 to 1), mean over validation patients",
    "dice": "overlap with the experts' outlines (Dice, 0 to 1), mean over test patients, for each region",
    "hd95_mm": "distance from the experts' outlines (HD95, mm), mean over test patients, for each region",
    "empty": "in how many test cases a region was empty",
    "cases": "the scores of each test case by itself, numbered, without a name",
    "train_s": "seconds of training",
    "busy_s": "seconds of work on a message",
    "precision": "arithmetic that was used: fp32 or bf16",
    "field_strength_t": "field strength, and whether scans were made to look like another scanner's",
    "notes": "how many cases have no label, or are too few to validate on",
}
"""Metric -> what it says. What has no row here never leaves, whatever the policy allows."""

ALWAYS = (
    "the site's name; how many cases and patients train, validate and test; whether the scans are made up; "
    "which of two models is kept; that a message was carried out or refused"
)
"""What a federation cannot do without, and no policy can withhold; for people."""


def _without_cases() -> list[Metric]:
    return [metric for metric in METRICS if metric != "cases"]


_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Approval(BaseModel):
    """A plan that this hospital said yes to; `fedglia site approve` writes it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    plan: str = Field(description="the plan's name")
    sha256: Sha256 = Field(description="its hash")
    when: str = Field("", description="time of the approval")


class Policy(BaseModel):
    """The keys of [policy] in site.toml; all of them optional."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    approved: list[Approval] = Field(
        default_factory=list, description="plans that may run here; `fedglia site approve` adds one"
    )
    releases: list[Sha256] = Field(
        default_factory=list,
        description="SHA-256 of the models that a run may start from; empty: any that the plan names",
    )
    max_rounds: Count = Field(100, description="rounds of one run")
    max_steps: Count = Field(
        50_000, description="training steps of one run; a round that the hub asks for twice counts twice"
    )
    max_hours: Positive = Field(
        48.0, description="hours of work for one run; the message that crosses it is still finished"
    )
    max_bytes: Count = Field(4_000_000_000, description="bytes that one run may send from here")
    max_runs: Count = Field(
        20, description="runs of one approved plan, of those whose state is still here (see log_days)"
    )
    max_memory_gb: Positive = Field(16.0, description="memory that the process which trains may take, GB")
    gpu: Literal["allow", "forbid"] = Field("allow", description="whether training may use a GPU")
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of a GPU's memory that training may take"
    )
    hours: str = Field(
        "",
        description='when work may begin, local time, as "20:00-06:00"; empty: always. What has begun is '
        "finished: at most the plan's deadline later",
    )
    days: list[Day] = Field(
        default_factory=list,
        description='days on which those hours begin, as ["sat", "sun"]; empty: every day',
    )
    minimum_sites: Count = Field(
        2,
        description="sites whose updates a round must hold (the plan's quorum). With two, the other site "
        "can work out your update from the sum; three or more hide it from any one of them",
    )
    metrics: list[Metric] = Field(
        default_factory=_without_cases,
        description="numbers that may leave beside the model update; of a case by itself only with 'cases'",
    )
    log_days: Count = Field(
        30,
        description="days that logs, unused prepared cases and starting models, and the state of past runs "
        "stay; audit and egress records stay",
    )
    cache_gb: Positive = Field(
        20.0, description="prepared cases that are kept, GB; those used longest ago go first"
    )

    @field_validator("hours")
    @classmethod
    def _is_a_window(cls, hours: str) -> str:
        found = _WINDOW.fullmatch(hours)
        if hours and (not found or hours[:5] == hours[6:]):
            raise ValueError('must be two different times of day, as "20:00-06:00", or empty for always')
        return hours

    @property
    def memory_bytes(self) -> int:
        """Most memory that the process which trains may take."""
        return int(self.max_memory_gb * 1e9)

    @property
    def approved_hashes(self) -> frozenset[str]:
        """Hashes of the plans that may run here."""
        return frozenset(approval.sha256 for approval in self.approved)

    def is_open(self, moment: datetime) -> bool:
        """Whether work may begin at a local time; a window that crosses midnight counts for its first day."""
        if not self.hours:
            return self._holds(moment)
        start, end = time.fromisoformat(self.hours[:5]), time.fromisoformat(self.hours[6:])
        now = moment.time()
        if start < end:
            return start <= now < end and self._holds(moment)
        return (now >= start and self._holds(moment)) or (
            now < end and self._holds(moment - timedelta(days=1))
        )

    def _holds(self, moment: datetime) -> bool:
        return not self.days or _DAYS[moment.weekday()] in self.days


@dataclass(frozen=True)
class Excess:
    """One thing that a plan asks for beyond the policy: a code for the hub, words for this hospital."""

    code: str
    words: str


def parse_policy(words: Mapping[str, Any]) -> Policy:
    """The [policy] of a site.toml.

    Raises:
        SiteError: code `policy`; names the key and, for an unknown one, the nearest.
    """
    try:
        return Policy.model_validate(dict(words))
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise SiteError("site.toml, [policy]: " + "; ".join(lines), code="policy") from None


def excesses(policy: Policy, plan: Plan, *, bytes_up: int = 0) -> Iterator[Excess]:
    """What of a plan goes beyond the policy, whoever approved it; nothing for a plan that fits.

    Args:
        policy: this hospital's.
        plan: the effective plan.
        bytes_up: what a run of it sends from here, where that was counted.
    """
    rounds, steps = plan.rounds.count, steps_of(plan)
    if rounds > policy.max_rounds:
        yield Excess("cap-rounds", f"{rounds} rounds; max_rounds is {policy.max_rounds}")
    if steps > policy.max_steps:
        yield Excess("cap-steps", f"{steps} training steps; max_steps is {policy.max_steps}")
    if bytes_up > policy.max_bytes:
        yield Excess("cap-bytes", f"{bytes_up} bytes sent; max_bytes is {policy.max_bytes}")
    if plan.rounds.quorum < policy.minimum_sites:
        yield Excess(
            "minimum-sites",
            f"a round may close with {plan.rounds.quorum} of {len(plan.sites)} sites (its quorum); "
            f"minimum_sites is {policy.minimum_sites}",
        )


def steps_of(plan: Plan) -> int:
    """Training steps of one site in a whole run."""
    trained = plan.total_steps + plan.adaptation.adapt_steps
    return trained * 2 if plan.evaluation.local_only else trained


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ")
        return f"'{key}': {message[:1].lower()}{message[1:]}; found {problem['input']!r:.60}"
    known = list(Approval.model_fields if "." in key else Policy.model_fields)
    return f"unknown key '{key}'{nearest(key.rpartition('.')[2], known)}"


def nearest(key: str, known: list[str]) -> str:
    """Words that help somebody who misspelt a key."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"
