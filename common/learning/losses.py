"""Losses on logits (B, C, D, H, W) and labels (B, D, H, W): a table name -> function.

Labels are integer codes, 0 the background; a negative one says that nobody labelled the voxel, which is
left out. A batch without any label costs 0. A softmax network has a channel for each code; a sigmoid
network (the `paper` losses) has none for the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]

MSE_WEIGHT, CROSS_ENTROPY_WEIGHT = 0.4, 0.7
SMOOTH = 1e-5


def soft_dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """Mean over channels of 1 - Dice, the sums running over the whole batch and volume.

    Sums over the batch keep a structure that one patch lacks from counting as a failure of that patch;
    a structure absent from the whole batch counts 1 wherever it is predicted, it is not left out. Equals
    MONAI's `DiceLoss(batch=True)`.

    Args:
        probabilities: (B, C, ...) in [0, 1].
        target: the same shape, 0 or 1.
    """
    axes = (0, *range(2, probabilities.ndim))
    overlap = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    return (1.0 - (2.0 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def cross_entropy_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Softmax cross-entropy over all classes plus batch Dice over the structures."""
    known = label >= 0
    scores = torch.log_softmax(logits.float(), dim=1)
    entropy = functional.nll_loss(scores, label.clamp(min=-1), ignore_index=-1, reduction="sum")
    seen, target = scores.exp()[:, 1:], _one_hot(label, logits.shape[1])[:, 1:]
    if not bool(known.all()):
        seen = seen * known[:, None]
    dice = torch.where(known.any(), soft_dice(seen, target), 0.0)
    return entropy / known.sum().clamp(min=1) + dice


def public_code(logits: Tensor, label: Tensor) -> Tensor:
    """0.4 x the sum over structures of the mean squared error of sigmoids: what the public code minimises.

    There the cross-entropy is taken over a single channel, where it is zero with zero gradient.
    """
    target = _one_hot(label, logits.shape[1] + 1)[:, 1:]
    error = functional.mse_loss(torch.sigmoid(logits.float()), target, reduction="none")
    return MSE_WEIGHT * _mean_over_known(error, label)


def paper(logits: Tensor, label: Tensor) -> Tensor:
    """`public_code` plus 0.7 x a binary cross-entropy for each structure: what its paper describes."""
    target = _one_hot(label, logits.shape[1] + 1)[:, 1:]
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return public_code(logits, label) + CROSS_ENTROPY_WEIGHT * _mean_over_known(entropy, label)


def _one_hot(label: Tensor, classes: int) -> Tensor:
    """(B, ...) -> float (B, classes, ...); all zero where nobody labelled."""
    codes = torch.arange(classes, device=label.device).reshape(1, -1, *[1] * (label.ndim - 1))
    return (label[:, None] == codes).float()


def _mean_over_known(values: Tensor, label: Tensor) -> Tensor:
    """The sum over channels of the mean over labelled voxels."""
    known = label >= 0
    return (values * known[:, None]).sum() / known.sum().clamp(min=1)


LOSSES: Mapping[str, Loss] = {
    "cross-entropy-dice": cross_entropy_dice,
    "paper": paper,
    "public-code": public_code,
}


def find_loss(name: str) -> Loss:
    """The loss called `name`; InputError, naming the table, where there is none."""
    if name not in LOSSES:
        raise InputError(f"there is no loss '{name}'; choose one of {', '.join(LOSSES)}")
    return LOSSES[name]
