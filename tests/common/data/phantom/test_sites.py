from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from common.data.phantom.acquisition import acquire
from common.data.phantom.scanner import Acquisition, Scanner, draw_acquisition
from common.data.phantom.sites import SITES, PhantomCase, Profile, make_case, site_profile
from common.data.phantom.tissue import PROTOCOL_1T5
from common.errors import InputError

SITE = replace(SITES["adult-a"], anatomy="analytic")


def case(
    profile: Profile = SITE, *, seed: int = 7, healthy: bool = False, tumour: bool = True
) -> PhantomCase:
    return make_case(profile, seed=seed, spacing_mm=4.0, healthy=healthy, tumour=tumour)


@pytest.mark.parametrize("name", SITES)
def test_every_site_gives_a_case(name: str) -> None:
    made = case(replace(SITES[name], anatomy="analytic"))

    assert made.images.shape == (4, *made.label.shape)
    assert made.images.dtype == np.float32
    assert np.isfinite(made.images).all()
    assert (made.images >= 0).all()
    assert (made.images.any(0) == made.images.all(0)).all()
    assert 0.1 < made.images.any(0).mean() < 0.8
    assert set(np.unique(made.label)) <= {0, 1, 2, 3}


def test_the_same_seed_gives_the_same_case_and_another_does_not() -> None:
    first, again, other = case(), case(), case(seed=8)

    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.label, again.label)
    assert (first.label != other.label).any()


def test_a_twin_is_the_same_head_in_the_same_examination() -> None:
    patient, twin = case(), case(tumour=False)
    untouched = (np.abs(patient.displacement_mm).max(0) == 0) & (patient.label == 0)

    assert patient.acquisition == twin.acquisition
    assert not twin.label.any()
    assert not twin.displacement_mm.any()
    assert (patient.images[0] > 0).sum() == (twin.images[0] > 0).sum()
    assert (patient.images != twin.images).any()
    far = untouched & _far_from(patient.label > 0, voxels=10)
    assert far.any()
    np.testing.assert_allclose(patient.images[:, far], twin.images[:, far], rtol=0.02)


def _far_from(mask: NDArray[np.bool_], *, voxels: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.distance_transform_edt(~mask) > voxels)


def test_a_healthy_case_is_labelled_with_tissue() -> None:
    healthy = case(healthy=True)

    assert healthy.tumour is None
    np.testing.assert_array_equal(healthy.label, healthy.tissue)
    assert set(np.unique(healthy.label)) == {0, 1, 2, 3}


def test_tissue_contrast_is_a_radiologists() -> None:
    quiet = replace(SITE, scanner=Scanner(snr=None, bias=(0, 0)), nuisance=0.0, texture=0.0)
    healthy = case(quiet, healthy=True)
    csf, grey, white = (np.median(healthy.images[:, healthy.tissue == code], 1) for code in (1, 2, 3))

    assert white[0] > grey[0] > csf[0]
    assert csf[2] > grey[2] > white[2]
    assert grey[3] > white[3] > csf[3]


def test_tumour_contrast_is_a_radiologists() -> None:
    quiet = replace(SITE, scanner=Scanner(snr=None, bias=(0, 0)), nuisance=0.0, phenotypes={"high-grade": 1})
    made = next(c for c in (case(quiet, seed=s) for s in range(20)) if (c.label == 3).sum() > 50)
    ed, et = (np.median(made.images[:, made.label == code], 1) for code in (2, 3))
    white = np.median(made.images[:, (made.tissue == 3) & (made.label == 0)], 1)

    assert ed[3] > 1.2 * white[3]
    assert ed[2] > 1.2 * white[2]
    assert et[1] / et[0] > 1.1 * white[1] / white[0]


KNOBS: dict[str, Callable[[Profile], Profile]] = {
    "protocol": lambda p: replace(p, scanner=replace(p.scanner, protocols=(PROTOCOL_1T5,))),
    "thickness": lambda p: replace(p, scanner=replace(p.scanner, thickness_mm=(9.0, 9.0))),
    "snr": lambda p: replace(p, scanner=replace(p.scanner, snr=(2.0, 2.0))),
    "bias": lambda p: replace(p, scanner=replace(p.scanner, bias=(0.5, 0.5))),
    "ghost": lambda p: replace(p, scanner=replace(p.scanner, ghost=0.5)),
    "gamma": lambda p: replace(p, scanner=replace(p.scanner, gamma=0.3)),
    "contrast": lambda p: replace(p, scanner=replace(p.scanner, contrast=0.3)),
    "nuisance": lambda p: replace(p, nuisance=1.0),
    "texture": lambda p: replace(p, texture=0.2),
    "tissue": lambda p: replace(p, tissue_jitter=0.3),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_a_scanner_knob_changes_the_image_and_nothing_else(knob: str) -> None:
    before, after = case(), case(KNOBS[knob](SITE))

    np.testing.assert_array_equal(before.label, after.label)
    np.testing.assert_array_equal(before.tissue, after.tissue)
    np.testing.assert_array_equal(before.images > 0, after.images > 0)
    assert before.tumour == after.tumour
    assert np.abs(before.images - after.images).max() > 1


def test_the_phenotype_leaves_head_and_examination() -> None:
    before = case(tumour=False)
    after = case(replace(SITE, phenotypes={"late-stage": 1.0}), tumour=False)

    np.testing.assert_array_equal(before.images, after.images)
    assert case(replace(SITE, phenotypes={"late-stage": 1.0})).acquisition == before.acquisition


BASE = Scanner(thickness_mm=(1.0, 7.0))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (replace(BASE, thickness_mm=(8, 9)), "slices"),
        (replace(BASE, gap_mm=(1, 2)), "slices"),
        (replace(BASE, in_plane_mm=(1, 2)), "slices"),
        (replace(BASE, snr=(8, 9)), "snr"),
        (replace(BASE, bias=(0.3, 0.4)), "bias"),
    ],
)
def test_a_drawn_knob_leaves_the_others(changed: Scanner, expected: str) -> None:
    before, after = (draw_acquisition(scanner, np.random.default_rng(4)) for scanner in (BASE, changed))

    same = [
        name for name in Acquisition.__dataclass_fields__ if getattr(before, name) == getattr(after, name)
    ]

    assert set(Acquisition.__dataclass_fields__) - set(same) == {expected}


def test_sites_differ_in_more_than_a_gain() -> None:
    """Instance normalisation undoes a gain and an offset of each channel; the shift must survive it."""
    adult = case(healthy=True)
    african = case(replace(SITES["ssa"], anatomy="analytic"), healthy=True)
    inside = (adult.images > 0).all(0) & (african.images > 0).all(0)

    for one, other in zip(adult.images[:, inside], african.images[:, inside], strict=True):
        assert np.corrcoef(one, other)[0, 1] ** 2 < 0.95


def test_low_field_site_is_noisier_and_thicker_than_the_adult_sites() -> None:
    draws = {
        name: [draw_acquisition(SITES[name].scanner, np.random.default_rng(s)) for s in range(10)]
        for name in ("adult-a", "ssa")
    }

    assert max(d.snr or 0 for d in draws["ssa"]) < min(d.snr or 0 for d in draws["adult-a"])
    assert min(d.slices[2].thickness_mm for d in draws["ssa"]) >= 5


def test_enhancement_is_empty_in_some_cases() -> None:
    made = [case(replace(SITES["varied"], anatomy="analytic"), seed=s) for s in range(12)]

    assert 0 < sum(not (c.label == 3).any() for c in made) < 12


def test_a_neutral_examination_only_scales() -> None:
    signals = np.random.default_rng(0).random((4, 12, 12, 12)).astype(np.float32) + 0.5
    brain = np.ones((12, 12, 12), np.float32)

    images = acquire(
        signals, brain, Acquisition(PROTOCOL_1T5), spacing_mm=2.0, reference=np.ones(4, np.float32)
    )

    np.testing.assert_allclose(images, 1000 * signals, rtol=1e-5)


def test_unknown_sites_and_spacings_are_refused_in_words() -> None:
    with pytest.raises(InputError, match=r"mars.*adult-a"):
        site_profile("mars")
    with pytest.raises(InputError, match="1 to 4 mm"):
        make_case(SITE, seed=1, spacing_mm=0.5)
