"""results.csv: its columns, its rounding, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from common.metrics import RegionScore
from simulation.study.results import COLUMNS, Row, case_rows, read_csv, write_csv

ONE = Row("ssa", "case-1", "dann", 3, 1, "ET", "hd95", 12.3456789, "mm")


def test_rows_come_back_as_they_were_rounded(tmp_path: Path) -> None:
    write_csv(tmp_path / "results.csv", "tiny", [ONE, replace(ONE, value=0.0, case='odd, "name"')])
    name, rows = read_csv(tmp_path / "results.csv")
    assert name == "tiny"
    assert rows == [replace(ONE, value=12.3457), replace(ONE, value=0.0, case='odd, "name"')]
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert "time" not in COLUMNS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the columns"),
        ("study,site\nx,y\n", "needs the columns"),
        (",".join(COLUMNS) + "\nx,s,c,a,0,1,ET,dice,much,1\n", "no number"),
    ],
)
def test_refusals(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_csv(tmp_path / "results.csv")
    with pytest.raises(InputError, match="holds no missing"):
        read_csv(tmp_path / "missing.csv")


def test_the_mean_is_over_structures_and_left_out_where_one_lacks() -> None:
    def score(dice: float) -> RegionScore:
        return RegionScore(dice=dice, hd95_mm=1.0, assd_mm=1.0, masd_mm=1.0, nsd=1.0, rule="measured")

    regions = {"NCR": score(0.2), "ED": score(0.4), "ET": score(0.9), "WT": score(0.1)}
    rows = case_rows(regions, {}, structures=("NCR", "ED", "ET"), of=ONE)
    dice = {row.region: row.value for row in rows if row.metric == "dice"}
    assert dice == {"NCR": 0.2, "ED": 0.4, "ET": 0.9, "WT": 0.1, "mean": pytest.approx(0.5)}
    partial = case_rows(regions, {}, structures=("NCR", "GM"), of=ONE)
    assert "mean" not in {row.region for row in partial}
