"""A shelf gives what the sites prepared, and keeps no more of it in memory than it may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.site import Site
from common.plan import load
from simulation.study.shelf import Shelf


@pytest.fixture
def site(tiny_cohorts: dict[str, Path], tmp_path: Path) -> Site:
    return Site("adult-a", tmp_path / "site", tiny_cohorts["adult-a"])


def test_cases_are_those_of_the_site_in_order(site: Site) -> None:
    plan = load("smoke")
    cases = site.cohort.cases
    shelf = Shelf([(site, case) for case in cases], plan)
    assert len(shelf) == len(cases)
    assert [found.name for found in shelf] == [case.name for case in cases]
    assert [found.name for found in shelf[1:3]] == [case.name for case in cases[1:3]]
    (expected,) = site.prepared(plan, cases[:1])
    assert np.array_equal(shelf[0].image, expected.image)
    assert shelf[0] is shelf[0]


def test_memory_is_bounded_and_what_was_used_last_stays(site: Site) -> None:
    plan = load("smoke")
    cases = site.cohort.cases
    sizes = [found.image.nbytes for found in site.prepared(plan, cases)]
    shelf = Shelf([(site, case) for case in cases], plan, most_bytes=2 * max(sizes))
    first = shelf[0]
    for index in (1, 0, 2, 0, 3):
        assert shelf[index].name == cases[index].name
        assert sum(case.image.nbytes for case in shelf._kept.values()) <= 2 * max(sizes)
    assert shelf[0] is first
    assert list(shelf._kept) == [3, 0]
