from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.geometry import geometry_of
from common.data.transforms import PreparedCase
from common.data.volume import Volume
from common.learning import inference
from common.learning.inference import predict, predict_labels
from common.models.unet import UNet, build_unet


def case(sides: tuple[int, int, int] = (20, 17, 33), *, spacing_mm: float | None = None) -> PreparedCase:
    """Noise in a scan of 1 mm voxels whose axes run left, posterior, superior."""
    inside = np.ones(sides, dtype=bool)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    scan = Volume(inside.astype(np.float32), affine)
    geometry = geometry_of(scan, inside, spacing_mm=spacing_mm, margin=0)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, *geometry.working_shape)).astype(np.float16)
    return PreparedCase("c", "p", image, None, geometry, (True,))


@pytest.fixture(scope="module")
def model() -> UNet:
    return build_unet("nano", in_channels=1, classes=3, seed=1)


class Thresholds(torch.nn.Module):
    """Says class 1 where the image is positive, voxel by voxel, so that windows cannot matter."""

    preset, divisor, activation, in_channels, classes = "nano", 16, "softmax", 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-self.scale * image, self.scale * image], dim=1)


def test_probabilities_have_the_working_grid_and_sum_to_one(model: UNet) -> None:
    seen = predict(model, case(), precision="fp32")

    assert seen.shape == (3, 20, 17, 33)
    assert seen.dtype == np.float32
    assert np.abs(seen.sum(axis=0) - 1).max() < 1e-5


@pytest.mark.parametrize("patch", [None, (16, 16, 16), (10, 48, 20)])
@pytest.mark.parametrize("flips", [False, True])
def test_windows_and_mirrors_do_not_move_anything(patch: tuple[int, int, int] | None, flips: bool) -> None:
    image = case().image
    seen = predict(Thresholds(), case(), patch=patch, flips=flips, precision="fp32")  # type: ignore[arg-type]

    assert np.array_equal(seen.argmax(axis=0) == 1, image[0] > 0)


def test_a_case_too_large_for_one_look_is_cut_into_windows(
    model: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(model, case(), precision="fp32")
    monkeypatch.setattr(inference, "WHOLE_VOXELS", 10)
    monkeypatch.setattr(inference, "WINDOW", (32, 16, 16))
    windows = predict(model, case(), precision="fp32")

    assert windows.shape == whole.shape
    assert not np.array_equal(windows, whole)


def test_with_flips_a_mirrored_head_gives_the_mirrored_answer(model: UNet) -> None:
    turned = replace(case(), image=case().image[:, ::-1].copy())
    once = predict(model, case(), flips=True, precision="fp32")
    other = predict(model, turned, flips=True, precision="fp32")

    assert np.abs(once - other[:, ::-1]).max() < 1e-6
    plain = predict(model, case(), precision="fp32")
    assert np.abs(once - plain).max() > 1e-4


def test_label_maps_are_on_the_scan_s_own_grid() -> None:
    scan = case(spacing_mm=2.0)
    found = predict_labels(Thresholds(), scan, precision="fp32")  # type: ignore[arg-type]

    assert found.shape == scan.geometry.shape
    assert found.dtype == np.uint8
    # Working voxel (0, 0, 0) is at the right, anterior end of the scan's axes.
    assert (found[-1, -1, 0] == 1) == (scan.image[0, 0, 0, 0] > 0)


def test_predicting_leaves_the_weights_and_repeats(model: UNet) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    once, again = predict(model, case()), predict(model, case())

    assert np.array_equal(once, again)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
