"""Domain-adversarial training: what a discriminator adds to the loss of a step.

Ganin et al., JMLR 17 (2016). The source paper (Heras Rivera et al., MIDL 2024) scales the domain loss by
1/50 and compares training with and without the reversal; where it attaches the classifier, and how its
strength rises, is not published and is our choice.

A discriminator is the child `discriminator` of the network while it trains, so that it has names, moments
and a place in the state dict like every other part; `without_discriminator` takes it out again.

Two terms. `pooled_term` is for training in one place, on batches that mix domains. `site_term` is for a
site that holds a single domain: a discriminator trained there alone would soon say that domain whatever it
sees, so the encoder is taught by the discriminator as it was received, and the site's own copy moves for a
few steps only, on features that it cannot change (`docs/decisions/0014-federated-dann.md`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import InputError
from common.learning.loop import Term
from common.models.domain import (
    DISCRIMINATOR,
    Discriminator,
    build_discriminator,
    is_discriminators,
    pooled,
    reverse_gradient,
)
from common.models.unet import UNet

if TYPE_CHECKING:
    from common.data.sampling import Batch

WEIGHT = 1 / 50
"""What the source paper multiplies the domain loss with."""

STEEPNESS = 10.0
"""Of the rise of the reversal's strength (Ganin et al., section 5.2)."""

DISCRIMINATOR_STEPS = 5
"""Steps of a round in which a site's own discriminator learns."""


def strength_at(progress: float) -> float:
    """Strength of the reversal: 2 / (1 + exp(-10 p)) - 1, from 0 at the start (p = 0) to 0.9999 (p = 1)."""
    return 2.0 / (1.0 + math.exp(-STEEPNESS * progress)) - 1.0


STRENGTH: Mapping[str, Callable[[float], float]] = {
    "dann": strength_at,
    "dann-no-reversal": lambda progress: -1.0,
    "dann-detached": lambda progress: 0.0,
}
"""Method -> progress in [0, 1] -> what the encoder's gradient is multiplied with, negated.

Without the reversal the gradient passes whole from the first step on: the slow start belongs to the
reversal. `dann-detached` trains the discriminator alone; the encoder feels it only where the gradient of both
together is clipped.
"""


def attach(model: UNet, *, domains: int, seed: int) -> tuple[str, ...]:
    """Give `model` a fresh discriminator; returns the names of its parameters, which train.

    To be called after `trainable_names`, which freezes what it does not name.

    Raises:
        InputError: fewer than two domains.
    """
    if domains < 2:
        raise InputError(
            f"alignment needs two domains or more, and there is {domains}: give cases of another domain, or "
            "train without alignment"
        )
    like = next(model.parameters())
    fresh = build_discriminator(model.widths[-1], domains=domains, seed=seed)
    model.add_module(DISCRIMINATOR, fresh.to(like.device, like.dtype))
    return tuple(name for name, _ in model.named_parameters() if is_discriminators(name))


def without_discriminator(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it may be kept or released: the model alone."""
    return {name: tensor for name, tensor in tensors.items() if not is_discriminators(name)}


def pooled_term(model: UNet, *, method: str, total_steps: int, weight: float = WEIGHT) -> Term:
    """The domain loss on batches that name each patch's domain, for training in one place.

    `weight` times the cross-entropy of the discriminator, each domain of a batch counting as much as any
    other; the strength rises over `total_steps`.

    Raises:
        InputError: an unknown method, or no discriminator; from the term itself, a batch without domains.
    """
    strength, discriminator = _strength(method), _discriminator(model)

    def term(features: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        if batch.domain is None:
            raise InputError("alignment needs batches that say which domain each patch is of")
        seen = reverse_gradient(pooled(features), strength(step / total_steps))
        return weight * _balanced(discriminator(seen), batch.domain)

    return term


def site_term(
    model: UNet,
    *,
    domain: int,
    method: str,
    progress: float,
    first_step: int,
    discriminator_steps: int = DISCRIMINATOR_STEPS,
    weight: float = WEIGHT,
    on_loss: Callable[[float], None] | None = None,
) -> Term:
    """The domain loss at a site of one domain, for one round.

    Args:
        model: as it was received, its discriminator included: a frozen copy of that one teaches the encoder.
        domain: number of the site's domain.
        method: a key of `STRENGTH`.
        progress: of all the federation's rounds, 0 to 1; a site's own steps do not change the strength.
        first_step: of the round.
        discriminator_steps: steps of the round in which the site's own discriminator learns.
        weight: of the domain loss.
        on_loss: called in each step with the cross-entropy of the discriminator that was received, which
            costs ln(domains) where it knows nothing.

    Raises:
        InputError: an unknown method, or no discriminator.
    """
    strength, own = _strength(method)(progress), _discriminator(model)
    received = copy.deepcopy(own).requires_grad_(False)

    def term(features: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        seen = pooled(features)
        target = torch.full((len(seen),), domain, device=seen.device)
        value = functional.cross_entropy(received(reverse_gradient(seen, strength)), target)
        if on_loss is not None:
            on_loss(float(value.detach()))
        if step - first_step < discriminator_steps:
            taught = functional.cross_entropy(own(seen.detach()), target)
            value = value + (taught - taught.detach())  # its gradient; the loss is counted once
        return weight * value

    return term


def _balanced(logits: Tensor, domain: Tensor) -> Tensor:
    """Mean over the domains that are there of the mean cross-entropy of each."""
    _, which, counts = torch.unique(domain, return_inverse=True, return_counts=True)
    each = functional.cross_entropy(logits, domain, reduction="none")
    weights = 1.0 / (counts[which] * len(counts))
    return torch.sum(each * weights)


def _strength(method: str) -> Callable[[float], float]:
    if method not in STRENGTH:
        raise InputError(f"there is no alignment '{method}'; choose one of {', '.join(STRENGTH)}")
    return STRENGTH[method]


def _discriminator(model: UNet) -> Discriminator:
    if DISCRIMINATOR not in dict(model.named_children()):
        raise InputError("the network has no discriminator: attach one before it is aligned")
    return cast(Discriminator, model.get_submodule(DISCRIMINATOR))
