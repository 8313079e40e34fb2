"""Losses on logits (B, C, D, H, W) and labels (B, D, H, W): a table name -> function.

Labels are integer codes, 0 the background. A softmax network has a channel for each code; a sigmoid
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
    logits = logits.float()
    target = functional.one_hot(label, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    dice = soft_dice(torch.softmax(logits, dim=1)[:, 1:], target)
    return functional.cross_entropy(logits, label) + dice


def public_code(logits: Tensor, label: Tensor) -> Tensor:
    """0.4 x the sum over structures of the mean squared error of sigmoids: what the public code minimises.

    There the cross-entropy is taken over a single channel, where it is zero with zero gradient.
    """
    probabilities, target = torch.sigmoid(logits.float()), _structures(label, logits.shape[1])
    return MSE_WEIGHT * functional.mse_loss(probabilities, target) * logits.shape[1]


def paper(logits: Tensor, label: Tensor) -> Tensor:
    """`public_code` plus 0.7 x a binary cross-entropy for each structure: what its paper describes."""
    target = _structures(label, logits.shape[1])
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), target) * logits.shape[1]
    return public_code(logits, label) + CROSS_ENTROPY_WEIGHT * entropy


def _structures(label: Tensor, count: int) -> Tensor:
    return functional.one_hot(label, count + 1).movedim(-1, 1)[:, 1:].float()


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
