"""A release's papers: its lineage, which machines read, and the model card, which people read.

Both are made from `summary.json` and a few facts; the card says what was measured and on what, what the
model is for and what is not known. It never claims a clinical use, whatever the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 1

PHANTOM_SENTENCE = (
    "are computer-made phantoms: their numbers say whether the software works, and nothing about patients."
)
INTENDED_USE = (
    "Research on the segmentation of brain MRI: as a start for a site's own adaptation, and for comparing "
    "methods. It has not been validated for clinical use, is not a medical device, and must not inform the "
    "care of a patient."
)
LIMITS = (
    "A site that is not in the table may see worse results than any in it: measure on labelled cases of your "
    "own.",
    "Test sets of single sites are small: a mean over a handful of cases moves by several points of Dice "
    "from one split to the next.",
    "What a site contributed cannot be taken out of the released weights; the rounds it took part in are "
    "listed, so that a model without it can be trained.",
    "No differential privacy is claimed unless the plan's privacy section says so.",
)

_STAGES = ("before", "local_only", "federated", "adapted")


def lineage_of(
    summary: Mapping[str, Any], *, round_number: int, preset: str, task: str, start: str
) -> dict[str, Any]:
    """Where a released model comes from.

    Args:
        summary: content of the run's `summary.json`.
        round_number: the round whose global model is released; later rounds are left out.
        preset: of the network.
        task: what it segments.
        start: words for the first global model.
    """
    sites = list(summary["sites"])
    rounds = [_round(record, sites) for record in summary["rounds"] if record["round"] <= round_number]
    return {
        "schema": SCHEMA,
        "plan": dict(summary["plan"]),
        "preset": preset,
        "task": task,
        "start": start,
        "round": round_number,
        "sites": sites,
        "rounds": rounds,
        "subset_rounds": [record["round"] for record in rounds if record["absent"]],
        "phantom_sites": [name for name, site in summary["sites"].items() if site.get("phantom")],
    }


def compose_card(name: str, version: str, *, lineage: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The model card as Markdown.

    Args:
        name: of the release.
        version: of the release.
        lineage: what `lineage_of` returned.
        summary: content of the run's `summary.json`, for the sites' results.
    """
    phantoms = lineage["phantom_sites"]
    parts = [
        f"# {name} {version}",
        *([f"**The scans of {', '.join(phantoms)} {PHANTOM_SENTENCE}**"] if phantoms else []),
        _origin(lineage),
        "## Intended use",
        INTENDED_USE,
        "## Results",
        _results(summary["sites"]),
        "## Rounds",
        _rounds(lineage),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
        "## Checking this file",
        "`lineage.json` names the SHA-256 of `model.safetensors`; `fedglia release export` compares them. "
        "Neither is signed: whoever can write the folder can write both.",
    ]
    return "\n\n".join(parts) + "\n"


def _round(record: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    accounts = record["sites"]
    outcomes = {site: _outcome(accounts.get(site)) for site in sites}
    return {
        "round": record["round"],
        "folded": [site for site, outcome in outcomes.items() if outcome == "folded"],
        "absent": {site: outcome for site, outcome in outcomes.items() if outcome != "folded"},
    }


def _outcome(account: Mapping[str, Any] | None) -> str:
    if account is None:
        return "not there"
    reason = account.get("reason")
    return f"{account['outcome']} ({reason})" if reason else str(account["outcome"])


def _origin(lineage: Mapping[str, Any]) -> str:
    plan = lineage["plan"]
    return (
        f"Network preset `{lineage['preset']}` for the task `{lineage['task']}`, trained by the "
        f"{len(lineage['sites'])} site(s) {', '.join(lineage['sites'])} under plan `{plan['name']}` "
        f"(SHA-256 `{plan['sha256']}`). It is the global model after round {lineage['round']}. "
        f"First model: {lineage['start']}."
        + (f" Domains were aligned: {lineage['alignment']}." if "alignment" in lineage else "")
    )


def _rounds(lineage: Mapping[str, Any]) -> str:
    lines = []
    for record in lineage["rounds"]:
        absent = ", ".join(f"{site} {why}" for site, why in record["absent"].items())
        note = f"; **subset**, without {absent}" if absent else ""
        lines.append(f"- round {record['round']}: {', '.join(record['folded']) or 'no site'}{note}")
    subset = lineage["subset_rounds"]
    told = f"Merged from a subset of the sites: rounds {', '.join(map(str, subset))}." if subset else ""
    return "\n".join(lines or ["- none: this is the first model, as it was given"]) + (
        f"\n\n{told}" if told else ""
    )


def _results(sites: Mapping[str, Mapping[str, Any]]) -> str:
    stages = [stage for stage in _STAGES if any(stage in site for site in sites.values())]
    if not stages:
        return "Not measured."
    regions = _regions(sites, stages)
    header = ["site", "field", "test cases", "model", *(f"Dice {region}" for region in regions)]
    rows = [
        [name, _field(site), _test_cases(site), stage.replace("_", " "), *_dice(site.get(stage), regions)]
        for name, site in sites.items()
        for stage in stages
        if stage in site
    ]
    rule = "Each model on each site's own test cases; empty regions by the BraTS 2023 rule."
    return f"{rule}\n\n" + "\n".join(_row(cells) for cells in (header, ["---"] * len(header), *rows))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _regions(sites: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> list[str]:
    names = [
        region
        for site in sites.values()
        for stage in stages
        for region in (site.get(stage) or {}).get("dice", {})
    ]
    return list(dict.fromkeys(names))


def _dice(scores: Mapping[str, Any] | None, regions: Sequence[str]) -> list[str]:
    dice = (scores or {}).get("dice", {})
    return [f"{dice[region]:.3f}" if dice.get(region) is not None else "-" for region in regions]


def _field(site: Mapping[str, Any]) -> str:
    strength = site.get("field_strength_t")
    return f"{strength:g} T" if strength is not None else "not stated"


def _test_cases(site: Mapping[str, Any]) -> str:
    count = (site.get("cases") or {}).get("test")
    return "-" if count is None else str(count)
