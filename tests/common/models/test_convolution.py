from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.models.convolution import FAULTY_DEPTH, Conv3d


def weight_gradient(layer: nn.Conv3d, image: Tensor, *, precision: torch.dtype) -> Tensor:
    """The gradient of a fixed sum, computed after free memory was filled with NaN."""
    layer.zero_grad()
    with torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16):
        seen = layer(image)
    slope = torch.linspace(-1, 1, seen.numel()).reshape(seen.shape)
    poison = [torch.full((size,), float("nan")) for size in (27_648, 27_648, 110_592, 1_000_000)]
    del poison
    (seen.float() * slope).sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad.clone()


@pytest.mark.parametrize("sides", [(2, 2, 2), (2, 4, 8), (4, 2, 2), (3, 3, 3)])
def test_the_bfloat16_gradient_is_that_of_float32(sides: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Conv3d(32, 32, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    image = torch.randn(2, 32, *sides, generator=generator)
    exact = weight_gradient(layer, image, precision=torch.float32)

    for _ in range(3):
        seen = weight_gradient(layer, image, precision=torch.bfloat16)
        assert (seen - exact).abs().max() < 0.03 * exact.abs().max()


def test_it_is_an_ordinary_convolution_elsewhere() -> None:
    layer, image = Conv3d(8, 8, 3, padding=1), torch.randn(2, 8, FAULTY_DEPTH, 4, 4)

    assert torch.equal(layer(image), nn.functional.conv3d(image, layer.weight, layer.bias, padding=1))
