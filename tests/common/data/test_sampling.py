from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.data.geometry import Geometry
from common.data.sampling import UNLABELLED, draw_batch
from common.data.transforms import PreparedCase


def prepared(label: NDArray[np.uint8] | None, shape: tuple[int, int, int] = (30, 26, 22)) -> PreparedCase:
    """Channel 0 is 1 in the brain's half x < 15, channel 1 holds the x index."""
    image = np.zeros((2, *shape), dtype=np.float16)
    image[0, : shape[0] // 2] = 1
    image[1, : shape[0] // 2] = np.arange(shape[0] // 2)[:, None, None]
    geometry = Geometry(
        shape=shape,
        affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        axes=(0, 1, 2),
        flips=(False, False, False),
        box=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        scan_spacing_mm=(1.0, 1.0, 1.0),
        spacing_mm=(1.0, 1.0, 1.0),
        working_shape=shape,
    )
    return PreparedCase("a", "a", image, label, geometry, (True, True))


def lopsided() -> PreparedCase:
    """One voxel of code 1, one of code 3, a thousand of code 2; no two within a patch of 4 of each other."""
    label = np.zeros((30, 26, 22), dtype=np.uint8)
    label[2, 2, 2] = 1
    label[2, 20, 2] = 3
    label[15:25, 10:20, 10:20] = 2
    return prepared(label)


def test_shapes_types_and_repeatability() -> None:
    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        batch = draw_batch([lopsided()], patch=(8, 6, 4), size=3, rng=np.random.default_rng(5))
        return batch.image, batch.label

    (image, label), (again, label_again) = drawn(), drawn()
    assert (image.shape, image.dtype) == ((3, 2, 8, 6, 4), torch.float32)
    assert (label.shape, label.dtype) == ((3, 8, 6, 4), torch.int64)
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)


def test_small_structures_are_seen_as_often_as_large_ones() -> None:
    rng = np.random.default_rng(0)
    batch = draw_batch([lopsided()], patch=(4, 4, 4), size=600, rng=rng, tumour_share=1.0)
    for code in (1, 2, 3):
        share = float((batch.label == code).flatten(1).any(1).float().mean())
        assert abs(share - 1 / 3) < 0.06


def test_tumour_share() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        batch = draw_batch([lopsided()], patch=(2, 2, 2), size=400, rng=rng, tumour_share=share)
        seen = float((batch.label > 0).flatten(1).any(1).float().mean())
        assert abs(seen - share) < 0.1


def test_without_tumour_or_label_patches_are_of_brain() -> None:
    rng = np.random.default_rng(0)
    empty = draw_batch([prepared(np.zeros((30, 26, 22), np.uint8))], patch=(3, 3, 3), size=50, rng=rng)
    assert not empty.label.any()
    assert bool((empty.image[:, 0].flatten(1).max(1).values > 0).all())
    unlabelled = draw_batch([prepared(None)], patch=(3, 3, 3), size=50, rng=rng)
    assert bool((unlabelled.label == UNLABELLED).all())
    assert bool((unlabelled.image[:, 0].flatten(1).max(1).values > 0).all())


def test_image_and_label_stay_together_and_inside() -> None:
    case = lopsided()
    assert case.label is not None
    case.image[1] = case.label
    batch = draw_batch([case], patch=(8, 8, 8), size=64, rng=np.random.default_rng(1))
    assert torch.equal(batch.image[:, 1].long(), batch.label)


def test_a_case_smaller_than_the_patch_is_padded_on_both_sides() -> None:
    label = np.full((4, 5, 6), 2, dtype=np.uint8)
    case = prepared(label, shape=(4, 5, 6))
    batch = draw_batch([case], patch=(8, 8, 8), size=2, rng=np.random.default_rng(0))
    assert int((batch.label[0] == 2).sum()) == 4 * 5 * 6
    assert bool((batch.label[0, 2:6, 1:6, 1:7] == 2).all())
    assert not batch.image[0, :, :2].any()


def test_every_case_comes_before_one_comes_twice() -> None:
    cases = [prepared(np.full((4, 4, 4), code, np.uint8), shape=(4, 4, 4)) for code in (1, 2, 3)]
    for seed in range(5):
        batch = draw_batch(cases, patch=(4, 4, 4), size=3, rng=np.random.default_rng(seed))
        assert sorted(batch.label[:, 0, 0, 0].tolist()) == [1, 2, 3]


@pytest.mark.parametrize(("count", "size", "share"), [(0, 2, 0.5), (1, 0, 0.5), (1, 2, 1.5)])
def test_refusals(count: int, size: int, share: float) -> None:
    with pytest.raises(ValueError, match="need >= 1"):
        draw_batch(
            [lopsided()] * count, patch=(4, 4, 4), size=size, rng=np.random.default_rng(0), tumour_share=share
        )
