"""Pictures of judged cases: the right slice, cropped to the head, unchanged by the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.volume import Volume
from simulation.slices import MARGIN_VOXELS
from simulation.study.pictures import keep, kept, take


def volumes() -> tuple[Volume, Volume, Volume]:
    """A head of 10 x 8 voxels in the middle of a larger image; the expert sees most in slice 4."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    scan = np.zeros((30, 28, 9), dtype=np.float32)
    scan[10:20, 10:18] = np.random.default_rng(0).uniform(1, 2, (10, 8, 9))
    truth = np.zeros(scan.shape, dtype=np.uint8)
    truth[12:15, 12:15, 4] = 2
    truth[12, 12, 2] = 1
    found = np.zeros_like(truth)
    found[10:20, 10:18, 7] = 3
    return Volume(scan, affine), Volume(truth, affine), Volume(found, affine)


def test_the_experts_largest_slice_is_shown_cropped_to_the_head() -> None:
    scan, truth, found = volumes()

    picture = take(scan, truth, found, site="s", case="c")

    assert picture.level == 4
    assert picture.scan.shape == (8 + 2 * MARGIN_VOXELS, 10 + 2 * MARGIN_VOXELS)  # rows front to back
    assert picture.spacing_mm == (3.0, 2.0)
    assert np.count_nonzero(picture.truth == 2) == 9
    assert not picture.found.any()
    assert picture.scan.max() <= 212
    assert np.count_nonzero(picture.scan) == 80


def test_the_models_slice_is_shown_where_the_expert_saw_nothing() -> None:
    scan, truth, found = volumes()
    nothing = Volume(np.zeros_like(truth.array), truth.affine)

    assert take(scan, nothing, found, site="s", case="c").level == 7


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    scan, truth, found = volumes()
    pictures = [take(scan, truth, found, site="s", case=name) for name in ("a", "b")]

    keep(tmp_path, pictures)

    again = kept(tmp_path)
    assert [(one.site, one.case, one.level, one.spacing_mm) for one in again] == [
        ("s", "a", 4, (3.0, 2.0)),
        ("s", "b", 4, (3.0, 2.0)),
    ]
    assert all((one.scan == pictures[0].scan).all() for one in again)
    assert (again[0].truth == pictures[0].truth).all()


def test_a_job_without_pictures_has_none(tmp_path: Path) -> None:
    assert kept(tmp_path) == []
