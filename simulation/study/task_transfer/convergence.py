"""When a run has converged: the rule, declared before any run (science.md C).

The curve is averaged over the last five epochs. A run has converged at the first epoch e, counted from 1,
whose average reaches 0.99 of the highest average of the whole run and stays within 0.01 of its value at e for
five further epochs. A run without such an epoch is censored: all that is known is that its budget was not
enough. The first epoch that can be reached is the fifth, the last the fifth from the end, so ratios of two
runs are drawn towards 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW, FURTHER = 5, 5
SHARE, WITHIN = 0.99, 0.01


@dataclass(frozen=True)
class Convergence:
    """When a run has converged.

    Attributes:
        epoch: counted from 1; the budget where the run is censored.
        censored: whether no epoch meets the rule.
        best: the best average of the run.
    """

    epoch: int
    censored: bool
    best: float


def averaged(curve: Sequence[float]) -> NDArray[np.float64]:
    """Mean over the last five epochs, from the fifth epoch on (E - 4,).

    Raises:
        ValueError: fewer epochs than the rule needs.
    """
    if len(curve) < WINDOW + FURTHER:
        raise ValueError(f"{len(curve)} epochs; the rule needs {WINDOW + FURTHER}")
    return np.convolve(np.asarray(curve, dtype=np.float64), np.full(WINDOW, 1 / WINDOW), mode="valid")


def converged(curve: Sequence[float], *, falling: bool = False) -> Convergence:
    """When a curve has converged, one value an epoch.

    Args:
        curve: validation Dice; or, `falling`, a training loss, whose average must come down to its lowest
            over 0.99. A curve that never leaves 0 has not converged.
        falling: whether less is better.
    """
    means = averaged(curve)
    best = float(means.min() if falling else means.max())
    near = means <= best / SHARE if falling else means >= SHARE * best
    for place in np.flatnonzero(near & (best > 0)):
        after = means[place : place + FURTHER + 1]
        if len(after) == FURTHER + 1 and float(np.abs(after - means[place]).max()) <= WITHIN:
            return Convergence(int(place) + WINDOW, False, best)
    return Convergence(len(curve), True, best)


def first_reach(curve: Sequence[float], level: float) -> int | None:
    """The first epoch whose average reaches `level`; None where none does."""
    where = np.flatnonzero(averaged(curve) >= level)
    return int(where[0]) + WINDOW if len(where) else None
