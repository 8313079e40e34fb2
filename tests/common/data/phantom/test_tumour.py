from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.data.phantom import fields
from common.data.phantom.anatomy import Anatomy, build_anatomy, draw_anatomy
from common.data.phantom.phenotype import PHENOTYPES, TumourParameters, draw_tumour
from common.data.phantom.tumour import ED, ET, NCR, grow, infiltration, level_of_volume, mass_effect

VOXEL_ML = 0.064
"""Of a 4 mm grid."""


@pytest.fixture(scope="module")
def head() -> Anatomy:
    return build_anatomy(draw_anatomy(np.random.default_rng(3)), spacing_mm=4.0, source="analytic")


def drawn(seed: int, phenotype: str = "high-grade") -> TumourParameters:
    return draw_tumour({phenotype: 1.0}, np.random.default_rng(seed))


@pytest.mark.parametrize("phenotype", PHENOTYPES)
def test_volumes_are_the_drawn_ones(head: Anatomy, phenotype: str) -> None:
    parameters = replace(drawn(1, phenotype), whole_ml=80.0, core_ml=20.0)

    tumour, _ = grow(parameters, head)

    assert (tumour.label > 0).sum() * VOXEL_ML == pytest.approx(80, rel=0.2)


def test_core_volume_is_the_drawn_one(head: Anatomy) -> None:
    tumour, _ = grow(replace(drawn(1), whole_ml=90.0, core_ml=40.0), head)

    assert np.isin(tumour.label, (NCR, ET)).sum() * VOXEL_ML == pytest.approx(40, rel=0.1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), phenotype=st.sampled_from(sorted(PHENOTYPES)))
def test_every_tumour_is_sound(head: Anatomy, seed: int, phenotype: str) -> None:
    tumour, pushed = grow(drawn(seed, phenotype), head)

    assert set(np.unique(tumour.label)) <= {0, NCR, ED, ET}
    assert (tumour.label > 0).any()
    assert not tumour.label[~head.mask].any()
    assert tumour.fractions.min() >= 0
    assert tumour.fractions.sum(0).max() <= 1 + 1e-5
    assert fields.jacobian_determinant(tumour.displacement_mm, head.spacing_mm).min() > 0
    np.testing.assert_allclose(pushed.fractions.sum(0), 1, atol=1e-4)


def test_enhancement_is_absent_in_some_cases_of_every_weighting() -> None:
    shares = [
        draw_tumour({"high-grade": 1, "low-grade": 1}, np.random.default_rng(s)).et_share for s in range(60)
    ]

    assert 0 < sum(share == 0 for share in shares) < 60


def test_without_enhancement_the_core_is_ncr(head: Anatomy) -> None:
    tumour, _ = grow(replace(drawn(2), et_share=0.0), head)

    assert (tumour.label == NCR).any()
    assert not (tumour.label == ET).any()


def test_a_tiny_core_is_none(head: Anatomy) -> None:
    tumour, _ = grow(replace(drawn(2), core_ml=0.01), head)

    assert set(np.unique(tumour.label)) == {0, ED}


def test_an_unpatchy_shell_surrounds_the_necrosis(head: Anatomy) -> None:
    parameters = replace(
        drawn(2),
        whole_ml=150.0,
        core_ml=80.0,
        et_share=0.5,
        patchiness=0.0,
        incompleteness=0.0,
        places=(0.5,),
    )

    tumour, _ = grow(parameters, head)
    depth = ndimage.distance_transform_edt(np.isin(tumour.label, (NCR, ET)))

    assert depth[tumour.label == NCR].mean() > 1.5 * depth[tumour.label == ET].mean()


def test_blood_stays_labelled_as_core(head: Anatomy) -> None:
    without, _ = grow(replace(drawn(2), blood=0.0), head)
    bleeding, _ = grow(replace(drawn(2), blood=0.9), head)

    np.testing.assert_array_equal(bleeding.label, without.label)
    assert bleeding.fractions[4].max() > 0.3
    assert without.fractions[4].max() == 0


def test_mass_effect_points_away_and_vanishes_far_off(head: Anatomy) -> None:
    centre = np.array([n / 2 for n in head.shape], np.float32)
    parameters = replace(drawn(2), core_ml=30.0, whole_ml=60.0, mass_effect_mm=8.0, mass_reach_mm=15.0)

    push = mass_effect(parameters, head, centre)
    arm = fields.voxel_index(head.shape) - centre[:, None, None, None]
    distance_mm = 4.0 * np.sqrt((arm**2).sum(0))

    assert ((push * arm).sum(0) >= 0).all()
    assert 4 < np.abs(push).max() <= 8
    assert np.abs(push[:, distance_mm > 70]).max() < 0.05


def test_a_violent_mass_effect_still_does_not_fold(head: Anatomy) -> None:
    centre = np.array([n / 2 for n in head.shape], np.float32)
    parameters = replace(drawn(2), core_ml=60.0, mass_effect_mm=60.0, mass_reach_mm=8.0)

    push = mass_effect(parameters, head, centre)

    assert fields.jacobian_determinant(push, head.spacing_mm).min() > 0


def test_infiltration_runs_along_white_matter(head: Anatomy) -> None:
    shape = head.shape
    x, y, z = (n // 2 for n in shape)
    fractions = np.zeros((3, *shape), np.float32)
    fractions[1] = 1.0
    fractions[1, :, y, z], fractions[2, :, y, z] = 0.0, 1.0
    tract = replace(head, fractions=fractions, brain=np.ones(shape, np.float32))
    seed = np.zeros(shape, np.float32)
    seed[x, y, z] = 1.0

    exposure = infiltration(seed, tract, 20.0)

    assert exposure[x + 4, y, z] > 2 * exposure[x, y + 4, z]


def test_level_of_volume_counts_voxels() -> None:
    level = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    host = np.ones(level.shape, bool)

    threshold = level_of_volume(level, host, 0.1, 1.0)

    assert (level >= threshold).sum() == 100


def test_solid_tumour_is_part_of_ncr(head: Anatomy) -> None:
    necrotic, _ = grow(replace(drawn(2), solid=0.01, blood=0.0), head)
    mixed, _ = grow(replace(drawn(2), solid=0.6, blood=0.0), head)

    np.testing.assert_array_equal(mixed.label, necrotic.label)
    np.testing.assert_allclose(mixed.fractions.sum(0), necrotic.fractions.sum(0), atol=1e-5)
    assert mixed.fractions[3].sum() > 2 * necrotic.fractions[3].sum()
