"""A report of sites that keep some of their numbers to themselves."""

from __future__ import annotations

from typing import Any

import pytest

from simulation import findings, tables
from simulation.withheld import filled, without_cases
from simulation.wording import UNKNOWN

STRUCTURES = ("NCR", "ED", "ET")
CASE = {"dice": {"NCR": 0.1, "ED": 0.2, "ET": 0.3}}
MEANS = {"NCR": 0.1, "ED": 0.2, "ET": 0.3, "mean": 0.2}
WHOLE = {"dice": MEANS, "hd95_mm": dict.fromkeys(MEANS, 4.0), "empty": {"NCR": 1}, "cases": [CASE]}


def summary(**scores: Any) -> dict[str, Any]:  # noqa: ANN401 - scores as sites send them
    site = {"cases": {"train": 4, "val": 1, "test": 7}, "kept": "adapted", "phantom": False, **scores}
    return {"sites": {"ssa": site}, "rounds": [], "subset_rounds": [], "status": "completed"}


def site_of(**scores: Any) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = filled(summary(**scores), STRUCTURES)["sites"]["ssa"]
    return found


def test_what_is_whole_stays_as_it_is() -> None:
    assert site_of(before=WHOLE) == {**summary()["sites"]["ssa"], "before": WHOLE}


def test_a_model_of_which_nothing_was_sent_is_left_out() -> None:
    site = site_of(before={}, federated={"dice": {}, "hd95_mm": {}}, adapted=WHOLE)
    assert {"before", "federated"}.isdisjoint(site)


@pytest.mark.parametrize("kept", ["dice", "hd95_mm"])
def test_one_metric_alone_is_shown(kept: str) -> None:
    site = site_of(adapted={kept: WHOLE[kept]})
    table = tables.site_scores_table("ssa", site, STRUCTURES)
    assert table is not None
    assert "7 test cases" in table.caption
    assert sum(cell == UNKNOWN for cell in table.rows[0]) == 4


def test_means_without_cases() -> None:
    told = summary(adapted={**WHOLE, "cases": []}, local_only={**WHOLE, "cases": []})
    complete = filled(told, STRUCTURES)
    table = tables.gains_table(complete, STRUCTURES)
    assert table is not None
    assert table.rows[0][1] == "7"
    assert table.rows[0][5:7] == (UNKNOWN, UNKNOWN)
    assert list(without_cases(complete)) == ["ssa"]
    (notice,) = findings._withheld(complete)
    assert "ssa" in notice.title
    assert findings._zero_regions(complete["sites"]["ssa"]) == {}


def test_a_case_that_lacks_a_number_is_left_out() -> None:
    cases = [CASE, {"dice": {"NCR": 0.1}}, {"dice": {**CASE["dice"], "ET": "high"}}, {}]
    assert site_of(adapted={**WHOLE, "cases": cases})["adapted"]["cases"] == [CASE]


def test_the_overview_shows_a_dash_for_what_is_not_known() -> None:
    table = tables.overview_table(summary(before={}, adapted={"dice": MEANS}))
    assert table.rows[0][3:7] == (UNKNOWN, UNKNOWN, UNKNOWN, "0.200")


def test_where_nobody_trains_alone_the_first_model_is_compared_with() -> None:
    better = {**WHOLE, "dice": {**MEANS, "mean": 0.5}}
    words = findings.headline(summary(before=WHOLE, federated=WHOLE, adapted=better))
    assert "trains no site alone" in words
    assert "+0.300 on average over 1 site" in words


def test_values_by_the_rule_are_counted_over_the_cases_that_were_tested() -> None:
    told = filled(summary(adapted={**WHOLE, "cases": []}), STRUCTURES)
    assert findings.empty_words(told["sites"]["ssa"]) == ["adapted: NCR 1 of 7 cases"]
