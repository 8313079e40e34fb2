"""Phantom cases for pretraining: made ahead in another process, never all kept.

The pool at a step is a function of the seed and the step alone, so that a resumed run sees what an
unbroken one would have seen.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from common.data.cases import MODALITIES
from common.data.geometry import cut, geometry_of
from common.data.phantom.sites import PhantomCase, make_case, site_profile
from common.data.transforms import CLIP_PERCENTILES, MARGIN, PreparedCase
from common.data.volume import Volume
from common.seeds import derive, generator

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""Read by a worker when it starts: NumPy's threads, waiting for each other on a busy core, cost ten times
what they calculate."""

Pool = Callable[[int], list[PreparedCase]]


@dataclass(frozen=True)
class Stream:
    """Which phantom cases come, and how fast.

    Attributes:
        site: a profile of `common.data.phantom.sites`.
        healthy: healthy heads with tissue labels instead of tumours.
        spacing_mm: range of the isotropic voxel size, one value for each case.
        tumour_free: share of cases without a tumour where tumours are the task.
        size: cases in the pool.
        refresh: steps after which the oldest case gives way to a new one.
        ahead: cases made before they are needed.
    """

    site: str = "varied"
    healthy: bool = False
    spacing_mm: tuple[float, float] = (2.0, 3.0)
    tumour_free: float = 0.05
    size: int = 32
    refresh: int = 12
    ahead: int = 4


def phantom(stream: Stream, *, seed: int, number: int) -> PreparedCase:
    """Case `number` of a stream, as `common.data.transforms.prepare` would give it."""
    rng = generator(seed, "stream", number)
    spacing_mm = float(rng.uniform(*stream.spacing_mm))
    tumour = bool(rng.random() >= stream.tumour_free)
    case = make_case(
        site_profile(stream.site),
        seed=derive(seed, "phantom", number),
        spacing_mm=spacing_mm,
        healthy=stream.healthy,
        tumour=tumour,
    )
    return prepared(case, name=f"phantom-{number}")


def prepared(case: PhantomCase, *, name: str) -> PreparedCase:
    """A phantom case as `prepare` makes one at the phantom's own spacing, without the way over files."""
    inside = np.asarray((case.images > 0).any(axis=0))
    geometry = geometry_of(Volume(case.images[0], case.affine), inside, spacing_mm=None, margin=MARGIN)
    brain = cut(inside, geometry)
    image = np.zeros((len(case.images), *brain.shape), dtype=np.float16)
    for channel, scan in enumerate(case.images):
        values = cut(scan, geometry)[brain]
        values = np.clip(values, *np.percentile(values, CLIP_PERCENTILES))
        image[channel][brain] = (values - values.mean()) / max(float(values.std()), 1e-6)
    return PreparedCase(
        name=name,
        patient=name,
        image=image,
        label=cut(case.label, geometry),
        geometry=geometry,
        present=(True,) * len(MODALITIES),
    )


@contextmanager
def open_pool(stream: Stream, *, seed: int, workers: int = 1) -> Iterator[Pool]:
    """A function step -> the `stream.size` cases of that step's pool, for steps that do not fall.

    Args:
        stream: what to make.
        seed: of the stream.
        workers: processes that make cases; 0 makes them where they are asked for.
    """
    if workers == 0:
        yield _pool(stream, lambda number: _done(phantom(stream, seed=seed, number=number)))
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    try:
        yield _pool(stream, lambda number: executor.submit(phantom, stream, seed=seed, number=number))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ[BLAS_THREADS]
        else:
            os.environ[BLAS_THREADS] = before


def _pool(stream: Stream, make: Callable[[int], Future[PreparedCase]]) -> Pool:
    made: dict[int, Future[PreparedCase]] = {}

    def pool(step: int) -> list[PreparedCase]:
        first = step // stream.refresh
        for number in [number for number in made if number < first]:
            del made[number]
        for number in range(first, first + stream.size + stream.ahead):
            if number not in made:
                made[number] = make(number)
        return [made[number].result() for number in range(first, first + stream.size)]

    return pool


def _done(case: PreparedCase) -> Future[PreparedCase]:
    future: Future[PreparedCase] = Future()
    future.set_result(case)
    return future


def _start_worker() -> None:
    """One thread, and an end with the parent: a killed parent leaves no worker behind."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
