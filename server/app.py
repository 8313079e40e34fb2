"""The hub's half of the federation, top to bottom: plan, first model, rounds, final numbers, release."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import wire
from common.errors import FedGliaError, InputError, QuorumError, StoppedError
from common.flower import outlive_executor, quicken
from common.instruction import Instruction
from common.learning.finetuning import trainable_names
from common.models.network import build
from server import stages
from server.card import compose_card, lineage_of
from server.domains import agree, first_discriminator
from server.exchange import Line, ask
from server.link import Link
from server.registry import list_releases, make_release
from server.roster import Roster, greet_newcomers, meet
from server.rounds import GlobalModel, run_round
from server.run import RUN_NAME, Event, Listener, Run, opened
from server.start import Start, first_model
from server.summary import Status, best_round, write_summary

RUN_VARIABLE = "FEDGLIA_RUN"
"""The run directory, for engines that give a ServerApp no configuration."""
RUNS_VARIABLE = "FEDGLIA_RUNS"
"""Where a deployed hub keeps its run directories; which of them, the run's configuration says."""
ENGINE_VARIABLE = "FEDGLIA_ENGINE"

MEET_DEADLINE_S = 120.0
LATECOMER_DEADLINE_S = 60.0
"""A deployed site starts a process for each message, which alone takes seconds."""

_BY_A_PERSON = (KeyboardInterrupt, SystemExit, StoppedError)
"""How a run is stopped: Ctrl-C here, a signal to Flower's process, or the run directory's file `stop`."""

app = ServerApp()
listeners: list[Listener] = []
"""Called with every event of a run in this process; a terminal shows progress this way."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run that the run directory describes, from where it stands."""
    name = str(context.run_config.get("run") or "")
    if name:
        quicken()
        outlive_executor()
    folder = _deployed_folder(name) if name else Path(os.environ[RUN_VARIABLE])
    with opened(folder, listen=_tell_listeners) as run:
        roster = Roster()
        try:
            carry_out(Link(grid) if name else grid, run, roster)
        except BaseException as error:
            run.forget_open_round()  # on a full disk this makes room for what follows
            # Where it does not these fail too, and must not hide why.
            with suppress(FedGliaError):
                _sum_up(run, roster, "stopped" if isinstance(error, _BY_A_PERSON) else "failed")
                _tell_end(run, error)
            raise


def _tell_end(run: Run, error: BaseException) -> None:
    if isinstance(error, _BY_A_PERSON):
        run.event("run stopped", by="signal" if isinstance(error, SystemExit) else "person")
    else:
        run.event("run failed", error=type(error).__name__, detail=str(error))


def _deployed_folder(name: str) -> Path:
    """The run directory of that name; whoever can start runs cannot name a folder elsewhere by it.

    Raises:
        InputError: not the name of a run of this hub.
    """
    runs = os.environ.get(RUNS_VARIABLE)
    if not runs or not RUN_NAME.fullmatch(name) or not (Path(runs) / name / "run.json").is_file():
        raise InputError(f"'{name[:60]}' is no run of this hub; start runs with: fedglia rounds start PLAN")
    return Path(runs) / name


def carry_out(line: Line, run: Run, roster: Roster) -> None:
    """Every step that is not done yet, in order; what was done stays done."""
    start = first_model(run)
    model = _latest(run, start)
    run.point("last", model.round_number)  # a kill may have come between a round's end and this
    words = Instruction(run.identity, run.plan.as_toml(), 0, start.digest, start.new_head)
    run.event("run opened", plan=run.plan.sha256, round=model.round_number, of=run.plan.rounds.count)
    _sum_up(run, roster, "running")
    meet(line, run, words, roster, deadline_s=min(MEET_DEADLINE_S, run.plan.rounds.deadline_s))
    agree(run, roster)
    model = _with_discriminator(run, model, roster)
    _hand_out(line, run, roster, start, words)
    first = GlobalModel(dict(start.tensors), model.layout, {}).message(words)
    stages.run_stage(line, run, roster, stages.BEFORE, first)
    while model.round_number < run.plan.rounds.count:
        if len(roster.nodes) < len(run.plan.sites):
            greet_newcomers(line, run, words, roster, deadline_s=LATECOMER_DEADLINE_S)
            agree(run, roster)
            _hand_out(line, run, roster, start, words)
        model = run_round(line, run, roster, model, words)
        run.point("last", model.round_number)
        _sum_up(run, roster, "running")
    last = model.message(replace(words, round_number=model.round_number))
    stages.run_stage(line, run, roster, stages.BEFORE, first)  # of those who joined later
    stages.run_stage(line, run, roster, stages.FEDERATED, last)
    stages.run_stage(line, run, roster, stages.ADAPTED, last)
    if run.plan.evaluation.local_only:
        stages.run_stage(line, run, roster, stages.LOCAL_ONLY, first)
    summary = _sum_up(run, roster, "completed")
    title = _release(run, start, model, summary)
    run.event("run completed", round=model.round_number, release=title)


def _latest(run: Run, start: Start) -> GlobalModel:
    """The model of the last closed round, with the parameters that the adaptation trains."""
    network = build(run.plan, seed=0)
    names = trainable_names(network, run.plan.adaptation.trains, new_head=start.new_head)
    layout = wire.Layout.of({name: start.tensors[name] for name in names})
    number = run.last_round() or 0
    checkpoint, server_state = run.load_round(number)
    return GlobalModel(dict(checkpoint.tensors), layout, server_state, number)


def _with_discriminator(run: Run, model: GlobalModel, roster: Roster) -> GlobalModel:
    """Before the first round of a plan that aligns domains there is none yet; later it is in the state."""
    if not roster.domains or model.discriminator:
        return model
    fresh = first_discriminator(run.plan, domains=len(roster.domain_names))
    return replace(model, server_state={**model.server_state, **fresh})


def _hand_out(line: Line, run: Run, roster: Roster, start: Start, words: Instruction) -> None:
    """Give the whole first model to the sites that do not have it; from then on only what trains travels.

    Who cannot take it is left out, and greeted again before the next round.

    Raises:
        QuorumError: fewer sites than the quorum remain.
    """
    layout = wire.Layout.of(start.tensors)
    content = GlobalModel(dict(start.tensors), layout, {}).message(words)
    lacking = {site: content for site in roster.nodes if not roster.facts[site].get("knows_start")}
    answers = ask(
        line,
        roster.nodes,
        lacking,
        wire.RECEIVE,
        deadline_s=run.plan.rounds.deadline_s,
        run=run,
        enough=lambda: _ready(roster) >= run.plan.rounds.quorum,
    )
    for answer in answers:
        if answer.outcome == "answered":
            roster.facts[answer.site]["knows_start"] = True
            run.event("first model received", site=answer.site, bytes=layout.size * 4)
        else:
            del roster.nodes[answer.site]
            run.event("site unusable", site=answer.site, outcome=answer.outcome, code=answer.code)
    if len(roster.nodes) < run.plan.rounds.quorum:
        raise QuorumError(
            f"{len(roster.nodes)} site(s) took the first model, the quorum is {run.plan.rounds.quorum}: "
            "see the site.log of the others, and resume the run"
        )


def _ready(roster: Roster) -> int:
    return sum(bool(roster.facts[site].get("knows_start")) for site in roster.nodes)


def _tell_listeners(event: Event) -> None:
    for listen in listeners:
        listen(event)


def _release(run: Run, start: Start, model: GlobalModel, summary: Mapping[str, Any]) -> str:
    """Release the last global model with its lineage and card, once; returns the release's title."""
    plan, version = run.plan, f"r{model.round_number}"
    title = f"{plan.name}-{version}"
    if title not in {release.title for release in list_releases(run.folder)}:
        lineage = lineage_of(
            summary,
            round_number=model.round_number,
            preset=plan.model.preset,
            task=plan.task.kind,
            start=start.origin,
        )
        lineage["spacing_mm"] = plan.task.spacing_mm
        if plan.alignment.method != "none":
            lineage["alignment"] = f"{plan.alignment.method} by {plan.alignment.domains}"
        card = compose_card(plan.name, version, lineage=lineage, summary=summary)
        make_release(
            run.folder, plan.name, version=version, tensors=model.tensors, lineage=lineage, card=card
        )
    return title


def _sum_up(run: Run, roster: Roster, status: Status) -> dict[str, Any]:
    """Write the summary and name the best checkpoint; both can be made again at any time."""
    summary = write_summary(run, roster, status=status, engine=os.environ.get(ENGINE_VARIABLE, "deployed"))
    best = best_round(summary["validation"])
    if best is not None:
        run.point("best", best)
    return summary
