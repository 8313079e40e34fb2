"""What the file of such a study says.

Tian et al. (Front Oncol 2022; 12:856346) fine-tune a hippocampus model to the gross tumour volume and
compare it with training from scratch. Network, sequence, crops, loss, rate, split and what they call
converged are not public; what stands here is ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.models.unet import find_preset
from simulation.study.spec import Data, Source, Study

TRANSFER, SCRATCH = "transfer", "scratch"
ARMS = (TRANSFER, SCRATCH)
REGION, SOURCE_REGION = "GTV", "hippocampus"
SOURCE_MODEL = "source-model"


class TaskTransfer(Study):
    """A study of this kind.

    Attributes:
        seeds: pairs of runs, each pair with its own split, order of batches and drawn boxes.
        folds: into which the patients are dealt; seed n tests fold n mod folds of deal n div folds.
        epochs, steps_per_epoch, batch_size: the budget of both arms.
        source_steps: of the hippocampus model.
        network: a preset of `common.models.unet`.
        edge: voxels along a crop's longest side.
        drawn: whether a box around the tumour is given, in training and when judged.
        boxes: drawn around each training tumour.
        head: whether the hippocampus model's head is kept, or exchanged for a fresh one.
        learning_rate: of both arms; `source_learning_rate` is the hippocampus model's.
        margin: Dice that transfer may cost and still be non-inferior.
        least_ratio: of epochs until convergence, scratch over transfer, for the claim to hold.
    """

    kind: Literal["task-transfer"]
    seeds: Annotated[int, Field(ge=2)]
    folds: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=11)]
    steps_per_epoch: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 2
    source_steps: Annotated[int, Field(ge=1)]
    network: str = "nano"
    edge: Annotated[int, Field(ge=16)] = 48
    drawn: bool = True
    boxes: Annotated[int, Field(ge=1)] = 6
    head: Literal["kept", "exchanged"] = "kept"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    source_learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    margin: Annotated[float, Field(gt=0)] = 0.02
    least_ratio: Annotated[float, Field(gt=1)] = 2.0

    @model_validator(mode="after")
    def _fits_together(self) -> TaskTransfer:
        if sorted(spec.role for spec in self.cohorts.values()) != ["source", "target"]:
            raise ValueError("a task-transfer study has two cohorts, one of role source, one of role target")
        preset = find_preset(self.network)
        if preset.activation != "softmax":
            raise ValueError(f"network: {self.network} has no softmax; choose nano or base")
        if self.edge % preset.divisor:
            raise ValueError(f"edge: {self.edge} voxels; {self.network} needs a multiple of {preset.divisor}")
        if self.seeds % self.folds:
            raise ValueError(
                f"{self.seeds} seeds and {self.folds} folds: patients would be tested unequally often"
            )
        return self

    @property
    def numbers(self) -> range:
        """The seeds, from the study's own on; what the column `seed` of results.csv says."""
        return range(self.seed, self.seed + self.seeds)

    def fold_of(self, number: int) -> int:
        """The fold that a seed tests."""
        return (number - self.seed) % self.folds

    def deal_of(self, number: int) -> int:
        """Which deal of the patients into folds a seed belongs to."""
        return (number - self.seed) // self.folds


def source_of(data: Data, role: str) -> Source:
    """The one cohort of a role."""
    return data.role(role)[0]


def arm_job(arm: str, number: int) -> str:
    """The job of one arm of one seed."""
    return f"seed-{number}/{arm}"
