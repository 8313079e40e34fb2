"""Training in stretches, with a draft after each: a kill costs one stretch and changes no number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from common.checkpoint import load, save
from common.learning.loop import Trained

DRAFT = "draft.safetensors"


class Advance(Protocol):
    """`common.learning.loop.train` with all else filled in."""

    def __call__(self, *, first_step: int, steps: int, optimiser_state: Mapping[str, Tensor]) -> Trained:
        """Make `steps` steps from `first_step` on."""


@dataclass
class Progress:
    """What is known after each stretch.

    Attributes:
        loss: mean training loss of each stretch.
        watched: what `watch` said after each stretch.
        step: steps made.
    """

    loss: list[float] = field(default_factory=list)
    watched: list[Any] = field(default_factory=list)
    step: int = 0


def train_in_stretches(
    file: Path,
    model: nn.Module,
    advance: Advance,
    watch: Callable[[], Any],
    *,
    steps: int,
    stretch: int,
    draft_every: int = 1,
) -> Progress:
    """Make `steps` steps in all, going on from the draft in `file` where there is one.

    The draft stays; whoever keeps the finished model deletes it afterwards, so that a kill in between costs
    nothing.

    Args:
        file: of the draft.
        model: what `advance` trains, in place.
        advance: the training.
        watch: called after each stretch; gives anything that JSON knows.
        steps: of the whole training.
        stretch: steps of a stretch; the last one may be shorter.
        draft_every: stretches between two drafts.
    """
    progress, optimiser = _resumed(file, model)
    while progress.step < steps:
        count = min(stretch, steps - progress.step)
        trained = advance(first_step=progress.step, steps=count, optimiser_state=optimiser)
        optimiser = trained.optimiser_state
        progress.step += count
        progress.loss.append(float(np.mean(trained.losses)))
        progress.watched.append(watch())
        if len(progress.loss) % draft_every == 0:
            keep_draft(file, model, optimiser, progress)
    return progress


def keep_draft(file: Path, model: nn.Module, optimiser: Mapping[str, Tensor], progress: Progress) -> None:
    """Write weights, moments and progress in one file, atomically."""
    groups = {"model": model.state_dict(), "optimiser": optimiser}
    tensors = {f"{group}:{name}": value for group, kept in groups.items() for name, value in kept.items()}
    save(file, tensors, {"step": progress.step, "loss": progress.loss, "watched": progress.watched})


def _resumed(file: Path, model: nn.Module) -> tuple[Progress, dict[str, Tensor]]:
    if not file.is_file():
        return Progress(), {}
    draft = load(file)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    for name, value in draft.tensors.items():
        group, _, rest = name.partition(":")
        groups[group][rest] = value
    model.load_state_dict(groups["model"])
    facts = draft.provenance
    progress = Progress(list(facts["loss"]), list(facts["watched"]), int(facts["step"]))
    return progress, groups["optimiser"]
