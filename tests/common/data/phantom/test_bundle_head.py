"""A phantom head with bundles: twins, protocols, and the folder that the reader takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.phantom.bundle_head import BundleHead, make_bundle_head, write_bundle_head
from common.data.phantom.bundles import TUBES
from common.data.phantom.sites import SITES
from common.data.tractseg import open_tractseg, prepare, truth_of
from common.errors import InputError

PATIENTS = SITES["adult-b"]


def made(*, seed: int = 2, tumour: bool, protocol: str = "adult-b") -> BundleHead:
    profile = replace(PATIENTS, scanner=SITES[protocol].scanner)
    return make_bundle_head(profile, seed=seed, spacing_mm=4.0, tumour=tumour, diffusion=protocol)


def test_a_twin_is_the_same_head_without_the_tumour() -> None:
    ill, twin = made(tumour=True), made(tumour=False)
    far = (ill.lesion == 0) & (np.abs(ill.fa - twin.fa) < 1e-6)

    assert ill.lesion.any()
    assert not twin.lesion.any()
    assert far.mean() > 0.3
    assert set(twin.displacement_mm.values()) == {0.0}
    assert set(twin.interrupted.values()) == {0.0}
    assert max(ill.displacement_mm.values()) > 1
    assert max(ill.interrupted.values()) > 0.1
    assert sum(mask.sum() for mask in ill.masks.values()) < sum(mask.sum() for mask in twin.masks.values())


def test_the_protocol_changes_images_and_neither_bundles_nor_tumour() -> None:
    source, clinical = made(tumour=True, protocol="adult-a"), made(tumour=True)

    for name in TUBES:
        np.testing.assert_array_equal(source.masks[name], clinical.masks[name])
    np.testing.assert_array_equal(source.lesion, clinical.lesion)
    assert source.displacement_mm == clinical.displacement_mm
    assert not np.array_equal(source.t1, clinical.t1)
    assert not np.array_equal(source.fa, clinical.fa)


def test_the_same_seed_gives_the_same_head() -> None:
    one, other = made(tumour=True), made(tumour=True)

    np.testing.assert_array_equal(one.peaks, other.peaks)
    np.testing.assert_array_equal(one.t1, other.t1)


def test_what_is_written_is_what_the_reader_takes(tmp_path: Path) -> None:
    head = made(tumour=True)
    write_bundle_head(tmp_path / "one", head)

    (subject,) = open_tractseg(tmp_path)

    assert set(subject.images) == {"t1", "fa", "peaks"}
    assert tuple(sorted(subject.bundles)) == tuple(sorted(TUBES))
    bits = truth_of(subject, tuple(TUBES)).array
    for bit, name in enumerate(TUBES):
        np.testing.assert_array_equal(bits >> bit & 1, head.masks[name])
    case = prepare(subject, "peaks", bundles=tuple(TUBES), spacing_mm=None)
    assert case.image.shape[0] == 3
    assert case.label is not None
    assert np.count_nonzero(case.label) == np.count_nonzero(bits)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="diffusion"):
        make_bundle_head(PATIENTS, seed=1, spacing_mm=4.0, tumour=False, diffusion="nowhere")
