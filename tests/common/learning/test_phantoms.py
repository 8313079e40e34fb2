from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.intake import open_cohort
from common.data.phantom.sites import case_seed, make_case, site_profile
from common.data.phantom.writer import write_cohort
from common.data.transforms import Preparation, prepare
from common.learning.phantoms import Stream, open_pool, phantom, prepared

SMALL = Stream(site="adult-a", spacing_mm=(4.0, 4.0), size=3, refresh=2, ahead=0)


def test_the_pool_moves_on_by_one_case_each_refresh() -> None:
    with open_pool(SMALL, seed=1, workers=0) as pool:
        names = [[case.name for case in pool(step)] for step in range(5)]

    assert names[0] == ["phantom-0", "phantom-1", "phantom-2"]
    assert names[1] == names[0]
    assert names[4] == ["phantom-2", "phantom-3", "phantom-4"]


def test_a_pool_opened_later_is_the_same() -> None:
    with open_pool(SMALL, seed=1, workers=0) as pool:
        pool(0)
        expected = pool(4)
    with open_pool(SMALL, seed=1, workers=0) as pool:
        actual = pool(4)

    assert all(np.array_equal(a.image, e.image) for a, e in zip(actual, expected, strict=True))


def test_spacing_is_drawn_inside_the_range_and_tumour_free_cases_occur() -> None:
    stream = Stream(site="adult-a", spacing_mm=(3.6, 4.0), tumour_free=0.5)
    cases = [phantom(stream, seed=2, number=number) for number in range(6)]

    assert all(3.6 <= case.geometry.spacing_mm[0] <= 4.0 for case in cases)
    assert {bool(case.label is not None and case.label.any()) for case in cases} == {True, False}


def test_a_phantom_in_memory_equals_one_that_went_over_files(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path / "c", site="adult-a", cases=1, seed=5, spacing_mm=4.0)
    cohort = open_cohort(folder)
    expected = prepare(cohort.cases[0], cohort, Preparation(("NCR", "ED", "ET")))
    made = make_case(site_profile("adult-a"), seed=case_seed(5, "adult-a", 1), spacing_mm=4.0)
    actual = prepared(made, name="x")

    assert actual.label is not None
    assert expected.label is not None
    assert np.array_equal(actual.label, expected.label)
    # Files hold rounded intensities of some hundreds.
    assert np.abs(actual.image.astype(float) - expected.image.astype(float)).max() < 0.05
