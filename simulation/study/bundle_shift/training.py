"""One network a modality, a sigmoid for each bundle: trained on healthy subjects, fine-tuned on patients.

Bundles overlap, so a label is a volume of bits and every channel answers for one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

MODEL, DRAFT = "model.safetensors", "draft.safetensors"

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
    return model


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
    step, optimiser, facts = _resume(folder / DRAFT, model)
    names = [name for name, _ in model.named_parameters()]
    settings = Settings(learning_rate=course.learning_rate)
    while step < course.steps:
        stretch = min(-(-course.steps // study.curve_points), course.steps - step)
        trained = train(
            model,
            lambda at: draw(study, course, at),
            settings,
            total_steps=course.steps,
            names=names,
            first_step=step,
            steps=stretch,
            optimiser_state=optimiser,
            loss=bundle_loss,
        )
        step, optimiser = step + stretch, trained.optimiser_state
        facts["loss"].append(float(np.mean(trained.losses)))
        facts["curve"].append([step, mean_dice(model, course.watched)])
        _draft(folder / DRAFT, model, optimiser, {"step": step, **facts})
    save(folder / MODEL, model.state_dict(), {"kind": "study model", "channels": model.in_channels})
    (folder / DRAFT).unlink(missing_ok=True)
    return facts


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


def _draft(file: Path, model: UNet, optimiser: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    groups = {"model": model.state_dict(), "optimiser": optimiser}
    tensors = {f"{group}:{name}": value for group, kept in groups.items() for name, value in kept.items()}
    save(file, tensors, facts)


def _resume(file: Path, model: UNet) -> tuple[int, dict[str, Tensor], dict[str, list[Any]]]:
    if not file.is_file():
        return 0, {}, {"loss": [], "curve": []}
    draft = load(file)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    for name, value in draft.tensors.items():
        group, _, rest = name.partition(":")
        groups[group][rest] = value
    model.load_state_dict(groups["model"])
    known = draft.provenance
    facts = {"loss": list(known["loss"]), "curve": list(known["curve"])}
    return int(known["step"]), groups["optimiser"], facts
