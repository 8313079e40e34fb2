"""Dice against CPU-seconds: how soon a network learns glioma on phantoms, on one thread.

Every row trains on the same batches with the same settings. The plain full-resolution U-Net of MONAI is
the yardstick. CPU-seconds are the process's own, so that other work on the machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from common.checkpoint import load
from common.data.cases import GLIOMA_LABELS, MODALITIES
from common.data.phantom.sites import make_case, site_profile
from common.data.sampling import Batch, draw_batch
from common.data.transforms import PreparedCase
from common.learning.loop import Settings, train
from common.learning.phantoms import prepared
from common.learning.released import find_model
from common.metrics import dice
from common.models.network import build_for
from common.models.unet import classes_for, exchange_head
from common.seeds import derive, generator

SPACING_MM = 3.0
PATCH = 48
LEGS = (50, 50, 100)
"""Steps of each leg; Dice is taken after each."""
TRAINING_CASES = 16
TEST_CASES = 6
SETTINGS = Settings(optimiser="adamw", learning_rate=3e-3, precision="auto")


@dataclass(frozen=True)
class Contender:
    """A network to be timed."""

    name: str
    build: Callable[[], nn.Module]


def contenders() -> Sequence[Contender]:
    """The shipped network with its pretrained start and without, and the yardstick."""
    return (
        Contender("nano, healthy start", _pretrained),
        Contender("nano, fresh", lambda: build_for("nano", "glioma", seed=1)),
        Contender("MONAI BasicUNet, full resolution", _plain),
    )


def report() -> None:
    """Print mean Dice over the tumour's structures after each leg, and the CPU-seconds until then."""
    torch.set_num_threads(1)
    cases = [_case(number) for number in range(TRAINING_CASES + TEST_CASES)]
    click.echo(
        f"\nphantoms of adult-a at {SPACING_MM:g} mm, {PATCH}^3 patches, batch 2, one thread, same batches"
    )
    click.echo(f"{'mean Dice (CPU s) after':<34}" + "".join(f"{steps:>8} steps" for steps in np.cumsum(LEGS)))
    for contender in contenders():
        cells = _race(contender.build(), cases[:TRAINING_CASES], cases[TRAINING_CASES:])
        click.echo(f"{contender.name:<34}" + "".join(f"{cell:>14}" for cell in cells))


def _race(model: nn.Module, training: list[PreparedCase], testing: list[PreparedCase]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    state, done, spent, cells = None, 0, 0.0, []
    for steps in LEGS:
        began = time.process_time()
        trained = train(
            model,
            lambda step: _draw(training, step),
            SETTINGS,
            total_steps=sum(LEGS),
            names=names,
            first_step=done,
            steps=steps,
            optimiser_state=state,
        )
        spent += time.process_time() - began
        state, done = trained.optimiser_state, done + steps
        cells.append(f"{_mean_dice(model, testing):.3f} ({spent:.0f})")
    return cells


def _draw(cases: list[PreparedCase], step: int) -> Batch:
    return draw_batch(cases, patch=(PATCH,) * 3, size=2, rng=generator(1, "bench", step))


def _mean_dice(model: nn.Module, cases: list[PreparedCase]) -> float:
    """Mean over cases and structures that are there; whole cases, padded to a multiple of 16."""
    model.eval()
    values = []
    for case in cases:
        assert case.label is not None
        image = torch.from_numpy(case.image.astype(np.float32))[None]
        pad = [amount for side in reversed(image.shape[2:]) for amount in (0, -side % 16)]
        with torch.inference_mode():
            found = model(torch.nn.functional.pad(image, pad)).argmax(dim=1)[0].numpy()
        found = found[tuple(slice(side) for side in case.label.shape)]
        present = [code for code in GLIOMA_LABELS.values() if (case.label == code).any()]
        values.append(np.mean([dice(found == code, case.label == code) for code in present]))
    return float(np.mean(values))


def _case(number: int) -> PreparedCase:
    case = make_case(site_profile("adult-a"), seed=derive(1, "bench", number), spacing_mm=SPACING_MM)
    return prepared(case, name=f"phantom-{number}")


def _pretrained() -> nn.Module:
    model = build_for("nano", "tissue", seed=1)
    model.load_state_dict(load(find_model("healthy")).tensors)
    exchange_head(model, classes=classes_for("nano", tuple(GLIOMA_LABELS)), seed=1)
    return model


def _plain() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        plain: nn.Module = BasicUNet(
            3, len(MODALITIES), 1 + len(GLIOMA_LABELS), features=(16, 16, 32, 64, 128, 16)
        )
        return plain
