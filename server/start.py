"""The first global model: a shipped pretrained one, a file, or fresh weights, fitted to the plan's task.

A model that was trained for another task lends its encoder and decoder; its head is exchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from torch import Tensor

from common import wire
from common.checkpoint import check_architecture, load
from common.data.cases import STRUCTURES
from common.errors import CheckpointError
from common.models.network import build, build_for
from common.models.unet import classes_for, exchange_head
from common.plan import Plan
from common.seeds import derive
from server.run import GIVEN_FILE, Run


@dataclass(frozen=True)
class Start:
    """The first global model, whole, and where it comes from.

    Attributes:
        new_head: whether the head is fresh, and so trains whatever the adaptation says.
        origin: words for the model card.
    """

    tensors: Mapping[str, Tensor]
    new_head: bool
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 of the values: the name under which sites keep this model."""
        return wire.digest(wire.flatten(self.tensors, wire.Layout.of(self.tensors)))


def first_model(run: Run) -> Start:
    """The run's first global model: made and kept as round 0 once, read back ever after.

    Raises:
        CheckpointError: see `starting_model`.
    """
    if run.last_round() is None:
        given = run.folder / GIVEN_FILE
        start = starting_model(run.plan, given if given.is_file() else None)
        facts = {"new_head": start.new_head, "origin": start.origin}
        run.keep_checkpoint(0, start.tensors, facts)
        return start
    checkpoint = load(run.checkpoint_file(0))
    facts = checkpoint.provenance
    return Start(checkpoint.tensors, new_head=bool(facts["new_head"]), origin=str(facts["origin"]))


def starting_model(plan: Plan, file: Path | None = None) -> Start:
    """The model that `plan.model.start` names.

    Args:
        plan: what is to be done.
        file: the model file, where the plan names one by its hash.

    Raises:
        CheckpointError: no such file, another hash than the plan's, or a model of another preset.
    """
    seed = derive(plan.seed, "start")
    if plan.model.start == "scratch":
        return Start(build(plan, seed=seed).state_dict(), new_head=True, origin="fresh weights")
    path = shipped(plan.model.start) if file is None else file
    if plan.model.start.startswith("sha256:"):
        _check_hash(path, plan.model.start.removeprefix("sha256:"))
    checkpoint = load(path)
    task = str(checkpoint.provenance.get("task", ""))
    if task not in STRUCTURES:
        raise CheckpointError(f"{path.name}: does not say which task it was trained for; pretrain it anew")
    preset = plan.model.preset
    model = build_for(preset, task, seed=seed)
    check_architecture(checkpoint, model.state_dict(), preset=preset)
    model.load_state_dict(checkpoint.tensors)
    new_head = task != plan.task.kind
    if new_head:
        exchange_head(model, classes=classes_for(preset, STRUCTURES[plan.task.kind]), seed=seed)
    return Start(model.state_dict(), new_head=new_head, origin=f"{path.stem}, pretrained for {task}")


def shipped(name: str) -> Path:
    """The file of a shipped model, or of one that the plan names by a hash and nobody gave.

    Raises:
        CheckpointError: there is none of that name.
    """
    path = Path(str(resources.files("common.models") / "shipped" / f"{name}.safetensors"))
    if not path.is_file():
        raise CheckpointError(f"there is no shipped model '{name[:20]}'; give the file with --start FILE")
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a model file, as a plan names it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({error.strerror})") from None


def _check_hash(path: Path, expected: str) -> None:
    if file_hash(path) != expected:
        raise CheckpointError(
            f"{path.name}: is not the model that the plan names; give the right --start FILE"
        )
