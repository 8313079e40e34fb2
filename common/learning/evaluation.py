"""One case judged: the model's label map against the expert's, in the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.data.cases import GLIOMA_LABELS, STRUCTURES, Case, Cohort
from common.data.transforms import PreparedCase, expert_label
from common.data.volume import Volume
from common.learning.inference import predict_labels
from common.metrics import LesionScore, RegionScore, lesion_scores, scores
from common.models.unet import UNet


@dataclass(frozen=True)
class Judgement:
    """What a model said about a case, and how right it was.

    Attributes:
        prediction: uint8 label map in the scan's own grid.
        regions: region -> score.
        lesions: region -> score lesion by lesion; of gliomas alone.
    """

    prediction: Volume
    regions: Mapping[str, RegionScore]
    lesions: Mapping[str, LesionScore] = field(default_factory=dict)


def judge_case(
    model: UNet,
    prepared: PreparedCase,
    *,
    case: Case,
    cohort: Cohort,
    task: str,
    overlap: float = 0.25,
    flips: bool = False,
) -> Judgement:
    """Predict and score one labelled case, in float32 so that every engine gives the same numbers.

    Raises:
        DataError: the case has no usable label.
    """
    truth = expert_label(case, cohort, STRUCTURES[task])
    found = predict_labels(model, prepared, overlap=overlap, flips=flips, precision="fp32")
    regions = scores(found, truth.array, truth.spacing_mm, regions_of(task))
    lesions = lesion_scores(found, truth.array, truth.spacing_mm) if task == "glioma" else {}
    return Judgement(Volume(found, truth.affine), regions, lesions)


def regions_of(task: str) -> dict[str, tuple[int, ...]]:
    """Regions that a task is judged by: its structures and, for glioma, tumour core and whole tumour."""
    regions: dict[str, tuple[int, ...]] = {
        name: (code,) for code, name in enumerate(STRUCTURES[task], start=1)
    }
    if task == "glioma":
        codes = GLIOMA_LABELS
        regions["TC"] = (codes["NCR"], codes["ET"])
        regions["WT"] = tuple(codes.values())
    return regions
