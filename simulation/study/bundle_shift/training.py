"""One network a modality, a sigmoid for each bundle: trained on healthy subjects, fine-tuned on patients.

Bundles overlap, so a label is a volume of bits and every channel answers for one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.checkpoint import load, save
from common.data.sampling import Batch, draw_batch
from common.data.transforms import PreparedCase
from common.learning.augmentation import Augmentation, augment
from common.learning.inference import predict
from common.learning.loop import Settings, train
from common.learning.losses import soft_dice
from common.metrics import dice
from common.models.unet import BACKGROUND_LOGIT, UNet, build_unet
from common.seeds import derive, generator
from simulation.study.bundle_shift.settings import BundleShift
from simulation.study.stretches import DRAFT, train_in_stretches

MODEL = "model.safetensors"

INTENSITIES = Augmentation(mirror=0.0)
"""Gain, offset, gamma, noise and resolution. No mirror images: an orientation would have to turn too."""


@dataclass(frozen=True)
class Course:
    """One training.

    Attributes:
        cases: to train on.
        watched: cases for the curve; nothing is chosen by them.
        steps: in all.
        learning_rate: at the start.
        stream: names of the random stream of patches.
    """

    cases: Sequence[PreparedCase]
    watched: Sequence[PreparedCase]
    steps: int
    learning_rate: float
    stream: tuple[str | int, ...]


def fresh_network(study: BundleShift, *, channels: int, bundles: int) -> UNet:
    """A network with fresh weights and a sigmoid for each bundle, which starts by seeing none."""
    seed = derive(study.seed, "network", channels)
    model = build_unet(study.network, in_channels=channels, classes=bundles, seed=seed)
    model.activation = "sigmoid"
    with torch.no_grad():
        model.head.classify.bias.fill_(-BACKGROUND_LOGIT)  # type: ignore[union-attr,operator]
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def load_network(study: BundleShift, file: Path, *, bundles: int) -> UNet:
    """The network that `train_network` left in `file`.

    Raises:
        CheckpointError: the file cannot be read.
    """
    kept = load(file)
    model = fresh_network(study, channels=int(kept.provenance["channels"]), bundles=bundles)
    model.load_state_dict(dict(kept.tensors))
    return model


def bits(label: Tensor, count: int) -> Tensor:
    """Volumes of bits (B, D, H, W) -> 0 or 1 (B, count, D, H, W)."""
    places = torch.arange(count, device=label.device).reshape(1, -1, *[1] * (label.ndim - 1))
    return (label[:, None] >> places) & 1


def bundle_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy plus batch Dice, over logits (B, K, D, H, W) and labels of bits (B, D, H, W)."""
    scores = logits.float()
    target = bits(label, scores.shape[1]).to(scores.dtype)
    entropy = functional.binary_cross_entropy_with_logits(scores, target)
    return entropy + soft_dice(torch.sigmoid(scores), target)


def train_network(folder: Path, model: UNet, study: BundleShift, course: Course) -> dict[str, Any]:
    """Train `model` in place, in stretches with a draft after each, and keep it as MODEL in `folder`.

    Returns:
        `loss` and `curve`, one value for each stretch: mean loss, and [step, mean Dice of the watched cases].
    """
    names = [name for name, _ in model.named_parameters()]
    advance = partial(
        train,
        model,
        lambda step: draw(study, course, step),
        Settings(learning_rate=course.learning_rate),
        total_steps=course.steps,
        names=names,
        loss=bundle_loss,
    )
    stretch = -(-course.steps // study.curve_points)
    progress = train_in_stretches(
        folder / DRAFT,
        model,
        advance,
        lambda: mean_dice(model, course.watched),
        steps=course.steps,
        stretch=stretch,
    )
    save(folder / MODEL, model.state_dict(), {"kind": "study model", "channels": model.in_channels})
    (folder / DRAFT).unlink(missing_ok=True)
    reached = [min(stretch * (number + 1), course.steps) for number in range(len(progress.loss))]
    return {
        "loss": progress.loss,
        "curve": [list(pair) for pair in zip(reached, progress.watched, strict=True)],
    }


def draw(study: BundleShift, course: Course, step: int) -> Batch:
    """The batch of one step: it hangs on the seed, the stream and the step alone."""
    rng = generator(study.seed, *course.stream, step)
    batch = draw_batch(course.cases, patch=(study.patch,) * 3, size=study.batch_size, rng=rng)
    return augment(batch, INTENSITIES, rng) if study.augment else batch


def mean_dice(model: UNet, cases: Sequence[PreparedCase]) -> float:
    """Mean over cases and bundles on the working grid."""
    values = []
    for case in cases:
        found = predict(model, case, precision="fp32")[1:] > 0.5
        label = np.zeros((), np.uint8) if case.label is None else case.label
        values += [dice(mask, (label >> bit & 1).astype(np.bool_)) for bit, mask in enumerate(found)]
    return float(np.mean(values))
