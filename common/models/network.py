"""The network that a plan asks for, and which of its parameters travel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.data.cases import MODALITIES, STRUCTURES
from common.errors import CheckpointError
from common.models.unet import UNet, build_unet, classes_for
from common.plan import Plan


def build_for(preset: str, task: str, *, seed: int) -> UNet:
    """A network of `preset` from all modalities to the structures of `task`: fresh weights, on the CPU."""
    classes = classes_for(preset, STRUCTURES[task])
    return build_unet(preset, in_channels=len(MODALITIES), classes=classes, seed=seed)


def build(plan: Plan, *, seed: int) -> UNet:
    """The plan's network with fresh weights, on the CPU; the same seed gives the same weights."""
    return build_for(plan.model.preset, plan.task.kind, seed=seed)


def build_from(plan: Plan, tensors: Mapping[str, Tensor]) -> UNet:
    """The plan's network with the weights of a whole model, on a GPU where there is one.

    Raises:
        CheckpointError: the tensors are those of another architecture.
    """
    model = build(plan, seed=0)
    try:
        model.load_state_dict(dict(tensors), strict=True)
    except RuntimeError:
        raise CheckpointError(
            f"the model does not fit the plan's network (preset {plan.model.preset}, task {plan.task.kind}): "
            "start from a model of that preset and task, or change the plan"
        ) from None
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
