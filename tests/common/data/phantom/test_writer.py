from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from common.data.cases import MODALITIES
from common.data.intake import open_cohort
from common.data.phantom.writer import write_cohort
from common.data.volume import read_label, read_volume
from common.errors import InputError


def test_our_reader_reads_what_is_written(tmp_path: Path) -> None:
    out = write_cohort(tmp_path / "ssa", site="ssa", cases=2, seed=1, spacing_mm=4.0)

    cohort = open_cohort(out)

    assert [case.name for case in cohort.cases] == ["BraTS-SSA-00001-000", "BraTS-SSA-00002-000"]
    assert len(cohort.patients) == 2
    assert cohort.phantom
    assert cohort.field_strength_t == 1.5
    assert cohort.scanner == "phantom"
    assert dict(cohort.label_map or {}) == {"NCR": 1, "ED": 2, "ET": 3}


def test_images_are_as_in_brats(tmp_path: Path) -> None:
    case = open_cohort(write_cohort(tmp_path / "a", site="adult-a", cases=1, seed=1, spacing_mm=4.0)).cases[0]
    assert case.label is not None

    label = read_label(case.label)
    for modality in MODALITIES:
        image = read_volume(case.images[modality])
        assert image.shape == label.shape
        assert image.spacing_mm == (4.0, 4.0, 4.0)
        assert image.array.min() == 0
        assert not label.array[image.array == 0].any()


def test_the_same_seed_writes_the_same_arrays(tmp_path: Path) -> None:
    first, again = (
        open_cohort(write_cohort(tmp_path / name, site="adult-b", cases=1, seed=4, spacing_mm=4.0)).cases[0]
        for name in ("one", "two")
    )

    for modality in MODALITIES:
        np.testing.assert_array_equal(
            read_volume(first.images[modality]).array, read_volume(again.images[modality]).array
        )


@pytest.mark.parametrize("site", ["adult-a", "ssa"])
def test_healthy_cohorts_declare_tissue(tmp_path: Path, site: str) -> None:
    out = write_cohort(tmp_path / "h", site=site, cases=1, seed=1, spacing_mm=4.0, healthy=True)

    declared = tomllib.loads((out / "cohort.toml").read_text())

    assert declared["label_map"] == {"CSF": 1, "GM": 2, "WM": 3}
    label = open_cohort(out).cases[0].label
    assert label is not None
    assert set(np.unique(read_label(label).array)) == {0, 1, 2, 3}


def test_an_empty_cohort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write_cohort(tmp_path, site="ssa", cases=0, seed=1)
