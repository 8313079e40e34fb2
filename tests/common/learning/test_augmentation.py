from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.sampling import Batch
from common.learning.augmentation import NO_AUGMENTATION, Augmentation, augment


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 8, 6, 4), generator=generator)
    image = torch.randn(2, 4, 8, 6, 4, generator=generator)
    image[:, :, :2] = 0
    return Batch(image, label)


def test_nothing_is_changed_when_everything_is_off() -> None:
    before = batch()
    after = augment(before, NO_AUGMENTATION, np.random.default_rng(0))

    assert torch.equal(after.image, before.image)
    assert torch.equal(after.label, before.label)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_generator_state_gives_the_same_batch_and_leaves_the_original(seed: int) -> None:
    before = batch()
    wild = Augmentation(turn_over=0.5, noise=0.5, coarse=0.5, missing=0.4)
    once = augment(before, wild, np.random.default_rng(seed))
    again = augment(before, wild, np.random.default_rng(seed))

    assert torch.equal(once.image, again.image)
    assert torch.equal(once.label, again.label)
    assert torch.equal(before.image, batch().image)
    assert torch.isfinite(once.image).all()


def test_image_and_label_are_mirrored_together() -> None:
    before = batch()
    mirrored = Batch(before.label[:, None].float(), before.label)
    after = augment(mirrored, replace(NO_AUGMENTATION, mirror=1), rng())

    assert torch.equal(after.label, before.label.flip(1))
    assert torch.equal(after.image[:, 0].long(), after.label)


@pytest.mark.parametrize("change", [{"gain": 0.5}, {"shift": 0.5}, {"noise": 1.0}, {"gamma": 0.5}])
def test_outside_the_brain_stays_zero_and_inside_changes(change: dict[str, float]) -> None:
    before = batch()
    settings_ = Augmentation(
        **{"mirror": 0, "gain": 0, "shift": 0, "gamma": 0, "noise": 0, "coarse": 0} | change
    )
    after = augment(before, settings_, rng())

    assert (after.image[:, :, :2] == 0).all()
    assert not torch.equal(after.image, before.image)


def test_gamma_keeps_the_order_of_intensities() -> None:
    before = batch()
    after = augment(before, replace(NO_AUGMENTATION, gamma=0.5), rng())
    channel, bent = before.image[0, 0, 2:].flatten(), after.image[0, 0, 2:].flatten()

    assert torch.equal(channel.argsort(), bent.argsort())


def test_a_missing_channel_is_empty_and_one_always_stays() -> None:
    after = augment(batch(), Augmentation(missing=1.0), rng())
    filled = after.image.abs().sum(dim=(2, 3, 4)) > 0

    assert filled.sum(dim=1).tolist() == [1, 1]


def test_coarse_averages_pairs_of_voxels() -> None:
    # 1 3 5 7 -> pairs 2 6 -> interpolated 2 3 5 6
    image = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 1, 4, 1, 1)
    only = replace(NO_AUGMENTATION, coarse=1.0)
    seen = {
        tuple(augment(Batch(image, torch.zeros(1, 4, 1, 1).long()), only, rng(seed)).image.flatten().tolist())
        for seed in range(12)
    }

    assert seen == {(1.0, 3.0, 5.0, 7.0), (2.0, 3.0, 5.0, 6.0)}


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)
