"""The U-Net that is federated: three named children, so that a part can be frozen, kept or exchanged.

`encoder` gives features at falling resolution, `decoder` brings them back to one map, `head` turns that
map and the image into logits at full resolution. A preset is a row of `PRESETS`.

The light presets fold each 2x2x2 block of voxels into channels before the first convolution and unfold
the logits after the last one (space-to-depth, Shi et al., CVPR 2016, in three dimensions). No layer works
at full resolution and no voxel is thrown away: on a CPU a step costs 0.4 of a stride-2 stem's with a
full-resolution head. No batch norm anywhere: its running statistics would have to be federated.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.models.convolution import Conv3d
from common.models.ren2024 import Ren2024Decoder, Ren2024Encoder, Ren2024Head

HEAD_SCALE, BACKGROUND_LOGIT = 0.3, 2.0

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Preset:
    """One architecture.

    Attributes:
        widths: channels of each level of the encoder, finest first.
        fold: voxels folded into channels along each axis before the first level (1 or 2).
        divisor: what each side of an input must be divisible by.
        activation: `softmax`: classes include the background; `sigmoid`: one class for each structure.
        purpose: what it is for, in words.
    """

    name: str
    widths: tuple[int, ...]
    fold: int
    divisor: int
    activation: Activation
    purpose: str


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("nano", (16, 32, 64, 80), 2, 16, "softmax", "0.9 M parameters, for a CPU"),
        Preset("base", (32, 64, 96, 160, 208), 1, 16, "softmax", "6 M parameters, for a GPU"),
        Preset("ren2024", (64, 96, 128, 192, 256, 384, 512), 1, 64, "sigmoid", "50.7 M, as published"),
    )
}


class Segmenter(Protocol):
    """What the rest of FedGlia knows of a network that `build_unet` made."""

    preset: str
    in_channels: int
    classes: int
    divisor: int
    activation: Activation
    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module


def fold(x: Tensor, factor: int) -> Tensor:
    """(B, C, D, H, W) -> (B, C f^3, D/f, H/f, W/f): each block of voxels becomes channels."""
    if factor == 1:
        return x
    b, c, d, h, w = x.shape
    blocks = x.reshape(b, c, d // factor, factor, h // factor, factor, w // factor, factor)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(
        b, c * factor**3, d // factor, h // factor, w // factor
    )


def unfold(x: Tensor, factor: int) -> Tensor:
    """The inverse of `fold`: (B, C f^3, D, H, W) -> (B, C, D f, H f, W f)."""
    if factor == 1:
        return x
    b, c, d, h, w = x.shape
    blocks = x.reshape(b, c // factor**3, factor, factor, factor, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, c // factor**3, d * factor, h * factor, w * factor)


def convolution(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution 3x3x3, group norm over pairs of channels, SiLU.

    Pairs are nearly instance norm, which learned fastest in trials, but also work where the coarsest
    level has a single voxel.
    """
    return nn.Sequential(
        Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(out_channels // 2, out_channels),
        nn.SiLU(),
    )


class Encoder(nn.Module):
    """Image (B, C, D, H, W) -> feature maps, finest first; each level halves the one before."""

    def __init__(self, in_channels: int, widths: Sequence[int], factor: int) -> None:
        super().__init__()
        self.factor = factor
        first = nn.Sequential(
            convolution(in_channels * factor**3, widths[0]), convolution(widths[0], widths[0])
        )
        deeper = [
            nn.Sequential(convolution(fine, coarse, stride=2), convolution(coarse, coarse))
            for fine, coarse in itertools.pairwise(widths)
        ]
        self.levels = nn.ModuleList([first, *deeper])

    def forward(self, image: Tensor) -> list[Tensor]:
        """One feature map for each level, the bottleneck last."""
        x = fold(image, self.factor)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Feature maps, finest first -> one map at the resolution of the finest."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.merges = nn.ModuleList(convolution(2 * fine, fine) for fine, _ in pairs)

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, widths[0], D, H, W) of the finest level."""
        *skips, x = features
        for up, merge, skip in zip(self.ups, self.merges, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        return x


class Head(nn.Module):
    """Decoder map and image -> logits (B, K, D, H, W); sees the image, so that edges stay sharp."""

    def __init__(self, in_channels: int, width: int, factor: int, *, classes: int) -> None:
        super().__init__()
        self.factor = factor
        self.merge = convolution(width + in_channels * factor**3, width)
        self.classify = nn.Conv3d(width, classes * factor**3, 1)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits at the resolution of `image`."""
        x = self.merge(torch.cat([features, fold(image, self.factor)], dim=1))
        return unfold(self.classify(x), self.factor)


class UNet(nn.Module):
    """encoder -> decoder -> head; satisfies `Segmenter`."""

    def __init__(self, preset: Preset, *, in_channels: int, classes: int) -> None:
        super().__init__()
        self.preset, self.divisor, self.activation = preset.name, preset.divisor, preset.activation
        self.in_channels, self.classes, self.widths = in_channels, classes, preset.widths
        self.encoder, self.decoder = _body(preset, in_channels)
        self.head = _head(preset, in_channels=in_channels, classes=classes)
        if isinstance(self.head, Head):
            _initialise(self, self.head)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) -> logits (B, classes, D, H, W).

        Raises:
            InputError: a side that is not divisible by the preset's divisor, or another number of channels.
        """
        return self.decode(self.encode(image), image)

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, C, D, H, W) -> the encoder's feature maps, finest first, the bottleneck last.

        Raises:
            InputError: as `forward`.
        """
        self._check(image)
        return cast("list[Tensor]", self.encoder(image))

    def decode(self, features: list[Tensor], image: Tensor) -> Tensor:
        """What `encode` gave for `image` -> logits (B, classes, D, H, W)."""
        return cast(Tensor, self.head(self.decoder(features), image))

    def _check(self, image: Tensor) -> None:
        sides = tuple(image.shape[2:])
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise InputError(
                f"the {self.preset} network reads {self.in_channels} channels of a volume, and was given an "
                f"array of shape {tuple(image.shape)}; expected (batch, {self.in_channels}, x, y, z)"
            )
        if any(side % self.divisor for side in sides):
            raise InputError(
                f"a patch of {sides} voxels does not fit the {self.preset} network: "
                f"choose sides divisible by {self.divisor}"
            )
        if self.preset == "ren2024" and all(side == self.divisor for side in sides):
            raise InputError(
                "a patch of 64 x 64 x 64 leaves ren2024 one bottleneck voxel, which its instance norm "
                "cannot normalise: make one side 128 or more"
            )


def _initialise(model: nn.Module, head: Head) -> None:
    """Start all convolutions by He et al. (ICCV 2015), and the head with small logits for the background.

    Both shorten the first plateau, in which small structures are not seen at all. The voxels of a folded
    block start alike, so that blocks do not come out as checkerboards (Aitken et al., arXiv:1707.02937).
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, a=0.01)
    voxels, weight = head.factor**3, head.classify.weight
    bias = torch.zeros(len(weight))
    bias[:voxels] = BACKGROUND_LOGIT
    with torch.no_grad():
        block = weight.view(-1, voxels, *weight.shape[1:])
        block.copy_(HEAD_SCALE * block[:, :1].expand_as(block))
    head.classify.bias = nn.Parameter(bias)


def _body(preset: Preset, in_channels: int) -> tuple[nn.Module, nn.Module]:
    if preset.name == "ren2024":
        return Ren2024Encoder(in_channels, preset.widths), Ren2024Decoder(preset.widths)
    return Encoder(in_channels, preset.widths, preset.fold), Decoder(preset.widths)


def _head(preset: Preset, *, in_channels: int, classes: int) -> nn.Module:
    if preset.name == "ren2024":
        return Ren2024Head(preset.widths[0], classes)
    return Head(in_channels, preset.widths[0], preset.fold, classes=classes)


def find_preset(name: str) -> Preset:
    """The row of `PRESETS` called `name`; InputError, naming the rows, where there is none."""
    if name not in PRESETS:
        raise InputError(f"there is no network preset '{name}'; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_unet(preset: str, *, in_channels: int, classes: int, seed: int) -> UNet:
    """A network with fresh weights; the same seed gives the same weights, the global generator is untouched.

    Args:
        preset: a name in `PRESETS`.
        in_channels: modalities of the image.
        classes: channels of the logits: with softmax the background is one, with sigmoid it is not.
        seed: any integer in [0, 2**63).

    Raises:
        InputError: an unknown preset, or fewer channels or classes than make sense.
    """
    row = find_preset(preset)
    least = 1 if row.activation == "sigmoid" else 2
    if in_channels < 1 or classes < least:
        raise InputError(
            f"{preset} needs at least 1 channel and {least} classes, not {in_channels} and {classes}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return UNet(row, in_channels=in_channels, classes=classes)


def exchange_head(model: UNet, *, classes: int, seed: int) -> None:
    """Give `model` a fresh head for `classes`, in place; encoder and decoder keep their weights."""
    fresh = build_unet(model.preset, in_channels=model.in_channels, classes=classes, seed=seed)
    model.head = fresh.head.to(next(model.parameters()).device)
    model.classes = classes


def classes_for(preset: str, structures: Sequence[str]) -> int:
    """Channels of the logits for `structures`: with softmax one more, the background."""
    return len(structures) + (find_preset(preset).activation == "softmax")


def probabilities(model: Segmenter, logits: Tensor) -> Tensor:
    """Logits (B, classes, ...) -> float32 (B, K, ...) in [0, 1] whose channel 0 is the background.

    Softmax sums to one. With sigmoid each structure is judged alone; the background is 1 - max of the
    structures, so that arg max picks a structure where its probability is above one half (the published
    rule for disjoint structures), and the sum over K is at least one.
    """
    if model.activation == "softmax":
        return torch.softmax(logits.float(), dim=1)
    structures = torch.sigmoid(logits.float())
    background = 1.0 - structures.amax(dim=1, keepdim=True)
    return torch.cat([background, structures], dim=1)
