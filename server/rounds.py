"""One round: invite, wait until the deadline, gate each reply as it comes, fold, step, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from common import wire
from common.codec import CODECS, Flat
from common.errors import QuorumError, RefusedUpdate
from common.instruction import Instruction
from common.models.domain import is_discriminators
from server.aggregation import Optimiser, Section, domain_weights, fold, step
from server.answers import Answer
from server.exchange import Line, ask
from server.gate import Expectation, Spool, Spooled, admit, judge
from server.roster import Roster
from server.run import Run
from server.stages import busy_seconds

Numbers = dict[str, Any]

_REPORTED = {"train_s": 1e9, "loss": 1e9, "validation_dice": 1.0}
"""What a site reports beside its update, with the most that is believed; sums of these stay finite."""

_REPORTED_IF_ALIGNED = {"domain_loss": 1e9}


@dataclass(frozen=True)
class GlobalModel:
    """The hub's model between two rounds.

    Attributes:
        tensors: the whole model.
        layout: the parameters that train, and so travel.
        server_state: what the hub keeps to itself: the server optimiser's memory and, where domains are
            aligned, the discriminator, which travels in rounds and is no part of the model.
    """

    tensors: dict[str, Tensor]
    layout: wire.Layout
    server_state: dict[str, Tensor]
    round_number: int = 0

    @property
    def flat(self) -> Flat:
        """What travels, as one vector."""
        return wire.flatten(self.tensors, self.layout)

    @property
    def discriminator(self) -> dict[str, Tensor]:
        """The discriminator by its names in the network; empty where nothing is aligned."""
        return {name: value for name, value in self.server_state.items() if is_discriminators(name)}

    @property
    def round_layout(self) -> wire.Layout:
        """What travels in a round: the parameters that train, then the discriminator."""
        return self.layout.followed_by(wire.Layout.of(self.discriminator))

    def questions(self, roster: Roster, words: Instruction) -> dict[str, RecordDict]:
        """What each site is sent in a round: the same weights, and the number of its own domain."""
        layout = self.round_layout
        packed, _ = CODECS["fp32"].encode(wire.flatten({**self.tensors, **self.discriminator}, layout))
        content = wire.pack_weights(packed, layout, round_number=words.round_number)
        return {
            site: RecordDict({**content, wire.INSTRUCTION: _told(roster, site, words).record()})
            for site in roster.nodes
        }

    def message(self, words: Instruction) -> RecordDict:
        """The content that carries this model to a site."""
        packed, _ = CODECS["fp32"].encode(self.flat)
        content = wire.pack_weights(packed, self.layout, round_number=words.round_number)
        content[wire.INSTRUCTION] = words.record()
        return content


@dataclass
class _OpenRound:
    """What is known of the open round: an account of each site, and when sites were at work."""

    number: int
    spool: Spool
    accounts: dict[str, Numbers]
    busy: list[tuple[float, float]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def note(
        self, site: str, outcome: str, reason: str | None = None, *, numbers: Numbers | None = None
    ) -> None:
        self.accounts[site].update(outcome=outcome, reason=reason, **(numbers or {}))

    def folded(self) -> list[str]:
        return [site for site, account in self.accounts.items() if account["outcome"] == "folded"]


def run_round(line: Line, run: Run, roster: Roster, model: GlobalModel, words: Instruction) -> GlobalModel:
    """The global model after one more round, which is closed on disk before this returns.

    Raises:
        QuorumError: too few usable updates; a resumed run opens this round again.
        StoppedError: the run is to stop; a resumed run opens this round again.
    """
    number = model.round_number + 1
    layout = model.round_layout
    questions = model.questions(roster, replace(words, round_number=number))
    current = _open(number, run, roster, layout)
    deadline_s = run.plan.rounds.deadline_s
    run.event("round opened", round=number, sites=list(roster.nodes), deadline_s=deadline_s)
    answers = ask(
        line,
        roster.nodes,
        questions,
        wire.ROUND,
        deadline_s=deadline_s,
        run=run,
        enough=lambda: len(current.folded()) >= run.plan.rounds.quorum,
    )
    for answer in answers:
        _take_in(answer, current, run, roster, layout)
    _refuse_outliers(current, run)
    _check_quorum(current, run)
    moved = _fold(current, run, model, roster)
    record = _record(current, run)
    run.close_round(number, tensors=moved.tensors, record=record, server_state=moved.server_state)
    current.spool.clear()
    told = ("round", "folded", "subset", "validation_dice", "wall_s", "overhead_s")
    run.event("round closed", **{key: record[key] for key in told})
    return moved


def _open(number: int, run: Run, roster: Roster, layout: wire.Layout) -> _OpenRound:
    """A round in which nobody has answered; a site of the plan that is not there is lost from the start."""
    absent = {"outcome": "lost", "reason": "absent", "train_s": None, "bytes_up": 0, "bytes_down": 0}
    asked = {**absent, "reason": None, "bytes_down": layout.size * 4}
    accounts = {site: dict(asked if site in roster.nodes else absent) for site in run.plan.site_names}
    return _OpenRound(number, Spool(run.spool_folder), accounts)


def _take_in(answer: Answer, current: _OpenRound, run: Run, roster: Roster, layout: wire.Layout) -> None:
    """Gate one reply and spool it, or say why not; a bad reply never costs more than itself."""
    site = answer.site
    if answer.content is None:
        unsent = {"bytes_down": 0} if answer.code == "not-sent" else None
        current.note(site, answer.outcome, answer.code, numbers=unsent)
        run.event("site silent", round=current.number, site=site, outcome=answer.outcome, code=answer.code)
        return
    busy_s = busy_seconds(answer.content)
    # No site can have worked on a round before it was opened, whatever it says.
    current.busy.append((max(answer.received_at - busy_s, current.began), answer.received_at))
    try:
        expected = Expectation(layout, current.number, roster.weight_limit(site))
        update, norm = admit(answer.content, expected, site=site)
        numbers = wire.read_metrics(answer.content)
        weight = update.weight if run.plan.aggregation.weighting == "patients" else 1
        current.spool.add(site, update.delta, weight=weight, norm=norm)
    except RefusedUpdate as refusal:
        current.note(site, "refused", refusal.code)
        run.event("update refused", round=current.number, site=site, code=refusal.code, detail=str(refusal))
        return
    reported = _REPORTED | (_REPORTED_IF_ALIGNED if roster.domains else {})
    said = {key: _number(numbers.get(key), most) for key, most in reported.items()}
    sent = CODECS[run.plan.aggregation.codec].nbytes(layout.size)
    current.note(site, "folded", numbers={**said, "bytes_up": sent, "update_norm": norm})
    run.event("site answered", round=current.number, site=site, loss=said["loss"], seconds=round(busy_s, 3))


def _refuse_outliers(current: _OpenRound, run: Run) -> None:
    norms = {site: current.accounts[site]["update_norm"] for site in current.folded()}
    for site, why in judge(norms, factor=run.plan.aggregation.norm_factor).items():
        current.note(site, "refused", "norm")
        run.event("update refused", round=current.number, site=site, code="norm", detail=why)


def _check_quorum(current: _OpenRound, run: Run) -> None:
    usable, needed = current.folded(), run.plan.rounds.quorum
    if len(usable) >= needed:
        return
    others = [
        f"{site} {account['outcome']} ({account['reason']})"
        for site, account in current.accounts.items()
        if site not in usable
    ]
    run.event("quorum missed", round=current.number, usable=usable, quorum=needed)
    raise QuorumError(
        f"round {current.number}: {len(usable)} usable update(s), the quorum is {needed}; "
        f"{', '.join(others)}. Mend the sites named (each one's site.log has the words) and resume the run"
    )


def _told(roster: Roster, site: str, words: Instruction) -> Instruction:
    if not roster.domains:
        return words
    return replace(words, domain=roster.domains[site], domains=len(roster.domain_names))


def _fold(current: _OpenRound, run: Run, model: GlobalModel, roster: Roster) -> GlobalModel:
    """The next global model; sites are folded in the plan's order, whoever answered first."""
    wanted = run.plan.aggregation
    updates = [current.spool.open(site) for site in run.plan.site_names if site in current.folded()]
    models = [Section(update, 0, model.layout.size) for update in updates]
    merged = fold(wanted.fold, models, [update.weight for update in updates])
    optimiser = Optimiser(name=wanted.server_optimiser, learning_rate=wanted.server_learning_rate)
    flat, memory = step(
        model.flat, merged, model.server_state, optimiser=optimiser, round_number=current.number
    )
    tensors = {**model.tensors, **wire.unflatten(flat, model.layout)}
    discriminator = _fold_discriminator(updates, model, roster)
    return GlobalModel(tensors, model.layout, {**memory, **discriminator}, current.number)


def _fold_discriminator(updates: list[Spooled], model: GlobalModel, roster: Roster) -> dict[str, Tensor]:
    """The next discriminator: a plain mean in which domains count alike, however the model is merged.

    One that heard of a single domain in this round would learn to name that one always: it stays as it was.
    """
    before = model.discriminator
    domains = [roster.domains[update.site] for update in updates] if before else []
    if len(set(domains)) < 2:
        return before
    parts = [Section(update, model.layout.size, len(update)) for update in updates]
    layout = wire.Layout.of(before)
    flat = wire.flatten(before, layout) + fold("mean", parts, domain_weights(domains))
    return wire.unflatten(flat.astype("float32"), layout)


def _record(current: _OpenRound, run: Run) -> Numbers:
    folded = current.folded()
    wall_s = time.monotonic() - current.began
    judged = [current.accounts[site]["validation_dice"] for site in folded]
    known = [value for value in judged if value is not None]
    return {
        "round": current.number,
        "sites": current.accounts,
        "folded": folded,
        "subset": len(folded) < len(run.plan.sites),
        "validation_dice": sum(known) / len(known) if known else None,
        "wall_s": wall_s,
        "overhead_s": wall_s - covered_seconds(current.busy),
    }


def covered_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time intervals: how long at least one site was at work."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _number(value: object, most: float) -> float | None:
    """A number from 0 to `most`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= most else None
