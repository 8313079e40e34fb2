"""Which parameters an adaptation trains: a table of parts, and the names they stand for.

A newly exchanged head always trains; an inherited one freezes with the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from common.errors import InputError

ADAPTATIONS: Mapping[str, tuple[str, ...]] = {
    "all": ("encoder", "decoder", "head"),
    "frozen-decoder": ("encoder",),
    "frozen-encoder": ("decoder", "head"),
    "head": ("head",),
    "norms": ("norms",),
}
"""Adaptation -> the parts whose parameters train; `norms` are the scales and shifts of every norm layer."""

_NORMS = (nn.GroupNorm, nn.InstanceNorm3d, nn.LayerNorm)


def trainable_names(model: nn.Module, adaptation: str, *, new_head: bool) -> tuple[str, ...]:
    """Set `requires_grad` by `adaptation`, and name what trains, in the order of the model's parameters.

    Args:
        model: a network with the children encoder, decoder and head.
        adaptation: a key of `ADAPTATIONS`.
        new_head: whether the head was exchanged for this task and knows nothing yet.

    Raises:
        InputError: an unknown adaptation, or one that leaves nothing to train (`norms` on a network whose
            norm layers have no parameters).
    """
    if adaptation not in ADAPTATIONS:
        raise InputError(f"there is no adaptation '{adaptation}'; choose one of {', '.join(ADAPTATIONS)}")
    parts = {*ADAPTATIONS[adaptation], *(("head",) if new_head else ())}
    norms = _norm_parameters(model) if "norms" in parts else frozenset()
    names = tuple(
        name for name, _ in model.named_parameters() if name.split(".", 1)[0] in parts or name in norms
    )
    if not names:
        raise InputError(
            f"the adaptation '{adaptation}' trains nothing in this network: its norm layers have no "
            "parameters; choose another adaptation or preset"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return names


def _norm_parameters(model: nn.Module) -> frozenset[str]:
    return frozenset(
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if isinstance(layer, _NORMS)
        for name, _ in layer.named_parameters()
    )
