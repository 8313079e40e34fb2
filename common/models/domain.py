"""Adversarial domain alignment: gradient reversal and a small discriminator.

Ganin et al., JMLR 17 (2016): the discriminator learns to tell domains from the encoder's features, and
the reversed gradient teaches the encoder to hide them. Where it is attached and how it is built is not
published by the source paper; pooled bottleneck features and two linear layers are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

DISCRIMINATOR = "discriminator"
"""The child under which a network carries its discriminator while it trains, and never after."""


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:  # noqa: ANN401 - torch's own context
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:  # noqa: ANN401 - as torch declares it
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """`x` itself; on the way back its gradient is multiplied by -strength.

    With `strength` -1 the gradient passes unchanged: the encoder is then rewarded for domain information
    (the multitask arm), which is not the same as detaching it.
    """
    return cast(Tensor, _Reversal.apply(x, strength))  # type: ignore[no-untyped-call]


def is_discriminators(name: str) -> bool:
    """Whether a parameter of a network, by its name, belongs to the discriminator and not to the model."""
    return name.startswith(f"{DISCRIMINATOR}.")


def pooled(features: Sequence[Tensor]) -> Tensor:
    """Feature maps, finest first -> (B, C) mean of the bottleneck over space, in float32 at least."""
    bottleneck = features[-1]
    return bottleneck.to(torch.promote_types(bottleneck.dtype, torch.float32)).mean(dim=(2, 3, 4))


class Discriminator(nn.Module):
    """Pooled features (B, C) -> logits (B, domains): linear, ReLU, linear."""

    def __init__(self, in_features: int, *, domains: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, domains))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, one for each domain."""
        return cast(Tensor, self.layers(x))


def build_discriminator(in_features: int, *, domains: int, seed: int) -> Discriminator:
    """A fresh discriminator; the same seed gives the same weights, the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Discriminator(in_features, domains=domains)
