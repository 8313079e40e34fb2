"""A small made-up cohort: a ball of brain with a tumour of three structures, anisotropic and not RAS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.data.cases import MODALITIES
from common.data.volume import Volume, write_volume

SHAPE = (24, 30, 16)
AFFINE = np.array(
    [[0.0, -1.0, 0.0, 30.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]]
)

WriteCase = Callable[..., Path]


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    grid = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    return np.asarray(sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2)


def tumour(et: int = 3) -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[ball((11, 14, 8), 4)] = 2
    label[ball((11, 14, 8), 2.5)] = et
    label[ball((11, 14, 8), 1.5)] = 1
    return label


@pytest.fixture
def write_case() -> WriteCase:
    """Writes one BraTS case: `write_case(folder, name, seed=0, et=3, label=True, modalities=MODALITIES)`."""

    def write(
        folder: Path,
        name: str,
        *,
        seed: int = 0,
        et: int = 3,
        label: bool = True,
        modalities: tuple[str, ...] = MODALITIES,
    ) -> Path:
        case = folder / name
        case.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        brain = ball((11.5, 14.5, 7.5), 7.4)
        for modality in modalities:
            image = np.where(brain, rng.integers(200, 900, SHAPE), 0).astype(np.int16)
            write_volume(case / f"{name}-{modality}.nii.gz", Volume(image, AFFINE))
        if label:
            write_volume(case / f"{name}-seg.nii.gz", Volume(tumour(et), AFFINE))
        return case

    return write
