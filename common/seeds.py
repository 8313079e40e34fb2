"""One seed, many independent child seeds.

A run's seed becomes the seed of a site, a round, a step by naming it: the same names give the same
child on every machine, and no two uses share a stream by accident.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A child seed in [0, 2**63) for `names` under `seed`; stable across machines and releases."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator on the child stream that `names` gives."""
    return np.random.default_rng(derive(seed, *names))
