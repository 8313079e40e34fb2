"""A model file ready for use: the network, and how scans must be prepared for it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from common.checkpoint import check_architecture, load
from common.data.cases import STRUCTURES
from common.data.transforms import Preparation
from common.errors import CheckpointError
from common.models.network import build_for
from common.models.unet import PRESETS, UNet

SHIPPED = ("healthy", "glioma")


@dataclass(frozen=True)
class ReleasedModel:
    """A network with its weights, in evaluation mode, on a GPU where there is one.

    Attributes:
        task: whose structures its classes are.
        preparation: the working grid on which it was trained.
    """

    network: UNet
    task: str
    preparation: Preparation


def find_model(name_or_file: str) -> Path:
    """The file of a model: one that ships with the package, by its name, or any file.

    Raises:
        CheckpointError: neither.
    """
    path = Path(name_or_file)
    if path.is_file():
        return path
    shipped = Path(str(resources.files("common.models") / "shipped" / f"{path.name}.safetensors"))
    if name_or_file in SHIPPED and shipped.is_file():
        return shipped
    raise CheckpointError(f"there is no model '{path.name}': give a file, or one of {', '.join(SHIPPED)}")


def open_model(path: Path, *, degradation: str | None = None) -> ReleasedModel:
    """Read a model file that FedGlia wrote.

    Raises:
        CheckpointError: damaged, of an unknown architecture, or without the facts needed to use it.
    """
    checkpoint = load(path)
    facts = checkpoint.provenance
    preset, task, spacing_mm = str(facts.get("preset")), str(facts.get("task")), facts.get("spacing_mm")
    if preset not in PRESETS or task not in STRUCTURES or not isinstance(spacing_mm, int | float):
        raise CheckpointError(
            f"{path.name}: does not say its preset, task and spacing; it cannot be used alone"
        )
    network = build_for(preset, task, seed=0)
    check_architecture(checkpoint, network.state_dict(), preset=preset)
    network.load_state_dict(checkpoint.tensors)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preparation = Preparation(STRUCTURES[task], spacing_mm=float(spacing_mm), degradation=degradation)
    return ReleasedModel(network.to(device).eval(), task, preparation)
