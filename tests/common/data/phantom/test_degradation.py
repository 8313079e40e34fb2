from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.phantom.acquisition import DEGRADATIONS, degrade
from common.data.volume import Volume, read_volume
from common.errors import DataError, InputError


def scan(dtype: str = "int16") -> Volume:
    """A ball of stripes 3 voxels wide, on a 1 mm LPS grid."""
    x, y, z = np.meshgrid(*(np.arange(-24, 24),) * 3, indexing="ij")
    ball = x**2 + y**2 + z**2 < 22**2
    image = 500 + 200 * np.sign(np.sin(np.pi * (x + y + z + 0.5) / 3))
    return Volume((image * ball).astype(dtype), np.diag([-1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize("profile", DEGRADATIONS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_grid_type_and_outline_are_kept(profile: str, dtype: str) -> None:
    before = scan(dtype)

    after = degrade({"t1n": before}, profile, seed=1)["t1n"]

    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.array.dtype == before.array.dtype
    np.testing.assert_array_equal(after.array != 0, before.array != 0)
    assert after.array.min() >= 0


def test_it_is_seeded() -> None:
    first, again, other = (degrade({"t2f": scan()}, "ssa-1.5T", seed=s)["t2f"].array for s in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("profile", DEGRADATIONS)
def test_detail_is_lost_and_the_mean_is_not(profile: str) -> None:
    before = scan("float32")
    after = degrade({"t2f": before}, profile, seed=3)["t2f"].array
    inner = np.s_[16:32, 16:32, 16:32]

    stripes = before.array[inner] - before.array[inner].mean()
    kept = float((after[inner] * stripes).sum() / (stripes**2).sum())

    assert abs(kept) < 0.3
    assert after[inner].mean() == pytest.approx(before.array[inner].mean(), rel=0.25)


def test_ultra_low_is_noisier_than_the_1_5_t_site() -> None:
    flat = Volume(np.full((48, 48, 48), 400, np.float32), np.eye(4))

    noise = {
        profile: np.mean(
            [_fine_noise(degrade({"t2f": flat}, profile, seed=s)["t2f"].array) for s in range(3)]
        )
        for profile in DEGRADATIONS
    }

    assert noise["ultra-low"] > noise["ssa-1.5T"] > 0


def _fine_noise(image: np.ndarray) -> float:
    return float(np.std(image[4:] - image[:-4]))


def test_slices_lie_across_the_body_axis_whatever_the_array_order() -> None:
    profile = "ultra-low"
    edge = np.full((48, 48, 48), 100, np.float32)
    edge[:, :, 24:] = 900
    upright = degrade({"t2f": Volume(edge, np.eye(4))}, profile, seed=5)["t2f"].array
    turned_affine = np.eye(4)[[2, 1, 0, 3]]
    turned = degrade({"t2f": Volume(edge.transpose(2, 1, 0).copy(), turned_affine)}, profile, seed=5)[
        "t2f"
    ].array

    widths = [np.abs(np.diff(a, axis=axis)).mean((0, 1, 2)) for a, axis in ((upright, 2), (turned, 0))]

    assert widths[0] == pytest.approx(widths[1], rel=0.2)


def test_what_cannot_be_degraded_is_refused() -> None:
    with pytest.raises(InputError, match=r"7T.*ssa-1\.5T"):
        degrade({"t1n": scan()}, "7T", seed=1)
    with pytest.raises(DataError, match="t1n: only zeros"):
        degrade({"t1n": Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))}, "ssa-1.5T", seed=1)
    normalised = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32) + 0.1
    with pytest.raises(DataError, match="negative"):
        degrade({"t1n": Volume(normalised, np.eye(4))}, "ssa-1.5T", seed=1)


def test_a_real_scan_keeps_its_tumour_and_its_outline(shared_data: Path) -> None:
    folder = sorted((shared_data / "glioma_brats2021").iterdir())[0]
    flair = read_volume(next(folder.glob("*t2f*")))

    after = degrade({"t2f": flair}, "ssa-1.5T", seed=1)["t2f"]

    inside = flair.array != 0
    np.testing.assert_array_equal(after.array != 0, inside)
    assert 0.4 < np.corrcoef(after.array[inside], flair.array[inside])[0, 1] < 0.98
