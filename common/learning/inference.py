"""From a prepared case to probabilities on its working grid, and to a label map in the scan's own grid.

Windows overlap and are blended with a Gaussian weight (MONAI's sliding window); a case that fits in one
window of at most `WHOLE_VOXELS` is predicted whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.data.transforms import restore
from common.learning.loop import Precision, autocast, resolve_precision
from common.models.unet import UNet, probabilities

if TYPE_CHECKING:
    from common.data.transforms import PreparedCase

WHOLE_VOXELS = 100**3
WINDOW = (96, 96, 96)


def predict(
    model: UNet,
    case: PreparedCase,
    *,
    patch: tuple[int, int, int] | None = None,
    overlap: float = 0.25,
    flips: bool = False,
    precision: str = "auto",
) -> NDArray[np.float32]:
    """Probabilities (K, x, y, z) on the working grid of `case`; channel 0 is the background.

    Args:
        model: left in evaluation mode.
        case: image (C, x, y, z), C the model's channels.
        patch: edges of a window, rounded up to what the network can read; None: the whole case at once
            where it has at most `WHOLE_VOXELS`, windows of `WINDOW` otherwise.
        overlap: of neighbouring windows, 0 to below 1.
        flips: average with the prediction for the head mirrored left to right (twice the work). Other
            mirror images are of no head that was trained on.
        precision: fp32, bf16 or auto; it changes the result in the third digit.
    """
    model.eval()
    device = next(model.parameters()).device
    resolved = resolve_precision(precision, device)
    image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))[None].to(device)
    with torch.inference_mode():
        seen = _windows(model, image, patch=patch, overlap=overlap, precision=resolved)
        if flips:
            mirrored = _windows(model, image.flip(2), patch=patch, overlap=overlap, precision=resolved)
            seen = (seen + mirrored.flip(2)) / 2
    found: NDArray[np.float32] = seen[0].cpu().numpy()
    return found


def predict_labels(
    model: UNet,
    case: PreparedCase,
    *,
    patch: tuple[int, int, int] | None = None,
    overlap: float = 0.25,
    flips: bool = False,
    precision: str = "auto",
) -> NDArray[np.uint8]:
    """The label map of `case` in the scan's own grid; arguments as for `predict`."""
    seen = predict(model, case, patch=patch, overlap=overlap, flips=flips, precision=precision)
    return restore(seen, case.geometry)


def _windows(
    model: UNet, image: Tensor, *, patch: tuple[int, int, int] | None, overlap: float, precision: Precision
) -> Tensor:
    sides = tuple(image.shape[2:])
    window = _window(model, sides, patch)
    padded = _pad(image, tuple(max(side, edge) for side, edge in zip(sides, window, strict=True)))

    def look(view: Tensor) -> Tensor:
        with autocast(view.device, precision):
            logits = model(view)
        return probabilities(model, logits)

    if tuple(padded.shape[2:]) == window:
        seen = look(padded)
    else:
        seen = sliding_window_inference(
            padded, window, sw_batch_size=2, predictor=look, overlap=overlap, mode="gaussian"
        )
    return seen[..., : sides[0], : sides[1], : sides[2]]


def _window(model: UNet, sides: tuple[int, ...], patch: tuple[int, int, int] | None) -> tuple[int, ...]:
    step = model.divisor
    if patch is None:
        small = int(np.prod(sides)) <= WHOLE_VOXELS
        patch = (sides[0], sides[1], sides[2]) if small else WINDOW
    window = [-(-edge // step) * step for edge in patch]
    if model.preset == "ren2024" and all(edge == step for edge in window):
        window[-1] = 2 * step
    return tuple(window)


def _pad(image: Tensor, sides: tuple[int, ...]) -> Tensor:
    after = [wanted - now for wanted, now in zip(sides, image.shape[2:], strict=True)]
    return functional.pad(image, (0, after[2], 0, after[1], 0, after[0]))
