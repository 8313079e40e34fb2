"""What is asked of every site before and after the rounds: judge a model, adapt it, train alone.

Each stage is a row: a message, and the model that goes with it. A site's answer is kept at once, so a run
that was killed does not ask the same site twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict

from common import wire
from common.errors import RefusedUpdate
from server.answers import Answer
from server.exchange import Line, ask
from server.roster import Roster
from server.run import Run


@dataclass(frozen=True)
class Stage:
    """One question to all sites, outside the rounds.

    Attributes:
        message: the kind of message, of `common.wire`.
        answer: what a site's answer must hold.
    """

    name: str
    message: str
    answer: Mapping[str, type]


_TABLES = {"dice", "hd95_mm", "empty"}

RETURN_S = 120.0
"""A deployed site that is gone is given so long to come back and answer; a dead one would hold up the end."""

JUDGED: Mapping[str, type] = {"scores": dict}
TRAINED: Mapping[str, type] = {**JUDGED, "kept": str, "validation": dict}

BEFORE = Stage("before", wire.EVALUATE, JUDGED)
FEDERATED = Stage("federated", wire.EVALUATE, JUDGED)
ADAPTED = Stage("adapted", wire.ADAPT, TRAINED)
LOCAL_ONLY = Stage("local_only", wire.ALONE, TRAINED)
ALL = (BEFORE, FEDERATED, ADAPTED, LOCAL_ONLY)


def run_stage(line: Line, run: Run, roster: Roster, stage: Stage, content: RecordDict) -> None:
    """Ask every site that has not answered this stage yet; one that cannot answer is named and stays out."""
    todo = {site: content for site in roster.nodes if run.stage_result(stage.name, site) is None}
    if not todo:
        return
    deadline_s = run.plan.rounds.deadline_s
    run.event("stage opened", stage=stage.name, sites=list(todo), deadline_s=deadline_s)
    began = time.monotonic()
    answers = ask(
        line,
        roster.nodes,
        todo,
        stage.message,
        deadline_s=deadline_s,
        run=run,
        enough=lambda: time.monotonic() - began > RETURN_S,
    )
    for answer in answers:
        numbers = _numbers(answer, stage)
        if numbers is None:
            code = answer.code or "malformed"
            run.event("site silent", stage=stage.name, site=answer.site, outcome=answer.outcome, code=code)
            continue
        run.keep_stage_result(stage.name, answer.site, numbers)
        run.event("site answered", stage=stage.name, site=answer.site, seconds=numbers["busy_s"])
    run.add_stage_seconds(stage.name, time.monotonic() - began)
    run.event("stage closed", stage=stage.name, seconds=round(time.monotonic() - began, 3))


def results(run: Run, stage: Stage) -> dict[str, dict[str, Any]]:
    """Site -> what it reported in a stage."""
    found = {site: run.stage_result(stage.name, site) for site in run.plan.site_names}
    return {site: result for site, result in found.items() if result is not None}


def busy_seconds(content: RecordDict) -> float:
    """Seconds that a site says it worked on a message, at most 1e9; 0 where it does not say."""
    try:
        return _seconds(wire.read_metrics(content, wire.TIMES).get("busy_s"))
    except RefusedUpdate:
        return 0.0


def _numbers(answer: Answer, stage: Stage) -> Mapping[str, Any] | None:
    if answer.content is None:
        return None
    try:
        numbers = wire.read_metrics(answer.content)
    except RefusedUpdate:
        return None
    if not all(isinstance(numbers.get(key), kind) for key, kind in stage.answer.items()):
        return None
    believed = {
        "busy_s": busy_seconds(answer.content),
        "train_s": _seconds(numbers.get("train_s")),
        "scores": _scores(numbers["scores"]),
    }
    return {**numbers, **believed}


def _scores(said: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as cards and reports can show them: regions with numbers, and a list of cases."""
    found = dict(said)
    for table in _TABLES & said.keys():
        rows = said[table] if isinstance(said[table], dict) else {}
        found[table] = {region: value for region, value in rows.items() if _is_number(value)}
    if "cases" in said:
        cases = said["cases"] if isinstance(said["cases"], list) else []
        found["cases"] = [case for case in cases if isinstance(case, dict)]
    return found


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _seconds(value: object) -> float:
    """What a site says, at most 1e9, so that sums stay finite; 0 where it is no number."""
    return min(float(value), 1e9) if isinstance(value, int | float) and value >= 0 else 0.0
