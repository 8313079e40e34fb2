"""Maps like FA and fibre orientation: the order of tissues, what a tumour does, what a scanner does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from common.data.phantom import fields
from common.data.phantom.anatomy import Anatomy, draw_anatomy, template_position
from common.data.phantom.bundles import Laid, draw_courses, lay
from common.data.phantom.diffusion import (
    DIFFUSION,
    HALF_SPACE,
    DiffusionAcquisition,
    acquire_diffusion,
    core_of,
    draw_diffusion,
    orientation,
    true_anisotropy,
)
from common.data.phantom.fields import Array
from common.data.phantom.sampling import Slices
from common.data.phantom.sites import SITES, head
from common.data.phantom.tumour import Tumour
from common.seeds import generator

SEED, SPACING_MM = 2, 3.0


@dataclass(frozen=True)
class Scene:
    anatomy: Anatomy
    tumour: Tumour
    position: Array
    laid: Laid


@pytest.fixture(scope="module")
def scene() -> Scene:
    anatomy, _, tumour = head(SITES["adult-b"], seed=SEED, spacing_mm=SPACING_MM)
    assert tumour is not None
    position = template_position(draw_anatomy(generator(SEED, "anatomy")), spacing_mm=SPACING_MM)
    position = fields.displace(position, tumour.displacement_mm, SPACING_MM)
    courses = draw_courses(generator(SEED, "bundles"))
    return Scene(
        anatomy, tumour, position, lay(courses, position, anatomy.fractions[2], spacing_mm=SPACING_MM)
    )


def test_anisotropy_is_highest_in_tubes_and_lowest_in_fluid(scene: Scene) -> None:
    values = true_anisotropy(scene.anatomy, None, scene.laid, generator(1))
    csf, grey, white = scene.anatomy.fractions

    tube = values[scene.laid.masks.any(0) & (white > 0.9)].mean()
    around = values[~scene.laid.masks.any(0) & (white > 0.9) & (scene.laid.profile < 0.1)].mean()
    ribbon = values[(grey > 0.9) & scene.anatomy.mask].mean()
    fluid = values[(csf > 0.9) & scene.anatomy.mask].mean()

    assert tube > around + 0.1 > ribbon + 0.2 > fluid
    assert values.min() >= 0
    assert values.max() <= 1


def test_oedema_lowers_anisotropy_and_the_core_has_next_to_none(scene: Scene) -> None:
    healthy = true_anisotropy(scene.anatomy, None, scene.laid, generator(1))
    ill = true_anisotropy(scene.anatomy, scene.tumour, scene.laid, generator(1))
    white = scene.anatomy.fractions[2] > 0.8
    oedema = (scene.tumour.label == 2) & (scene.tumour.fractions[1] > 0.8) & white
    core = core_of(scene.tumour) > 0.99
    far = scene.tumour.fractions.sum(0) < 1e-6

    assert 0.5 < (ill[oedema] / healthy[oedema]).mean() < 0.7
    assert ill[core].max() < 0.1
    np.testing.assert_allclose(ill[far], healthy[far], atol=1e-5)


def test_orientation_is_of_length_one_runs_along_tubes_and_points_to_one_side(scene: Scene) -> None:
    vectors = orientation(scene.laid, scene.position, generator(1), spacing_mm=SPACING_MM)
    middle = scene.laid.profile > 0.99

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0)[middle], 1, atol=1e-4)
    assert (np.tensordot(np.array(HALF_SPACE, np.float32), vectors, 1) > -1e-4).all()
    assert np.abs((vectors * scene.laid.direction).sum(0))[middle].min() > 0.99


def test_without_noise_at_the_grids_resolution_maps_are_the_truth_times_the_gain(scene: Scene) -> None:
    truth = true_anisotropy(scene.anatomy, None, scene.laid, generator(1))
    vectors = orientation(scene.laid, scene.position, generator(1), spacing_mm=SPACING_MM)

    perfect = DiffusionAcquisition(Slices(), noise=0.0, gain=0.9, seed=1)
    fa, peaks = acquire_diffusion(truth, vectors, perfect, spacing_mm=SPACING_MM)

    np.testing.assert_allclose(fa, 0.9 * truth, atol=1e-5)
    np.testing.assert_allclose(peaks, 0.9 * truth * vectors, atol=1e-5)


def test_noise_raises_low_anisotropy_and_leaves_orientation_unbiased() -> None:
    quiet = np.zeros((40, 40, 40), np.float32)
    noisy = DiffusionAcquisition(Slices(in_plane_mm=3.0, thickness_mm=3.0), noise=0.1, gain=1.0, seed=1)

    fa, peaks = acquire_diffusion(quiet, np.zeros((3, 40, 40, 40), np.float32), noisy, spacing_mm=SPACING_MM)

    assert fa.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    assert abs(peaks.mean()) < 0.002
    assert peaks.std() == pytest.approx(0.15, rel=0.02)


def test_a_clinical_protocol_is_noisier_thicker_and_sees_less() -> None:
    source, clinical = (draw_diffusion(DIFFUSION[name], generator(3)) for name in ("adult-a", "adult-b"))

    assert source.seed == clinical.seed
    assert clinical.noise > source.noise
    assert clinical.slices.thickness_mm > source.slices.thickness_mm
    assert clinical.gain < source.gain
