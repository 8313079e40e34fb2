"""summary.json: one file for machines that says what a run did, made from what the run directory keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from common.checkpoint import load
from server.roster import Roster
from server.run import Run
from server.stages import ADAPTED, ALL, FEDERATED, results

Status = Literal["running", "completed", "failed", "stopped"]
Numbers = dict[str, Any]


def write_summary(run: Run, roster: Roster, *, status: Status, engine: str) -> Numbers:
    """Write and return RUN/summary.json as things stand now."""
    rounds = run.records()
    sites = {name: _site(run, name, roster.facts.get(name, {})) for name in run.plan.site_names}
    accounts = [account for record in rounds for account in record["sites"].values()]
    summary: Numbers = {
        "schema": 1,
        "plan": {"name": run.plan.name, "sha256": run.plan.sha256},
        "status": status,
        "engine": engine,
        "interruptions": run.interruptions,
        "phantom": any(site["phantom"] for site in sites.values()),
        "rounds": rounds,
        "subset_rounds": [record["round"] for record in rounds if record["subset"]],
        "validation": validation_curve(run, rounds),
        "sites": sites,
        "bytes": {
            "up": sum(account["bytes_up"] for account in accounts),
            "down": sum(account["bytes_down"] for account in accounts),
            "fp32_model": _model_bytes(run),
        },
        "seconds": _seconds(run, rounds),
    }
    run.write_json(run.folder / "summary.json", summary)
    return summary


def validation_curve(run: Run, rounds: Sequence[Numbers]) -> list[float | None]:
    """Mean validation Dice over sites of each round's global model, the starting model's first.

    A site validates the model that it receives, so a round's record judges the model of the round before;
    the last model is judged in the final stage.
    """
    judged = [answer.get("validation") for answer in results(run, FEDERATED).values()]
    known = [value for value in judged if isinstance(value, float) and 0 <= value <= 1]
    return [*(record["validation_dice"] for record in rounds), sum(known) / len(known) if known else None]


def best_round(curve: Sequence[float | None]) -> int | None:
    """The first round whose model validated best; None where none was validated."""
    known = {number: value for number, value in enumerate(curve) if value is not None}
    return max(known, key=lambda number: known[number]) if known else None


def _site(run: Run, name: str, facts: Mapping[str, Any]) -> Numbers:
    site: Numbers = {
        "field_strength_t": facts.get("field_strength_t"),
        "cases": facts.get("cases"),
        "phantom": bool(facts.get("phantom")),
        "degraded": facts.get("degraded"),
        "notes": facts.get("notes", []),
    }
    for stage in ALL:
        result = run.stage_result(stage.name, name)
        if result is not None:
            site[stage.name] = result["scores"]
    adapted = run.stage_result(ADAPTED.name, name)
    if adapted is not None:
        site["kept"] = adapted["kept"]
        site["validation"] = adapted["validation"]
    return site


def _seconds(run: Run, rounds: Sequence[Numbers]) -> Numbers:
    """Wall seconds in all; seconds of training and of judging summed over sites; the hub's own in rounds."""
    trained = [account["train_s"] or 0.0 for record in rounds for account in record["sites"].values()]
    answers = [answer for stage in ALL for answer in results(run, stage).values()]
    trained_after = sum(answer["train_s"] for answer in answers)
    return {
        "total": sum(record["wall_s"] for record in rounds)
        + sum(run.stage_seconds(stage.name) for stage in ALL),
        "training": sum(trained) + trained_after,
        "evaluation": sum(answer["busy_s"] for answer in answers) - trained_after,
        "overhead": sum(record["overhead_s"] for record in rounds),
    }


def _model_bytes(run: Run) -> int:
    if run.last_round() is None:
        return 0
    return sum(tensor.numel() * 4 for tensor in load(run.checkpoint_file(0)).tensors.values())
