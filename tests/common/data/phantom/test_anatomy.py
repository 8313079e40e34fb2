from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from common.data.phantom.anatomy import Anatomy, build_anatomy, default_source, draw_anatomy, load_template
from common.data.volume import orientation
from common.errors import InputError

SOURCES = [
    "analytic",
    pytest.param(
        "mni152",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed"
        ),
    ),
]


@pytest.fixture(scope="module", params=SOURCES)
def anatomy(request: pytest.FixtureRequest) -> Anatomy:
    return build_anatomy(draw_anatomy(np.random.default_rng(5)), spacing_mm=3.0, source=request.param)


def test_fractions_sum_to_one(anatomy: Anatomy) -> None:
    assert (anatomy.fractions >= 0).all()
    np.testing.assert_allclose(anatomy.fractions.sum(0), 1, atol=1e-4)


def test_a_brain_has_the_volume_of_a_brain(anatomy: Anatomy) -> None:
    voxel_ml = 0.027
    csf, grey, white = (float(f[anatomy.mask].sum()) * voxel_ml for f in anatomy.fractions)

    assert 900 < csf + grey + white < 1900
    assert 300 < grey < 1000
    assert 250 < white < 1000
    assert 0.03 < csf / (csf + grey + white) < 0.45


def test_the_grid_surrounds_the_brain(anatomy: Anatomy) -> None:
    for axis in range(3):
        edge = np.take(anatomy.mask, [0, -1], axis)
        assert not edge[0].any() or axis == 2


def test_the_grid_runs_left_posterior_superior(anatomy: Anatomy) -> None:
    assert orientation(anatomy.affine) == ((0, 1, 2), (True, True, False))


def test_ventricles_are_inside(anatomy: Anatomy) -> None:
    ventricles = anatomy.ventricles > 0.5

    assert 2 < ventricles.sum() * 0.027 < 150
    assert anatomy.brain[ventricles].min() > 0.7


def test_subjects_differ() -> None:
    first, second = (
        build_anatomy(draw_anatomy(np.random.default_rng(seed)), spacing_mm=3.0, source="analytic")
        for seed in (1, 2)
    )

    assert (first.mask != second.mask).mean() > 0.01


@pytest.mark.parametrize("spacing_mm", [2.0, 4.0])
def test_the_same_subject_at_another_spacing(spacing_mm: float) -> None:
    parameters = draw_anatomy(np.random.default_rng(5))
    three, other = (
        build_anatomy(parameters, spacing_mm=spacing, source="analytic") for spacing in (3.0, spacing_mm)
    )

    volume_ml = [float(a.mask.sum()) * a.spacing_mm**3 / 1000 for a in (three, other)]

    assert volume_ml[0] == pytest.approx(volume_ml[1], rel=0.03)


def test_an_unknown_anatomy_is_refused() -> None:
    with pytest.raises(InputError, match=r"'colin27'; choose mni152 or analytic"):
        build_anatomy(draw_anatomy(np.random.default_rng(5)), spacing_mm=3.0, source="colin27")


def test_without_nilearn_the_head_is_analytic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert default_source() == "analytic"
    with pytest.raises(InputError, match="install nilearn"):
        load_template.__wrapped__("mni152", half=True)
