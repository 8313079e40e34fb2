"""The page, from numbers that nobody trained for: what it says, and what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.phantom.bundles import TUBES
from simulation.study.bundle_shift.cohorts import ANATOMY
from simulation.study.bundle_shift.drawings import scatter_chart
from simulation.study.bundle_shift.findings import page
from simulation.study.bundle_shift.settings import CELLS, PATIENTS, BundleShift
from simulation.study.page import Page, Results
from simulation.study.results import Row
from simulation.study.spec import parse, read, resolve

LOST = {
    "healthy": {"source-twin": 0.0, "source-tumour": 0.06, "clinical-twin": 0.2, "clinical-tumour": 0.28},
    "fine-tuned": {
        "source-twin": 0.02,
        "source-tumour": 0.08,
        "clinical-twin": 0.04,
        "clinical-tumour": 0.11,
    },
}
"""Dice lost against home by approach and cell: as the paper says it is."""


def told(out: Path, *, lost: dict[str, dict[str, float]], preset: str = "small") -> Page:
    """The page of a study in which every model lost so much."""
    raw, origin = read("bundle-shift")
    study = parse(raw, BundleShift, preset=preset, origin=origin)
    data = resolve(study, out, {})
    rng = np.random.default_rng(1)
    rows = []
    for patient in range(12):
        case, head, moved = f"p{patient}", 0.02 * rng.standard_normal(), 4 * rng.random()
        for place, bundle in enumerate(TUBES):
            rows.append(
                Row(PATIENTS, case, ANATOMY, 0, 1, bundle, "displacement", moved * (1 + place) / 3, "mm")
            )
            for modality in study.modalities:
                for approach, cells in lost.items():
                    for cell in CELLS:
                        ill = 0.03 * (moved - 2) * (cell == PATIENTS)
                        dice = 0.75 + head - cells[cell] - ill + 0.004 * rng.standard_normal()
                        name = f"{modality}-{approach}"
                        rows.append(Row(cell, case, name, 0, 1, bundle, "dice", dice, "1"))
                        rows.append(Row(cell, case, name, 0, 1, bundle, "hd95", 5.0, "mm"))
    return page(Results(study, data, tuple(rows), {}, lambda job: []))


def test_a_study_as_the_paper_has_it_holds_its_three_findings(tmp_path: Path) -> None:
    found = told(tmp_path, lost=LOST)

    assert [verdict.held for verdict in found.verdicts] == ["yes", "yes", "yes"]
    assert "for 15 of 15 pairs" in found.verdicts[0].evidence
    assert len(found.main.rows) == 3
    (total,) = found.main.footer
    assert float(total[4].split()[0]) == pytest.approx(0.28, abs=0.01)
    assert float(total[8].split()[0]) == pytest.approx(0.8, abs=0.02)
    tables = {table.caption: table for section in found.sections for table in section.tables}
    (every,) = (table for caption, table in tables.items() if "by modality and bundle" in caption)
    assert len(every.rows) == 19
    assert all(len(row) == len(every.columns) for row in every.rows)
    assert any("unknown to us" in notice for notice in found.notices)
    assert any("Phantom results show plumbing" in notice for notice in found.notices)


def test_a_study_without_a_systematic_part_says_that_nothing_can_be_said_of_it(tmp_path: Path) -> None:
    level = {cell: 0.1 * CELLS[cell].tumour for cell in CELLS}

    found = told(tmp_path, lost={"healthy": level, "fine-tuned": level})

    assert [verdict.held for verdict in found.verdicts] == ["yes", "undecided", "yes"]
    assert "not stated, since the interval of the loss touches 0" in found.verdicts[1].evidence
    assert found.main.footer[0][8] == "not stated"
    assert "This stayed open" in found.lead


def test_fine_tuning_that_mends_everything_contradicts_the_third_finding(tmp_path: Path) -> None:
    mended = {cell: 0.0 for cell in CELLS}

    found = told(tmp_path, lost={"healthy": LOST["healthy"], "fine-tuned": mended})

    assert found.verdicts[2].held == "no"
    assert "did not hold" in found.lead


def test_smoke_says_what_it_is(tmp_path: Path) -> None:
    found = told(tmp_path, lost=LOST, preset="smoke")

    assert any("hardly trained" in notice for notice in found.notices)


def test_a_cloud_has_a_mark_for_each_value_and_one_for_its_name() -> None:
    drawn = scatter_chart(
        {"a": [(0, 0.1), (2, 0.4)], "b": [(1, 0.2)]}, x_label="mm", y_label="y", summary="s"
    )

    assert drawn.count('class="mark c0"') == 3
    assert drawn.count('class="mark c1"') == 2
    assert scatter_chart({"a": []}, x_label="mm", y_label="y", summary="s") == ""


@pytest.mark.parametrize("preset", ["smoke", "small", "full"])
def test_every_preset_has_enough_people(preset: str) -> None:
    raw, origin = read("bundle-shift")
    study = parse(raw, BundleShift, preset=preset, origin=origin)

    assert study.cohorts["patients"].cases >= study.folds
    assert study.cohorts["healthy"].cases >= 5
