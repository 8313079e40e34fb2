"""A summary as the report reads it: what a hospital's policy kept from the hub is filled with "not known".

A deployed site may withhold any metric. By default it sends the means over its test cases and not the cases,
so that ranges, dots and pictures have nothing to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulation.tables import MODELS, Numbers


def filled(summary: Numbers, structures: Sequence[str]) -> dict[str, Any]:
    """The summary with every table of scores complete; a model of which nothing was sent is left out."""
    sites = {name: _site(site, structures) for name, site in summary["sites"].items()}
    return {**summary, "sites": sites}


def without_cases(summary: Numbers) -> Iterator[str]:
    """Sites that sent scores, and none of single cases."""
    for name, site in summary["sites"].items():
        judged = [site[model] for model in MODELS if site.get(model)]
        if judged and not any(scores["cases"] for scores in judged):
            yield name


def _site(site: Numbers, structures: Sequence[str]) -> dict[str, Any]:
    found = {key: value for key, value in site.items() if key not in MODELS}
    for model in MODELS:
        scores = _scores(site.get(model) or {}, structures)
        if scores is not None:
            found[model] = scores
    return found


def _scores(scores: Numbers, structures: Sequence[str]) -> dict[str, Any] | None:
    dice, hd95 = scores.get("dice") or {}, scores.get("hd95_mm") or {}
    if not dice and not hd95:
        return None
    regions = dict.fromkeys((*structures, "mean", *dice, *hd95))
    return {
        **scores,
        "dice": {region: dice.get(region) for region in regions},
        "hd95_mm": {region: hd95.get(region) for region in regions},
        "empty": scores.get("empty") or {},
        "cases": [case for case in scores.get("cases") or () if _is_whole(case, structures)],
    }


def _is_whole(case: Mapping[str, Any], structures: Sequence[str]) -> bool:
    dice = case.get("dice")
    return isinstance(dice, dict) and all(isinstance(dice.get(name), int | float) for name in structures)
