from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data import cache as cache_module
from common.data.cache import Cache, entry_key
from common.data.cases import Cohort
from common.data.intake import open_cohort
from common.data.transforms import Preparation, PreparedCase
from common.data.volume import read_volume, write_volume
from common.errors import DataError, RunError
from tests.common.data.conftest import WriteCase

PREPARATION = Preparation(("NCR", "ED", "ET"), spacing_mm=2.0)


@pytest.fixture
def cohort(tmp_path: Path, write_case: WriteCase) -> Cohort:
    write_case(tmp_path / "data", "a")
    write_case(tmp_path / "data", "b", label=False, seed=1)
    return open_cohort(tmp_path / "data")


def same(first: PreparedCase, second: PreparedCase) -> bool:
    labels = (first.label is None) == (second.label is None) and (
        first.label is None or np.array_equal(first.label, np.asarray(second.label))
    )
    return (
        labels
        and np.array_equal(first.image, second.image)
        and (first.name, first.patient, first.geometry, first.present)
        == (second.name, second.patient, second.geometry, second.present)
    )


def test_an_entry_is_what_was_prepared_and_is_not_prepared_twice(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    first = [cache.prepared(case, cohort, PREPARATION) for case in cohort.cases]

    def never(*_: object) -> PreparedCase:
        raise AssertionError("prepared again")

    monkeypatch.setattr(cache_module, "prepare", never)
    again = [Cache(tmp_path / "cache").prepared(case, cohort, PREPARATION) for case in cohort.cases]
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    assert again[0].image.dtype == np.float16
    assert again[1].label is None


def test_what_the_key_depends_on(cohort: Cohort) -> None:
    case = cohort.cases[0]
    key = entry_key(case, cohort, PREPARATION)
    others = [
        entry_key(cohort.cases[1], cohort, PREPARATION),
        entry_key(case, cohort, replace(PREPARATION, spacing_mm=3.0)),
        entry_key(case, cohort, replace(PREPARATION, structures=("ED",))),
        entry_key(case, cohort, replace(PREPARATION, modalities=("t1n",))),
        entry_key(case, cohort, replace(PREPARATION, degradation="ssa-1.5T")),
        entry_key(case, replace(cohort, label_map={"NCR": 2, "ED": 1, "ET": 3}), PREPARATION),
        entry_key(replace(case, label=None), cohort, PREPARATION),
    ]
    assert len({key, *others}) == 1 + len(others)
    degraded = replace(cohort, degraded="ssa-1.5T")
    assert entry_key(case, degraded, PREPARATION) == others[4]
    renamed = replace(case, name="other", patient="p")
    assert entry_key(renamed, cohort, PREPARATION) == key
    assert entry_key(renamed, degraded, PREPARATION) != others[4]


def test_a_file_that_changes_is_prepared_again(tmp_path: Path, cohort: Cohort) -> None:
    case, cache = cohort.cases[0], Cache(tmp_path / "cache")
    before = cache.prepared(case, cohort, PREPARATION)
    path = case.images["t1n"].path
    scan = read_volume(path, dtype=np.int16)
    scan.array[scan.array > 0] += np.arange((scan.array > 0).sum(), dtype=np.int16)
    write_volume(path, scan)
    assert not same(before, cache.prepared(case, cohort, PREPARATION))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, cohort: Cohort, damage: str) -> None:
    case, cache = cohort.cases[0], Cache(tmp_path / "cache")
    before = cache.prepared(case, cohort, PREPARATION)
    (entry,) = cache.folder.iterdir()
    content = bytearray(entry.read_bytes())
    content[-100] ^= 1
    damaged = {"cut": bytes(content[:-50]), "bit": bytes(content), "empty": b"", "other": b"\x02" + bytes(60)}
    entry.write_bytes(damaged[damage])
    assert same(before, cache.prepared(case, cohort, PREPARATION))
    content[-100] ^= 1
    assert entry.read_bytes() == content


def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        cache.prepared(cohort.cases[0], cohort, PREPARATION)
    assert list(cache.folder.iterdir()) == []


def test_a_file_that_is_gone(tmp_path: Path, cohort: Cohort) -> None:
    cohort.cases[0].images["t1n"].path.unlink()
    with pytest.raises(DataError, match=r"case a: a-t1n\.nii\.gz cannot be read"):
        Cache(tmp_path / "cache").prepared(cohort.cases[0], cohort, PREPARATION)
