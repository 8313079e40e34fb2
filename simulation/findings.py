"""What a run's numbers mean, in sentences: what a reader must know before the tables are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from server.card import PHANTOM_SENTENCE
from simulation.tables import MODELS, Numbers, gain_of, mean_of
from simulation.withheld import without_cases
from simulation.wording import count_text, dice_text, gain_text, names_text

STATUS_WORDS: Mapping[str, str] = {
    "completed": "completed",
    "failed": "failed; what is known so far",
    "stopped": "stopped; what is known so far",
    "running": "not finished; what is known so far",
}

REASONS: Mapping[str, str] = {
    "norm": "its update was far longer than the others of that round",
    "deadline": "no answer by the deadline",
    "not-finite": "NaN or infinite values",
    "size": "a wrong number of values",
    "names": "other parameters than asked for",
    "dtype": "a wrong number type",
    "codec": "packed in another way than asked for",
    "malformed": "a part of the reply is missing or is not what it should be",
    "duplicate": "a second answer to the same round",
    "diverged": "training diverged at the site",
    "no-start": "the site never received the first model",
    "start": "the site has another first model",
    "internal": "an unexpected error at the site; its site.log has the words",
    "disk": "the disk is full or cannot be written",
}
"""Codes that a reader can do something about; any other is shown as it is."""


@dataclass(frozen=True)
class Notice:
    """A thing to know; `level`: `fault` (do not use the numbers as they are), `care` or `note`."""

    level: str
    title: str
    text: str


def notices(
    summary: Numbers,
    events: Sequence[Mapping[str, Any]],
    *,
    marked: Mapping[str, frozenset[str] | None],
    shows_patients: bool,
) -> list[Notice]:
    """Everything that a reader must know, the gravest first.

    Args:
        summary: content of summary.json.
        events: lines of events.jsonl, in order.
        marked: site -> regions that the expert marks in any test case; None where that is not known.
        shows_patients: whether the page shows slices of real scans.
    """
    found = [
        *_ending(summary, events),
        *_phantoms(summary),
        *_degraded(summary),
        *_collapsed(summary, marked),
        *_patients(shows_patients),
        *_outcomes(summary),
        *_silent_stages(events),
        *_subsets(summary),
        *_without_validation(summary),
        *_few_tested(summary),
        *_undeclared(summary),
        *_withheld(summary),
    ]
    order = ("fault", "care", "note")
    return sorted(found, key=lambda notice: order.index(notice.level))


def headline(summary: Numbers) -> str:
    """What joining brought, in one or two sentences."""
    gains = {name: gain for name, site in summary["sites"].items() if (gain := gain_of(site)) is not None}
    if not gains:
        known = [name for name, site in summary["sites"].items() if mean_of(site, "before") is not None]
        if not known:
            return "No model has been judged on any site's test cases yet."
        if summary.get("status") == "completed" and not any(
            "local_only" in s for s in summary["sites"].values()
        ):
            return _against_before(summary)
        return "What joining brought cannot be said yet: kept model and training alone are not both judged."
    worst = min(gains, key=lambda name: gains[name])
    better = sum(gain > 0 for gain in gains.values())
    return (
        f"Against training alone, the model that each site kept changed mean test Dice by "
        f"{gain_text(fmean(gains.values()))} on average over {count_text(len(gains), 'site')} "
        f"({better} of {len(gains)} better); the worst site is {worst} with {gain_text(gains[worst])}."
    )


def _against_before(summary: Numbers) -> str:
    """Where the plan trains no site alone, the first model is all that there is to compare with."""
    words = "What joining brought cannot be said: the plan trains no site alone for comparison."
    kept = {name: mean_of(site, site.get("kept")) for name, site in summary["sites"].items()}
    first = {name: mean_of(site, "before") for name, site in summary["sites"].items()}
    rises = {
        name: now - then
        for name in kept
        if (now := kept[name]) is not None and (then := first[name]) is not None
    }
    if not rises:
        return words
    worst = min(rises, key=lambda name: rises[name])
    return (
        f"{words} Against the first model, the one that each site kept changed mean test Dice by "
        f"{gain_text(fmean(rises.values()))} on average over {count_text(len(rises), 'site')}; "
        f"the worst site is {worst} with {gain_text(rises[worst])}."
    )


def kept_words(site: Numbers) -> str:
    """Which model a site kept and why, from its validation numbers."""
    kept = site.get("kept")
    if kept is None:
        return "No model has been kept yet: the run did not come to the site's own fine-tuning."
    judged: Mapping[str, float | None] = site.get("validation") or {}
    federated, adapted = judged.get("federated"), judged.get("adapted")
    if federated is None or adapted is None:
        return (
            f"Kept: {MODELS[kept]}. There is no validation case here, so nothing could choose between the "
            "two; the global model stays."
        )
    better = "was higher" if adapted > federated else "was not higher"
    return (
        f"Kept: {MODELS[kept]}. On the validation cases the mean Dice of adapted ({dice_text(adapted)}) "
        f"{better} than that of federated ({dice_text(federated)}). Test cases had no part in the choice."
    )


def case_words(site: Numbers) -> str:
    """Cases per part of the split."""
    cases = site.get("cases")
    if not cases:
        return "cases not known"
    return f"{cases['train']} training, {cases['val']} validation, {count_text(cases['test'], 'test case')}"


def empty_words(site: Numbers) -> list[str]:
    """How many values the rule for empty regions gave, by model."""
    lines = []
    for model, word in MODELS.items():
        scores = site.get(model) or {}
        touched = {region: count for region, count in scores.get("empty", {}).items() if count}
        if touched:
            counts = ", ".join(f"{region} {count}" for region, count in touched.items())
            tested = len(scores.get("cases") or ()) or (site.get("cases") or {}).get("test", 0)
            lines.append(f"{word}: {counts} of {count_text(tested, 'case')}")
    return lines


def times(events: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """First and last event, UTC; empty where there is none."""
    if not events:
        return "", ""
    first, last = (datetime.fromtimestamp(events[index]["time"], UTC) for index in (0, -1))
    return f"{first:%Y-%m-%d %H:%M:%S} UTC", f"{last:%Y-%m-%d %H:%M:%S} UTC"


def _ending(summary: Numbers, events: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    closed = count_text(len(summary["rounds"]), "closed round")
    if summary["status"] == "failed":
        failures = [event for event in events if event["event"] == "run failed"]
        detail = str(failures[-1].get("detail", "")) if failures else ""
        yield Notice("fault", "The run failed", f"{detail or 'See events.jsonl.'} This page shows {closed}.")
    elif summary["status"] == "stopped":
        yield Notice("care", "The run was stopped", f"This page shows {closed}; resume it to go on.")
    elif summary["status"] != "completed":
        last = times(events)[1]
        text = f"It may still be at work, or was killed. Its last event is of {last or 'an unknown time'}; "
        yield Notice("care", "The run had not ended", f"{text}this page shows {closed}.")


def _phantoms(summary: Numbers) -> Iterator[Notice]:
    names = [name for name, site in summary["sites"].items() if site.get("phantom")]
    if names:
        whole = len(names) == len(summary["sites"])
        title = "Phantom result" if whole else "Partly a phantom result"
        yield Notice(
            "care",
            f"{title}: it says nothing about clinical performance",
            f"The scans of {names_text(names)} {PHANTOM_SENTENCE}",
        )


def _degraded(summary: Numbers) -> Iterator[Notice]:
    for name, site in summary["sites"].items():
        if site.get("degraded"):
            yield Notice(
                "care",
                f"The scans of {name} were degraded on purpose",
                f"They were made to look like those of a scanner of profile {site['degraded']} (slices, "
                "resolution, noise, receive field). It is not a result on scans of such a scanner: "
                "their contrast stays that of the original.",
            )


def _patients(shown: bool) -> Iterator[Notice]:
    if shown:
        yield Notice(
            "care",
            "This page shows slices of the sites' scans",
            "Treat it as you treat the scans: it may not go where they may not go.",
        )


def _collapsed(summary: Numbers, marked: Mapping[str, frozenset[str] | None]) -> Iterator[Notice]:
    """Regions of Dice 0 in every case; before any training on the task that is to be expected."""
    for name, site in summary["sites"].items():
        zero = _zero_regions(site)
        known = marked.get(name)
        missed = {region: models for region, models in zero.items() if known is None or region in known}
        invented = {region: models for region, models in zero.items() if region not in missed}
        if missed:
            unless = "" if known else " (unless the expert marks none of it, which could not be looked up)"
            yield Notice(
                "fault",
                f"{name}: regions with Dice 0 in every test case",
                f"{_zero_words(missed)}. This is a fault of training to be mended, not a result{unless}.",
            )
        if invented:
            yield Notice(
                "care",
                f"{name}: regions found where the expert marks none",
                f"{_zero_words(invented)}. No test case of this site has such a region, so each voxel of "
                "it is false, and Dice is 0 by the rule for empty regions.",
            )


def _zero_regions(site: Numbers) -> dict[str, list[str]]:
    """Region -> models whose Dice is 0 in every test case."""
    found: dict[str, list[str]] = {}
    for model in ("local_only", "federated", "adapted"):
        scores = site.get(model) or {"dice": {}, "cases": []}
        for region in scores["dice"]:
            each = [case["dice"].get(region) for case in scores["cases"]]
            if region != "mean" and each and all(value == 0 for value in each):
                found.setdefault(region, []).append(MODELS[model])
    return found


def _zero_words(zero: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{region}: {names_text(models)}" for region, models in zero.items())


def _outcomes(summary: Numbers) -> Iterator[Notice]:
    """Updates that were not folded: by site and reason, with the rounds."""
    rounds: dict[tuple[str, str, str], list[int]] = {}
    for record in summary["rounds"]:
        for site, account in record["sites"].items():
            if account["outcome"] != "folded":
                key = (site, account["outcome"], account.get("reason") or "")
                rounds.setdefault(key, []).append(record["round"])
    for (site, outcome, reason), numbers in rounds.items():
        why = (
            f"{REASONS.get(reason, reason or 'no reason known')}{f' ({reason})' if reason in REASONS else ''}"
        )
        yield Notice(
            "care",
            f"{site}: {count_text(len(numbers), 'update')} {outcome}",
            f"Reason: {why}. {_rounds_words(numbers)}.",
        )


def _silent_stages(events: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """Sites that did not answer outside the rounds; a later answer, after a resume, takes it back."""
    silent: dict[tuple[str, str], str] = {}
    for event in events:
        key = (str(event.get("site")), str(event.get("stage")))
        if event["event"] == "site silent" and "stage" in event:
            silent[key] = f"{event.get('outcome')} ({event.get('code')})"
        elif event["event"] == "site answered" and "stage" in event:
            silent.pop(key, None)
    for (site, stage), why in silent.items():
        word = MODELS.get(stage, stage)
        yield Notice("care", f"{site}: no numbers for {word}", f"The site's answer was {why}.")


def _subsets(summary: Numbers) -> Iterator[Notice]:
    for record in summary["rounds"]:
        if record["subset"]:
            absent = [name for name in summary["sites"] if name not in record["folded"]]
            yield Notice(
                "care",
                f"Round {record['round']} is a subset round",
                f"Folded: {names_text(record['folded'])}. Without: {names_text(absent)}.",
            )


def _without_validation(summary: Numbers) -> Iterator[Notice]:
    names = [name for name, s in summary["sites"].items() if s.get("cases") and s["cases"]["val"] == 0]
    if names:
        yield Notice(
            "care",
            f"No validation case at {names_text(names)}",
            "There are too few patients. The fallback could not choose there: the global model is kept, "
            "whether fine-tuning made it better or worse.",
        )


def _withheld(summary: Numbers) -> Iterator[Notice]:
    names = list(without_cases(summary))
    if names:
        yield Notice(
            "note",
            f"No scores of single cases from {names_text(names)}",
            "The hospital's policy sends means and keeps the cases, or no patient is left to test on: there "
            "are no ranges over cases and no marks in the chart for this site.",
        )


def _few_tested(summary: Numbers) -> Iterator[Notice]:
    few = {
        name: site["cases"]["test"]
        for name, site in summary["sites"].items()
        if site.get("cases") and site["cases"]["test"] < 10
    }
    if few:
        counts = ", ".join(f"{name} {count}" for name, count in few.items())
        yield Notice(
            "note",
            "Few test cases",
            f"Test cases: {counts}. Means over so few cases move by several hundredths of Dice from one "
            "split to the next; differences of that size are no evidence.",
        )


def _undeclared(summary: Numbers) -> Iterator[Notice]:
    names = [
        name for name, s in summary["sites"].items() if s.get("cases") and s.get("field_strength_t") is None
    ]
    if names:
        yield Notice(
            "note",
            f"Field strength not declared at {names_text(names)}",
            "NIfTI files do not hold it; field_strength_t in the folder's cohort.toml says it.",
        )


def _rounds_words(numbers: Sequence[int]) -> str:
    return f"Round{'' if len(numbers) == 1 else 's'} {names_text(str(number) for number in numbers)}"
