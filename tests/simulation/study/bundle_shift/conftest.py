"""The smallest bundle-shift study: one modality, three healthy heads, four patients, a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from simulation.study.run import Setup, prepare

TINY = """
schema = 1
name = "tiny"
kind = "bundle-shift"
about = "a test"
source = "nobody"
modalities = ["fa"]
spacing_mm = 4.0
folds = 2
patch = 16
steps = 3
tune_steps = 2
curve_points = 2
learning_rate = 3e-3
tune_learning_rate = 1e-3

[cohorts.healthy]
role = "healthy"
phantom = "adult-a"
cases = 3

[cohorts.patients]
role = "patients"
phantom = "ssa"
cases = 4

[presets.small]
"""

Make = Callable[..., Setup]


@pytest.fixture
def tiny(tmp_path: Path) -> Make:
    """A function that prepares the study in a folder, with other words in its file where they are given."""

    def make(
        out: str = "out", *, folders: Mapping[str, Path] | None = None, words: Mapping[str, str] | None = None
    ) -> Setup:
        text = TINY
        for old, new in (words or {}).items():
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "tiny.toml"
        file.write_text(text)
        return prepare(str(file), tmp_path / out, preset="small", folders=folders or {})

    return make
