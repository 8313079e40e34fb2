"""What a run gave, as text: for a hub without the researcher's room, which makes the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from server.card import PHANTOM_SENTENCE
from server.desk.reading import read_json
from server.desk.table import columns
from server.desk.wording import duration, size

_MODELS = {"before": "first model", "local_only": "alone", "federated": "federated", "adapted": "adapted"}


def summary_of(folder: Path) -> dict[str, Any]:
    """A run's summary.json.

    Raises:
        InputError: there is none yet, or it cannot be read.
    """
    summary = read_json(folder / "summary.json")
    if not summary:
        raise InputError(
            f"run {folder.name}: has no summary.json yet; see fedglia rounds status {folder.name}"
        )
    return summary


def outcome(summary: Mapping[str, Any]) -> Iterator[str]:
    """Mean test Dice of each model at each site, what was sent, how long it took.

    What a hospital withholds is shown as a dash.
    """
    yield f"plan {summary['plan']['name']} {summary['plan']['sha256'][:12]}: {summary['status']}"
    rounds, subset = summary["rounds"], summary["subset_rounds"]
    note = f", without some site: {', '.join(map(str, subset))}" if subset else ""
    yield f"{len(rounds)} round(s) closed{note}"
    sent, seconds = summary["bytes"], summary["seconds"]
    yield f"{size(sent['up'])} up, {size(sent['down'])} down in rounds; {duration(seconds['total'])} in all"
    yield ""
    yield "mean Dice over structures and test cases"
    header = ("site", "test cases", *_MODELS.values(), "kept")
    yield from columns([header, *(_row(name, site) for name, site in summary["sites"].items())])
    phantoms = [name for name, site in summary["sites"].items() if site.get("phantom")]
    if phantoms:
        yield ""
        yield f"The scans of {', '.join(phantoms)} {PHANTOM_SENTENCE}"


def _row(name: str, site: Mapping[str, Any]) -> tuple[str, ...]:
    cases = (site.get("cases") or {}).get("test")
    dice = (_mean(site.get(model)) for model in _MODELS)
    return (name, "-" if cases is None else str(cases), *dice, str(site.get("kept", "-")))


def _mean(scores: Mapping[str, Any] | None) -> str:
    value = ((scores or {}).get("dice") or {}).get("mean")
    return "-" if value is None else f"{value:.3f}"
