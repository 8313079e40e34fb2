"""Patches for a training step, balanced on tumour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.transforms import PreparedCase

UNLABELLED = -1
"""Label of every voxel of a case without one; a segmentation loss leaves it out."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of a training step.

    Attributes:
        image: float32 (B, C, *patch).
        label: int64 (B, *patch), `UNLABELLED` where nobody drew one.
        domain: int64 (B,), the number of each patch's domain; None where nothing asks for it.
    """

    image: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor | None = None


def draw_batch(
    cases: Sequence[PreparedCase],
    *,
    patch: tuple[int, int, int],
    size: int,
    rng: np.random.Generator,
    tumour_share: float = 0.7,
) -> Batch:
    """`size` patches of cases drawn with replacement, shuffled through before any comes twice.

    A patch's centre is, with probability `tumour_share`, a voxel of a structure: first one of the structures
    that the case has, each as likely, then one of its voxels, so that a small region is seen as often as a
    large one. Else it is a voxel of the brain. The patch is moved to lie inside the case; a case that is
    smaller is padded with zeros on both sides.

    Raises:
        ValueError: no case, no patch, or a share outside [0, 1]. That a training step has two patches or
            more, single ones being several times slower for each of them on a CPU, is the plan's to say.
    """
    if not cases or size < 1 or not 0 <= tumour_share <= 1:
        raise ValueError(
            f"{len(cases)} cases, {size} patches, tumour share {tumour_share}: need >= 1, >= 1, 0 to 1"
        )
    order = [index for _ in range(-(-size // len(cases))) for index in rng.permutation(len(cases))]
    drawn = [_draw(cases[index], patch, rng, tumour_share=tumour_share) for index in order[:size]]
    images, labels = zip(*drawn, strict=True)
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))


def _draw(
    case: PreparedCase, patch: tuple[int, int, int], rng: np.random.Generator, *, tumour_share: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    on_tumour = rng.random() < tumour_share
    centre = _tumour_voxel(case, rng) if on_tumour else None
    if centre is None:
        centre = _brain_voxel(case, rng)
    image = np.zeros((len(case.image), *patch), dtype=np.float32)
    label = np.full(patch, UNLABELLED if case.label is None else 0, dtype=np.int64)
    here, there = _windows(case.image.shape[1:], patch=patch, centre=centre)
    image[(slice(None), *there)] = case.image[(slice(None), *here)]
    if case.label is not None:
        label[there] = case.label[here]
    return image, label


def _tumour_voxel(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...] | None:
    """A voxel of a structure that the case has, or None where it has none."""
    if case.label is None:
        return None
    for code in rng.permutation(int(case.label.max())) + 1:
        voxels = np.flatnonzero(case.label == code)
        if len(voxels):
            return _index(voxels[rng.integers(len(voxels))], case.label.shape)
    return None


def _brain_voxel(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """A voxel that is not zero in every channel; the brain fills about half of its box, so a few draws do."""
    shape = case.image.shape[1:]
    for _ in range(64):
        voxel = tuple(int(rng.integers(n)) for n in shape)
        if case.image[:, voxel[0], voxel[1], voxel[2]].any():
            return voxel
    return tuple(n // 2 for n in shape)


def _index(flat: np.integer[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(flat), shape))


def _windows(
    shape: Sequence[int], *, patch: Sequence[int], centre: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which part of the case goes to which part of the patch."""
    here, there = [], []
    for n, width, middle in zip(shape, patch, centre, strict=True):
        start = min(max(middle - width // 2, 0), max(n - width, 0))
        taken = min(n, width)
        before = (width - taken) // 2
        here.append(slice(start, start + taken))
        there.append(slice(before, before + taken))
    return tuple(here), tuple(there)
