"""Where a run stands and what each of its sites is doing: made of its files and of who is connected.

Everything here is a function of what was read, so that recorded events can be played again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.messages import EVALUATE, HELLO, RECEIVE
from common.plan import Plan
from server.desk.wording import STAGE_WORDS, explain

Event = Mapping[str, Any]

ENDED = ("completed", "failed", "stopped")
_WORK = {EVALUATE: "judging", HELLO: "connected", RECEIVE: "connected"}
_STAGE_WORK = {"before": "judging", "federated": "judging"}
_AT_REST = ("configured", "connected")
_AT_WORK = ("training", "judging")


@dataclass(frozen=True)
class Facts:
    """What was read of a run.

    Attributes:
        events: lines of events.jsonl, in order.
        records: of the closed rounds.
        status: of summary.json; "" before there is one.
        open: whether a process of the hub is at work on it.
        queued: whether Flower still has to start it.
        admissions: site -> "admitted" or "revoked"; a site that is not there was never admitted.
        nodes: site -> "online", "offline" or "registered"; None where the hub does not run.
        identity: by which the sites know the run.
        lost: whether the models of closed rounds are gone, without which it cannot be resumed.
    """

    name: str
    plan: Plan
    events: Sequence[Event] = ()
    records: Sequence[Mapping[str, Any]] = ()
    status: str = ""
    open: bool = False
    queued: bool = False
    interruptions: int = 0
    admissions: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] | None = None
    identity: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Row:
    """One site in a run.

    Attributes:
        state: one of `wording.STATES`.
        code: why, for machines; empty where the state says it all.
        reason: the same in words, and `remedy` what to do.
        folded: rounds that its update went into.
        loss: mean training loss of its last folded round.
        validation_dice: of the global model that it received in that round.
    """

    site: str
    state: str
    code: str
    reason: str
    remedy: str
    folded: int
    loss: float | None
    validation_dice: float | None
    train_s: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        state: one of `wording.RUN_STATES`.
        doing: what is under way, in words.
        round: the open round, or the last closed one.
        deadline_left_s: of the open round or stage; None where none is open.
        rounds_left_s: estimate for the rounds that are left, from those that are closed.
        detail: why it failed, in words.
        identity: by which the sites know the run, in their records of what left.
        resumable: whether `fedglia rounds resume` would go on with it.
    """

    run: str
    plan: dict[str, str]
    state: str
    doing: str
    round: int
    rounds: int
    quorum: int
    deadline_left_s: float | None
    rounds_left_s: float | None
    interruptions: int
    bytes_up: int
    bytes_down: int
    detail: str
    sites: tuple[Row, ...]
    identity: str = ""
    resumable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for machines; keys are stable, more may come."""
        return {"schema": 1, **asdict(self)}


@dataclass
class _Played:
    """What the events say so far.

    Attributes:
        marks: site -> state and code.
        work: what a site that was asked is doing.
        ends_at: `time.time` seconds of the open deadline.
    """

    marks: dict[str, tuple[str, str]] = field(default_factory=dict)
    doing: str = ""
    work: str = "training"
    ends_at: float | None = None
    met: bool = False
    detail: str = ""


def standing(facts: Facts, *, now: float) -> Standing:
    """Where the run stands at `now`, `time.time` seconds."""
    played = _play(facts.events)
    state = _state(facts, played)
    active = state in ("running", "meeting sites", "queued")
    closed = len(facts.records)
    walls = [float(record["wall_s"]) for record in facts.records]
    left = facts.plan.rounds.count - closed
    rows = tuple(_row(site, facts, played, active=active) for site in facts.plan.site_names)
    return Standing(
        run=facts.name,
        plan={"name": facts.plan.name, "sha256": facts.plan.sha256},
        state=state,
        doing=played.doing if active else "",
        round=min(closed + (played.doing.startswith("round") and active), facts.plan.rounds.count),
        rounds=facts.plan.rounds.count,
        quorum=facts.plan.rounds.quorum,
        deadline_left_s=max(played.ends_at - now, 0.0) if active and played.ends_at is not None else None,
        rounds_left_s=sum(walls) / len(walls) * left if active and walls else None,
        interruptions=facts.interruptions,
        bytes_up=sum(row.bytes_up for row in rows),
        bytes_down=sum(row.bytes_down for row in rows),
        detail=played.detail if state in ("failed", "interrupted") else "",
        sites=rows,
        identity=facts.identity,
        resumable=not active and state != "completed" and not facts.lost,
    )


def _state(facts: Facts, played: _Played) -> str:
    if facts.open:
        return "running" if played.met else "meeting sites"
    if facts.queued:
        return "queued"
    return facts.status if facts.status in ENDED else "interrupted"


def _play(events: Iterable[Event]) -> _Played:
    played = _Played()
    for event in events:
        kind = str(event.get("event"))
        if kind in _OF_RUN:
            _OF_RUN[kind](played, event)
        elif kind in _OF_SITE and isinstance(event.get("site"), str):
            played.marks[event["site"]] = _OF_SITE[kind](played, event)
    return played


def _run_opened(played: _Played, event: Event) -> None:
    played.marks.clear()
    played.doing, played.ends_at, played.met, played.detail = "meeting the sites", None, False, ""


def _round_opened(played: _Played, event: Event) -> None:
    _opened(played, event, f"round {event.get('round')}", "training")


def _stage_opened(played: _Played, event: Event) -> None:
    stage = str(event.get("stage"))
    _opened(played, event, STAGE_WORDS.get(stage, stage), _STAGE_WORK.get(stage, "training"))


def _opened(played: _Played, event: Event, doing: str, work: str) -> None:
    played.doing, played.work, played.met = doing, work, True
    deadline_s = event.get("deadline_s")
    played.ends_at = event["time"] + deadline_s if isinstance(deadline_s, int | float) else None
    for site in event.get("sites", ()):
        played.marks[site] = ("configured", "")


def _closed(played: _Played, event: Event) -> None:
    played.doing, played.ends_at = "between rounds", None


def _ended(played: _Played, event: Event) -> None:
    played.ends_at, played.detail = None, str(event.get("detail", ""))


_OF_RUN: Mapping[str, Callable[[_Played, Event], None]] = {
    "run opened": _run_opened,
    "round opened": _round_opened,
    "stage opened": _stage_opened,
    "round closed": _closed,
    "stage closed": _closed,
    "run failed": _ended,
    "run stopped": _ended,
    "run completed": _ended,
}


def _outcome(played: _Played, event: Event) -> tuple[str, str]:
    outcome, code = str(event.get("outcome")), str(event.get("code", ""))
    if code == "offline":
        return "absent", code
    return (outcome if outcome in ("late", "lost") else "refused", code)


def _asked(played: _Played, event: Event) -> tuple[str, str]:
    return (_WORK.get(str(event.get("message")), played.work), "")


_OF_SITE: Mapping[str, Callable[[_Played, Event], tuple[str, str]]] = {
    "site ready": lambda played, event: ("configured", ""),
    "first model received": lambda played, event: ("configured", ""),
    "site asked": _asked,
    "site away": lambda played, event: ("absent", "offline"),
    "site back": lambda played, event: ("connected", ""),
    "site answered": lambda played, event: ("answered", ""),
    "site silent": _outcome,
    "site unusable": _outcome,
    "update refused": lambda played, event: ("refused", str(event.get("code", ""))),
}


def _row(site: str, facts: Facts, played: _Played, *, active: bool) -> Row:
    state, code = _site_state(site, facts, played.marks.get(site), active=active)
    word = explain(code) if code else None
    accounts = [record["sites"][site] for record in facts.records if site in record["sites"]]
    folded = [account for account in accounts if account["outcome"] == "folded"]
    last = folded[-1] if folded else {}
    return Row(
        site=site,
        state=state,
        code=code,
        reason=word.sentence if word else "",
        remedy=word.remedy if word else "",
        folded=len(folded),
        loss=last.get("loss"),
        validation_dice=last.get("validation_dice"),
        train_s=sum(account.get("train_s") or 0.0 for account in accounts),
        bytes_up=sum(account["bytes_up"] for account in accounts),
        bytes_down=sum(account["bytes_down"] for account in accounts),
    )


def _site_state(site: str, facts: Facts, mark: tuple[str, str] | None, *, active: bool) -> tuple[str, str]:
    """What the run last heard, unless who is connected knows better."""
    if facts.admissions.get(site) == "revoked":
        return "revoked", "revoked"
    if mark is not None and mark[0] not in (_AT_REST if active else (*_AT_REST, *_AT_WORK)):
        return mark
    if not active:
        mark = None  # nobody waits for what it was asked
    if site not in facts.admissions:
        return mark or ("not admitted", "not-admitted")
    node = None if facts.nodes is None else facts.nodes.get(site, "registered")
    if node == "online" or node is None:
        return mark or (("connected", "") if node else ("admitted", "hub-down"))
    return ("absent", "offline") if node == "offline" else ("admitted", "never-connected")
