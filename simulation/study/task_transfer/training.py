"""How a network of such a study trains: crops, batches that both arms share, an epoch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.sampling import Batch, draw_batch
from common.data.transforms import PreparedCase
from common.learning.augmentation import Augmentation, augment
from common.learning.inference import predict
from common.learning.loop import Settings, train
from common.metrics import dice
from common.models.unet import UNet, build_unet
from common.seeds import generator
from simulation.study.stretches import DRAFT, train_in_stretches
from simulation.study.task_transfer.crops import Crop
from simulation.study.task_transfer.settings import TaskTransfer

MODEL = "model.safetensors"
DRAFT_EVERY = 10
"""Epochs between two drafts."""

STRONG = Augmentation(turn_over=0.5, gain=0.3, shift=0.3, gamma=0.5, noise=0.5, noise_level=0.6, coarse=0.3)
"""Of both arms alike: a handful of patients is learnt by heart with less."""


@dataclass(frozen=True)
class Course:
    """One training.

    Attributes:
        cases: crops to train on.
        watched: crops of the curve; nothing is chosen by them.
        epochs, steps_per_epoch: the budget, which also fixes the learning rate's decay.
        learning_rate: at the start.
        stream: names of the random stream of batches; arms of one seed have the same.
        augmentation: how much batches are changed.
    """

    cases: Sequence[PreparedCase]
    watched: Sequence[Crop]
    epochs: int
    steps_per_epoch: int
    learning_rate: float
    stream: tuple[str | int, ...]
    augmentation: Augmentation


def fresh_network(study: TaskTransfer, *, seed: int) -> UNet:
    """One channel in, background and structure out; on a GPU where there is one."""
    model = build_unet(study.network, in_channels=1, classes=2, seed=seed)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def draw(study: TaskTransfer, course: Course, step: int) -> Batch:
    """The batch of one step: it hangs on the seed, the stream and the step alone."""
    rng = generator(study.seed, *course.stream, step)
    batch = draw_batch(course.cases, patch=(study.edge,) * 3, size=study.batch_size, rng=rng)
    return augment(batch, course.augmentation, rng)


def train_network(folder: Path, model: UNet, study: TaskTransfer, course: Course) -> dict[str, list[float]]:
    """Train `model` in place, with a draft every few epochs from which a killed job goes on.

    Returns:
        `loss` and `dice`, one value for each epoch: mean training loss, and mean Dice of the watched crops
        in the crops' own voxels after it.
    """
    names = [name for name, _ in model.named_parameters()]
    progress = train_in_stretches(
        folder / DRAFT,
        model,
        partial(
            train,
            model,
            lambda step: draw(study, course, step),
            Settings(learning_rate=course.learning_rate),
            total_steps=course.epochs * course.steps_per_epoch,
            names=names,
        ),
        lambda: mean_dice(model, course.watched),
        steps=course.epochs * course.steps_per_epoch,
        stretch=course.steps_per_epoch,
        draft_every=DRAFT_EVERY,
    )
    return {"loss": progress.loss, "dice": progress.watched}


def mean_dice(model: UNet, crops: Sequence[Crop]) -> float:
    """Mean over crops, in their own voxels and in the precision of training."""
    values = []
    for crop in crops:
        assert crop.seen.label is not None
        seen = predict(model, crop.seen)[1]
        values.append(dice(seen > 0.5, crop.seen.label > 0))
    return float(np.mean(values))


def found_in(model: UNet, crop: Crop) -> NDArray[np.float32]:
    """Probability (x, y, z) of the structure in a crop's voxels, in float32."""
    return np.asarray(predict(model, crop.seen, precision="fp32")[1], dtype=np.float32)
