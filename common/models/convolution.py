"""The 3x3x3 convolution of every preset.

On a CPU, PyTorch 2.13 leaves parts of the weight's gradient unset when a bfloat16 convolution of stride 1
reads a volume of depth two: it then holds whatever lay in memory, from zeros to 1e31 or NaN. Depth two is
met with patches of 16 or 32 voxels. `Conv3d` computes such an input in float32; it costs nothing at
that size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAULTY_DEPTH = 2


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`, in float32 where the CPU's bfloat16 gradient is wrong."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D', H', W')."""
        if input.device.type != "cpu" or input.shape[2] != FAULTY_DEPTH:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(torch.promote_types(input.dtype, torch.float32)))
