"""A network judged on the subjects of a cell, in each scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.data.geometry import paste, to_box
from common.data.tractseg import Subject, bits_of, truth_of
from common.data.transforms import PreparedCase
from common.data.volume import Volume, read_volume
from common.learning.inference import predict
from common.metrics import scores
from common.models.unet import UNet
from simulation.study.bundle_shift.cohorts import bundles_of, prepared, subjects_in
from simulation.study.bundle_shift.settings import BundleShift
from simulation.study.jobs import Workplace
from simulation.study.pictures import Picture, take
from simulation.study.results import MEAN, Row, metric_rows
from simulation.study.spec import Data


def judge(
    place: Workplace,
    model: UNet,
    *,
    study: BundleShift,
    data: Data,
    modality: str,
    cell: str,
    fold_of: Mapping[str, int],
    approach: str,
) -> tuple[list[Row], list[Picture]]:
    """Rows of every subject of a cell that `fold_of` names (-1: none), and a picture of each."""
    bundles = bundles_of(study, data)
    subjects = {subject.name: subject for subject in subjects_in(data, cell)}
    rows, pictures = [], []
    cases = prepared(place, data, cell, tuple(fold_of), modality=modality)
    for (name, fold), case in zip(fold_of.items(), cases, strict=True):
        truth = truth_of(subjects[name], bundles)
        found = found_bits(model, case)
        regions = scores(found, truth.array, truth.spacing_mm, bits_of(bundles))
        values = {
            "dice": {bundle: score.dice for bundle, score in regions.items()},
            "hd95": {bundle: score.hd95_mm for bundle, score in regions.items()},
        }
        of = Row(cell, name, approach, fold, study.seed, MEAN, "", 0.0, "")
        rows += metric_rows(values, structures=bundles, of=of)
        pictures.append(_picture(subjects[name], truth, found, count=len(bundles), cell=cell))
    return rows, pictures


def found_bits(model: UNet, case: PreparedCase) -> NDArray[np.uint8]:
    """The bundles that the network sees, as bits in the scan's own grid.

    Computed in float32, so that every worker gives the same numbers.
    """
    seen = predict(model, case, precision="fp32")[1:]
    finest = to_box(seen, case.geometry) > 0.5
    found = np.zeros(finest.shape[1:], dtype=np.uint8)
    for bit, mask in enumerate(finest):
        found |= mask.astype(np.uint8) << bit
    return paste(found, case.geometry)


def codes(volume: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Bits as codes from 1 for a picture: where bundles overlap, the first of them."""
    shown = np.zeros_like(volume)
    for bit in reversed(range(count)):
        shown[(volume >> bit & 1) > 0] = bit + 1
    return shown


def _picture(subject: Subject, truth: Volume, found: NDArray[np.uint8], *, count: int, cell: str) -> Picture:
    """On T1w where there is one, else on FA; on a blank head else, since peaks are no picture."""
    file = subject.images.get("t1") or subject.images.get("fa")
    scan = read_volume(file) if file else Volume(np.ones(truth.shape, np.float32), truth.affine)
    return take(
        scan,
        Volume(codes(truth.array, count), truth.affine),
        Volume(codes(found, count), truth.affine),
        site=cell,
        case=subject.name,
    )
