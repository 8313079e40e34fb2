from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.models.domain import build_discriminator, pooled, reverse_gradient
from common.models.unet import build_unet


@settings(max_examples=25, deadline=None)
@given(st.floats(-2, 2))
def test_reversal_is_the_identity_forward_and_minus_lambda_backward(strength: float) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    slope = torch.tensor([0.5, 1.5, -1.0])
    y = reverse_gradient(x, strength)
    (y * slope).sum().backward()  # type: ignore[no-untyped-call]

    assert torch.equal(y, x)
    assert x.grad is not None
    assert torch.equal(x.grad, -strength * slope)


def test_pooled_features_are_the_mean_of_the_bottleneck() -> None:
    fine, coarse = torch.zeros(1, 1, 4, 4, 4), torch.arange(8.0).reshape(1, 1, 2, 2, 2)

    assert pooled([fine, coarse]).tolist() == [[3.5]]


def test_the_discriminator_reads_the_encoder_and_repeats_by_seed() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)
    features = pooled(model.encoder(torch.randn(2, 4, 16, 16, 16)))
    first = build_discriminator(features.shape[1], domains=3, seed=5)
    again = build_discriminator(features.shape[1], domains=3, seed=5)

    assert first(features).shape == (2, 3)
    assert torch.equal(first(features), again(features))
