"""A run's events as lines for a terminal: what happened, to whom, how long is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from server.run import Event, Listener

STAGES = {
    "before": "judging the first model",
    "federated": "judging the global model",
    "adapted": "fine-tuning at each site",
    "local_only": "training each site alone, for comparison",
}


def teller(say: Callable[[str], None], *, rounds: int) -> Listener:
    """A listener that says each event worth saying, with the seconds since it was made."""
    began = time.monotonic()
    durations: list[float] = []

    def listen(event: Event) -> None:
        if event["event"] == "round closed":
            durations.append(event["wall_s"])
        line = _line(event, rounds, durations)
        if line:
            say(f"[{time.monotonic() - began:6.1f} s] {line}")

    return listen


def _line(event: Event, rounds: int, durations: list[float]) -> str | None:
    kind = event["event"]
    if kind == "round closed":
        return _round_line(event, rounds, durations)
    if kind in {"site silent", "update refused", "site unusable"}:
        detail = event.get("detail") or f"{event.get('outcome')} ({event['code']})"
        return f"site {event['site']}: {detail}"
    return _PLAIN[kind](event) if kind in _PLAIN else None


def _round_line(event: Event, rounds: int, durations: list[float]) -> str:
    number = event["round"]
    left = sum(durations) / len(durations) * (rounds - number)
    judged = event["validation_dice"]
    parts = [
        f"round {number}/{rounds} closed in {event['wall_s']:.1f} s: {len(event['folded'])} update(s) folded"
    ]
    if judged is not None:
        parts.append(f"received model's validation Dice {judged:.3f}")
    if event["subset"]:
        parts.append(f"subset: {', '.join(event['folded'])} only")
    if left >= 1:
        parts.append(f"about {left:.0f} s of rounds left")
    return "; ".join(parts)


def _patients(event: Event) -> str:
    counts = ", ".join(f"{count} {purpose}" for purpose, count in event["patients"].items())
    return f"site {event['site']} is ready; patients: {counts}"


_PLAIN: dict[str, Callable[[Any], str]] = {
    "preparing cohorts": lambda event: f"preparing the cohorts of {', '.join(event['sites'])}",
    "run opened": lambda event: f"run opened at round {event['round']} of {event['of']}",
    "site ready": _patients,
    "stage opened": lambda event: f"{STAGES[event['stage']]}: {', '.join(event['sites'])}",
    "site answered": lambda event: f"    {event['site']} answered after {event['seconds']:.1f} s",
    "run completed": lambda event: "run completed",
    "run failed": lambda event: "run failed",
}
