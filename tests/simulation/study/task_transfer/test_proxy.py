"""The stand-in for hippocampus scans: two sides of each head, with structures that can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.intake import open_cohort
from common.data.volume import read_label, read_volume
from simulation.study.task_transfer.proxy import crops_of_head, write_proxy


def test_a_folder_is_a_decathlon_cohort_of_phantoms(tmp_path: Path) -> None:
    write_proxy(tmp_path / "h", phantom="adult-a", heads=2, seed=1, spacing_mm=4.0)
    cohort = open_cohort(tmp_path / "h")
    assert cohort.phantom
    assert cohort.label_map == {"anterior": 1, "posterior": 2}
    assert len(cohort.cases) == 4
    assert cohort.patients == ("phantom-001", "phantom-002")
    for case in cohort.cases:
        assert case.label is not None
        scan, label = read_volume(case.images["t1n"].path), read_label(case.label)
        assert scan.shape == label.shape
        assert set(np.unique(label.array)) == {0, 1, 2}


def test_sides_are_a_centimetre_from_the_midline_and_on_either_side() -> None:
    """Structures lie where the course runs: 15 to 40 mm from the midline, each millilitres large."""
    crops = crops_of_head("adult-a", seed=3, spacing_mm=3.0)
    for side, sign in (("r", 1), ("l", -1)):
        _, label = crops[side]
        voxels = np.argwhere(label.array > 0)
        middle = label.affine[:3, :3] @ voxels.mean(axis=0) + label.affine[:3, 3]
        assert 12 < sign * middle[0] < 40
        assert 1.0 < len(voxels) * 27 / 1000 < 8.0


def test_anterior_lies_in_front_of_posterior() -> None:
    _, label = crops_of_head("adult-a", seed=4, spacing_mm=3.0)["r"]
    front, back = (np.argwhere(label.array == code).mean(axis=0) for code in (1, 2))
    assert (label.affine[:3, :3] @ (front - back))[1] > 0
