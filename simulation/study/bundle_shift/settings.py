"""What the file of such a study says.

Riccardi et al. (Medical Image Analysis 2025; 107:103766) train on healthy subjects and find a drop on glioma
patients, of which fine-tuning recovers the part that comes from acquisition and preprocessing, and not the
part that comes from large deformation; for five bundles and three input modalities. Which bundles,
modalities and network these were, and how the shift was measured, is not public. Everything here is ours:
`docs/decisions/0016-bundle-shift.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.data.phantom.diffusion import DIFFUSION
from simulation.study.spec import Data, Source, Study

Modality = Literal["t1", "fa", "peaks"]
HEALTHY, TUNED = "healthy", "fine-tuned"
"""The two approaches, after the modality: `t1-healthy`."""


@dataclass(frozen=True)
class Cell:
    """A cell of the factorial: whose scanner, and whether the tumour is there."""

    protocol: Literal["source", "clinical"]
    tumour: bool


CELLS = {
    "source-twin": Cell("source", tumour=False),
    "source-tumour": Cell("source", tumour=True),
    "clinical-twin": Cell("clinical", tumour=False),
    "clinical-tumour": Cell("clinical", tumour=True),
}
"""Phantom patients in all four; name -> cell. Real patients are in the last one alone."""

PATIENTS = "clinical-tumour"
"""The cell on which models are fine-tuned: patients as a clinic sees them."""

AT_HOME = "source-healthy"
"""Healthy subjects kept from training."""

TRAINED = "source-training"
"""Healthy subjects to train on."""


class BundleShift(Study):
    """A study of this kind.

    Attributes:
        bundles: masks of real data to learn, at most eight; empty for those of the first subject. Phantoms
            have the tubes of `common.data.phantom.bundles`.
        modalities: one network each.
        spacing_mm: of the working grid, and of the phantoms.
        folds: of the patients, for fine-tuning; each patient is tested once.
        healthy_test: share of the healthy subjects kept from training, at least two.
        steps, tune_steps: of training on healthy subjects, and of fine-tuning.
        near_mm: a bundle farther than this from the lesion counts as far (real patients with a lesion mask).
        curve_points: of the training curves.
    """

    kind: Literal["bundle-shift"]
    bundles: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("t1", "fa", "peaks")
    spacing_mm: Annotated[float, Field(ge=1, le=4)]
    folds: Annotated[int, Field(ge=2)]
    healthy_test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    network: Literal["nano", "base"] = "nano"
    patch: Annotated[int, Field(ge=16, multiple_of=16)] = 48
    batch_size: Annotated[int, Field(ge=2)] = 2
    steps: Annotated[int, Field(ge=1)]
    tune_steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    tune_learning_rate: Annotated[float, Field(gt=0)]
    augment: bool = True
    near_mm: Annotated[float, Field(gt=0)] = 20.0
    curve_points: Annotated[int, Field(ge=1)] = 6

    @model_validator(mode="after")
    def _fits_together(self) -> BundleShift:
        if sorted(spec.role for spec in self.cohorts.values()) != ["healthy", "patients"]:
            raise ValueError("a bundle-shift study has two cohorts, of the roles healthy and patients")
        for spec in self.cohorts.values():
            if spec.phantom not in DIFFUSION:
                raise ValueError(
                    f"phantom '{spec.phantom}' has no diffusion scan; {', '.join(DIFFUSION)} have"
                )
        return self


def approach_name(modality: str, approach: str) -> str:
    """The approach of one modality as results.csv names it."""
    return f"{modality}-{approach}"


def healthy_source(data: Data) -> Source:
    """The cohort of healthy subjects."""
    return data.role("healthy")[0]


def patient_source(data: Data) -> Source:
    """The cohort of patients."""
    return data.role("patients")[0]


def cells(data: Data) -> tuple[str, ...]:
    """Cells that the patients are seen in: all four of phantoms, one of real patients."""
    return (PATIENTS,) if patient_source(data).phantom is None else tuple(CELLS)
