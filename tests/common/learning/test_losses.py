from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from common.errors import InputError
from common.learning.losses import (
    LOSSES,
    cross_entropy_dice,
    find_loss,
    paper,
    paper_softmax,
    public_code,
    public_code_softmax,
    soft_dice,
)
from common.models.unet import Activation

FORMS = [(name, activation) for name, forms in LOSSES.items() for activation in forms]
CHANNELS = {"softmax": 4, "sigmoid": 3}


def test_soft_dice_of_a_hand_drawn_pair() -> None:
    # overlap 0.5, total 1 + 1: 1 - 2 * 0.5 / 2 = 1/2
    seen = torch.tensor([[[0.5, 0.5]]])
    target = torch.tensor([[[1.0, 0.0]]])

    assert soft_dice(seen, target).item() == pytest.approx(0.5, abs=1e-4)


def test_soft_dice_equals_monai() -> None:
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand(2, 3, 6, 5, 4, generator=generator)
    target = (torch.rand(2, 3, 6, 5, 4, generator=generator) > 0.7).float()
    oracle = DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)(seen, target)

    assert soft_dice(seen, target).item() == pytest.approx(oracle.item(), abs=1e-6)


def test_a_structure_absent_from_the_batch_is_punished_where_it_is_predicted() -> None:
    absent = torch.zeros(1, 1, 8)

    assert soft_dice(torch.ones(1, 1, 8), absent).item() == pytest.approx(1.0, abs=1e-4)
    assert soft_dice(torch.zeros(1, 1, 8), absent).item() == pytest.approx(0.0, abs=1e-4)


def test_cross_entropy_dice_of_a_uniform_guess() -> None:
    # two classes, half the voxels each: cross-entropy ln 2, Dice 2 * (4 * 1/2) / (8 * 1/2 + 4) = 1/2
    logits = torch.zeros(1, 2, 2, 2, 2)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).reshape(1, 2, 2, 2)

    assert cross_entropy_dice(logits, label).item() == pytest.approx(math.log(2) + 0.5, abs=1e-4)


def test_public_code_is_mean_squared_error_alone_and_paper_adds_a_real_cross_entropy() -> None:
    # sigmoid 1/2 everywhere: squared error 1/4 and entropy ln 2 at each voxel of each of 3 structures
    logits = torch.zeros(1, 3, 2, 2, 2)
    label = torch.arange(8).reshape(1, 2, 2, 2) % 4

    assert public_code(logits, label).item() == pytest.approx(0.4 * 3 / 4, rel=1e-6)
    assert paper(logits, label).item() == pytest.approx(0.3 + 0.7 * 3 * math.log(2), rel=1e-6)


@pytest.mark.parametrize(("name", "activation"), FORMS)
def test_a_better_guess_costs_less(name: str, activation: Activation) -> None:
    label = torch.tensor([0, 1, 2, 3, 1, 2, 3, 0]).reshape(1, 2, 2, 2)
    channels, loss = CHANNELS[activation], find_loss(name, activation)
    right = torch.nn.functional.one_hot(label, 4).movedim(-1, 1)[:, 4 - channels :].float() * 8 - 4

    assert loss(right, label) < loss(torch.zeros_like(right), label)


@pytest.mark.parametrize(("name", "activation"), FORMS)
def test_unlabelled_voxels_are_left_out(name: str, activation: Activation) -> None:
    # Two batches that differ only where nobody labelled cost the same, and nothing is learned there.
    channels, loss = CHANNELS[activation], find_loss(name, activation)
    label = torch.tensor([0, 1, 2, 3, -1, -1, -1, -1]).reshape(1, 2, 2, 2)
    one = torch.randn(1, channels, 2, 2, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    other = torch.where(label[:, None] < 0, one + 3.0, one)
    value = loss(one, label)
    (slope,) = torch.autograd.grad(value, one)

    assert value.item() == pytest.approx(loss(other, label).item(), abs=1e-6)
    assert (slope[:, :, 1] == 0).all()
    assert (slope[:, :, 0] != 0).any()


@pytest.mark.parametrize(("name", "activation"), FORMS)
def test_a_batch_without_labels_costs_nothing(name: str, activation: Activation) -> None:
    logits = torch.randn(2, CHANNELS[activation], 2, 2, 2, generator=torch.Generator().manual_seed(1))

    assert find_loss(name, activation)(logits, torch.full((2, 2, 2, 2), -1)).item() == 0.0


def test_the_published_losses_of_a_softmax_network_by_hand() -> None:
    # softmax 1/4 everywhere: each structure is right in 2 of 8 voxels, (2 * 9/16 + 6 * 1/16) / 8 = 3/16;
    # entropy ln 4 at each voxel
    logits = torch.zeros(1, 4, 2, 2, 2)
    label = torch.arange(8).reshape(1, 2, 2, 2) % 4

    assert public_code_softmax(logits, label).item() == pytest.approx(0.4 * 3 * 3 / 16, rel=1e-6)
    assert paper_softmax(logits, label).item() == pytest.approx(0.225 + 0.7 * math.log(4), rel=1e-6)


@pytest.mark.parametrize(("name", "activation"), FORMS)
def test_float64_logits_are_computed_in_float64(name: str, activation: Activation) -> None:
    label = torch.randint(0, 4, (1, 2, 2, 2), generator=torch.Generator().manual_seed(2))
    logits = torch.randn(1, CHANNELS[activation], 2, 2, 2, dtype=torch.float64)
    value = find_loss(name, activation)(logits, label)

    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(find_loss(name, activation)(logits.float(), label).item(), rel=1e-5)


def test_cross_entropy_dice_equals_monai() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 4, 5, 4, 3, generator=generator)
    label = torch.randint(0, 4, (2, 5, 4, 3), generator=generator)
    oracle = DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )

    assert cross_entropy_dice(logits, label).item() == pytest.approx(
        oracle(logits, label[:, None]).item(), abs=1e-5
    )


def test_unknown_loss_is_refused_by_naming_the_known() -> None:
    with pytest.raises(InputError, match="cross-entropy-dice, paper, public-code"):
        find_loss("focal", "softmax")


def test_a_loss_without_a_form_for_the_network_is_refused_by_naming_those_that_have_one() -> None:
    with pytest.raises(InputError, match="not made for a sigmoid network; choose one of paper, public-code"):
        find_loss("cross-entropy-dice", "sigmoid")
