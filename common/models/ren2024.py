"""The backbone of Ren et al. (arXiv 2402.07008), written anew from its published description.

50,687,817 parameters with 4 channels and 3 structures. What looks odd is kept, since the published
numbers were made with it:

- norm comes before the convolution, is instance norm without weights, and nothing is residual;
- transposed convolutions have kernel 2, stride 2, dilation 2, padding 1, output padding 1;
- at a quarter and at half resolution the map that goes up is not the features but a sigmoid of a
  three-channel 1x1x1 convolution of them, so all deep information passes through three channels; this
  inner width stays 3 whatever the number of structures, so that the head alone depends on the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from common.models.convolution import Conv3d

INNER_STRUCTURES = 3


def _block(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.InstanceNorm3d(in_channels),
        Conv3d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.LeakyReLU(0.01),
        nn.InstanceNorm3d(out_channels),
        Conv3d(out_channels, out_channels, 3, padding=1),
        nn.LeakyReLU(0.01),
    )


def _up(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2, padding=1, output_padding=1, dilation=2),
        nn.InstanceNorm3d(out_channels),
        nn.LeakyReLU(0.01),
    )


class Ren2024Encoder(nn.Module):
    """Image (B, C, D, H, W) -> seven feature maps, finest first."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = [in_channels, *widths[:-1]]
        self.levels = nn.ModuleList(
            _block(fine, coarse, stride=1 if level == 0 else 2)
            for level, (fine, coarse) in enumerate(zip(inputs, widths, strict=True))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """One feature map for each level, the bottleneck last."""
        features = []
        x = image
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Ren2024Decoder(nn.Module):
    """Seven feature maps -> (B, 64, D, H, W)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        levels = list(range(len(widths) - 2, -1, -1))
        # Levels 1 and 0 receive the inner structures instead of the features of the level below.
        coarse = [INNER_STRUCTURES if level < 2 else widths[level + 1] for level in levels]
        self.ups = nn.ModuleList(
            _up(below, widths[level]) for below, level in zip(coarse, levels, strict=True)
        )
        self.merges = nn.ModuleList(_block(2 * widths[level], widths[level]) for level in levels)
        self.inner = nn.ModuleList(nn.Conv3d(widths[level], INNER_STRUCTURES, 1) for level in (2, 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """The finest map, before the head."""
        *skips, x = features
        deep = len(self.ups) - len(self.inner)
        for step, (up, merge, skip) in enumerate(zip(self.ups, self.merges, reversed(skips), strict=True)):
            if step >= deep:
                x = torch.sigmoid(self.inner[step - deep](x))
            x = merge(torch.cat([skip, up(x)], dim=1))
        return x


class Ren2024Head(nn.Module):
    """1x1x1 convolution to logits; the sigmoid belongs to the loss and to `probabilities`."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv3d(width, classes, 1)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits (B, classes, D, H, W); `image` is not looked at."""
        return cast(Tensor, self.classify(features))
