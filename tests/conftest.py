"""Fixtures that several rooms share."""

from __future__ import annotations

import os

# As the command does: NumPy's own threads wait for each other where test processes fill the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed generator for tests that draw."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real scans (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantom cohorts at 4 mm, of four and of two patients: the smallest federation, made once."""
    from common.data.phantom.writer import write_cohort

    folder = tmp_path_factory.mktemp("cohorts")
    return {
        site: write_cohort(folder / site, site=site, cases=cases, seed=1, spacing_mm=4.0)
        for site, cases in (("adult-a", 4), ("ssa", 2))
    }
