"""Losses on logits (B, C, D, H, W) and labels (B, D, H, W): a table name -> function.

Labels are integer codes, 0 the background; a negative one says that nobody labelled the voxel, which is
left out. A batch without any label costs 0. A softmax network has a channel for each code; a sigmoid
network has none for the background. Sums are in float32, or in float64 where the logits are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import InputError
from common.models.unet import Activation

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
    scores = torch.log_softmax(_wide(logits), dim=1)
    seen, target = scores.exp()[:, 1:], _one_hot(label, scores)[:, 1:]
    if not bool(known.all()):
        seen = seen * known[:, None]
    dice = torch.where(known.any(), soft_dice(seen, target), 0.0)
    return _entropy(scores, label) + dice


def public_code(logits: Tensor, label: Tensor) -> Tensor:
    """0.4 x the sum over structures of the mean squared error of sigmoids: what the public code minimises.

    There the cross-entropy is taken over a single channel, where it is zero with zero gradient.
    """
    seen = torch.sigmoid(_wide(logits))
    return MSE_WEIGHT * _squared_error(seen, label)


def paper(logits: Tensor, label: Tensor) -> Tensor:
    """`public_code` plus 0.7 x a binary cross-entropy for each structure: what its paper describes."""
    scores = _wide(logits)
    entropy = functional.binary_cross_entropy_with_logits(
        scores, _structures(label, scores), reduction="none"
    )
    return public_code(logits, label) + CROSS_ENTROPY_WEIGHT * _mean_over_known(entropy, label)


def public_code_softmax(logits: Tensor, label: Tensor) -> Tensor:
    """`public_code` for a network whose classes exclude each other: of the softmax, background left out."""
    seen = torch.softmax(_wide(logits), dim=1)[:, 1:]
    return MSE_WEIGHT * _squared_error(seen, label)


def paper_softmax(logits: Tensor, label: Tensor) -> Tensor:
    """`public_code_softmax` plus 0.7 x the cross-entropy over all classes, background included."""
    entropy = _entropy(torch.log_softmax(_wide(logits), dim=1), label)
    return public_code_softmax(logits, label) + CROSS_ENTROPY_WEIGHT * entropy


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _entropy(scores: Tensor, label: Tensor) -> Tensor:
    """Mean over labelled voxels of log-probabilities (B, classes, ...) at the label, negated."""
    total = functional.nll_loss(scores, label.clamp(min=-1), ignore_index=-1, reduction="sum")
    return total / (label >= 0).sum().clamp(min=1)


def _squared_error(seen: Tensor, label: Tensor) -> Tensor:
    """Of probabilities (B, structures, ...): the sum over structures of the mean over labelled voxels."""
    error = functional.mse_loss(seen, _structures(label, seen), reduction="none")
    return _mean_over_known(error, label)


def _structures(label: Tensor, like: Tensor) -> Tensor:
    """(B, ...) -> (B, structures, ...) as many and of the type as in `like`, which has no background."""
    codes = torch.arange(1, like.shape[1] + 1, device=label.device)
    return (label[:, None] == codes.reshape(1, -1, *[1] * (label.ndim - 1))).to(like.dtype)


def _one_hot(label: Tensor, like: Tensor) -> Tensor:
    """(B, ...) -> (B, classes, ...) as in `like`, background first; all zero where nobody labelled."""
    return torch.cat([(label[:, None] == 0).to(like.dtype), _structures(label, like[:, 1:])], dim=1)


def _mean_over_known(values: Tensor, label: Tensor) -> Tensor:
    """The sum over channels of the mean over labelled voxels."""
    known = label >= 0
    return (values * known[:, None]).sum() / known.sum().clamp(min=1)


LOSSES: Mapping[str, Mapping[Activation, Loss]] = {
    "cross-entropy-dice": {"softmax": cross_entropy_dice},
    "paper": {"softmax": paper_softmax, "sigmoid": paper},
    "public-code": {"softmax": public_code_softmax, "sigmoid": public_code},
}
"""Name -> its form for each kind of network that it suits."""


def find_loss(name: str, activation: Activation) -> Loss:
    """The loss called `name` for a network of that activation.

    Raises:
        InputError: there is none of that name, or it has no form for such a network; names those there are.
    """
    if name not in LOSSES:
        raise InputError(f"there is no loss '{name}'; choose one of {', '.join(LOSSES)}")
    if activation not in LOSSES[name]:
        suited = ", ".join(other for other, forms in LOSSES.items() if activation in forms)
        raise InputError(f"the loss '{name}' is not made for a {activation} network; choose one of {suited}")
    return LOSSES[name][activation]
