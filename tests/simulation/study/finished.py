"""Finished studies that nobody trained: the shipped ssa-transfer with made-up numbers, for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simulation.study.pictures import Picture, keep
from simulation.study.results import Row, metric_rows, write_csv
from simulation.study.run import Setup, opened
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.study.spec import parse, read

GAINS: Mapping[str, float] = {"baseline": 0.0, "frozen-decoder": 0.2, "dann": 0.31}
"""Mean Dice above the baseline; any other approach has 0.3."""

STRUCTURES = ("NCR", "ED", "ET")


def dice_of(approach: str, number: int) -> dict[str, float]:
    """Dice by region of the n-th case: cases differ, approaches differ, and a little by both."""
    wiggle = 0.01 * ((number * 7 + len(approach) * 3) % 5 - 2)
    level = 0.4 + 0.01 * number + GAINS.get(approach, 0.3) + wiggle
    return {"NCR": level - 0.05, "ED": level + 0.05, "ET": level, "TC": level, "WT": level}


def finish(
    out: Path, *, changes: Mapping[str, Any] | None = None, folds: int | None = None, cases: int | None = None
) -> Setup:
    """A folder as `carry_out` leaves it.

    Args:
        out: the folder to make.
        changes: of the study's file, at its top.
        folds: of the target's cases, if not the shipped number.
        cases: of the target, if not the shipped number.
    """
    raw, origin = read("ssa-transfer")
    raw = {**raw, **(changes or {})}
    smoke = raw["presets"]["smoke"]
    smoke["folds"] = folds or smoke["folds"]
    smoke["cohorts"]["ssa"]["cases"] = cases or smoke["cohorts"]["ssa"]["cases"]
    study = parse(raw, SiteTransfer, preset="smoke", origin=origin)
    out.mkdir(parents=True)
    (out / "study.toml").write_text(study.as_toml())
    phantoms = {name: spec.phantom for name, spec in study.cohorts.items()}
    data = {
        name: {"folder": str(out / "cohorts" / name), "phantom": phantom, "degrade": None}
        for name, phantom in phantoms.items()
    }
    (out / "study.json").write_text(json.dumps({"schema": 1, "sha256": study.sha256, "data": data}))
    setup = opened(out)
    rows = [row for job in setup.jobs() for row in _job(out, study, job.name)]
    write_csv(out / "results.csv", study.name, rows)
    return setup


def _job(out: Path, study: SiteTransfer, job: str) -> list[Row]:
    room, _, name = job.partition("/")
    folder = out / "work" / job
    folder.mkdir(parents=True)
    cases = study.cohorts["ssa"].cases
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    if room != "cohorts":
        fold = int(room.removeprefix("fold-")) - 1 if room.startswith("fold") else -1
        federated = name in study.federations
        approaches = list(study.federations[name].rows.values()) if federated else [name]
        tested = range(cases) if fold < 0 else range(fold, cases, study.folds)
        for approach in approaches:
            rows += _rows(study, approach, tested)
        facts = _facts(federated)
        if not federated:
            keep(folder, [_picture(number) for number in tested])
    content = {"rows": [asdict(row) for row in rows], "facts": facts}
    (folder / "done.json").write_text(json.dumps(content))
    return rows


def _rows(study: SiteTransfer, approach: str, tested: range) -> list[Row]:
    rows = []
    places = [(site, number, -1) for site in ("adult", "adult-b") for number in range(2)]
    places += [("ssa", number, number % study.folds) for number in tested]
    for site, number, fold in places:
        dice = dice_of(approach, number)
        hd95 = {region: 20 * (1 - value) for region, value in dice.items()}
        by_metric = {"dice": dice, "hd95": hd95, "lesion_dice": dice, "lesion_hd95": hd95}
        of = Row(site, f"secret-{site}-{number}", approach, fold, study.seed, "", "", 0.0, "")
        rows += metric_rows(by_metric, structures=STRUCTURES, of=of)
    return rows


def _facts(federated: bool) -> dict[str, Any]:
    return {
        "curve": [[0, 0.1], [1, 0.4], [2, None]] if federated else [[4, 0.2], [8, 0.5]],
        "loss": [1.0, 0.5],
        "separability": {"balanced_accuracy": 0.75, "auc": 0.8},
        "seconds": 1.0,
    }


def _picture(number: int) -> Picture:
    scan = np.full((20, 24), 90, dtype=np.uint8)
    truth = np.zeros_like(scan)
    truth[5:12, 6:14] = 2
    found = np.roll(truth, number, axis=1)
    return Picture("ssa", f"secret-ssa-{number}", scan, truth, found, (6.0, 6.0), 7)
