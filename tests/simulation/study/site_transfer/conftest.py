"""The smallest site-transfer study: two phantom sites at 4 mm, two folds, a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from simulation.study.run import Setup, prepare

TINY = """
schema = 1
name = "tiny"
kind = "site-transfer"
about = "a test"
source = "nobody"
baseline = "baseline"
reference = "combined"
folds = 2
steps = 4
source_steps = 2
rounds = 2
curve_points = 2

[cohorts.adult]
role = "source"
phantom = "adult-a"
cases = 5

[cohorts.ssa]
role = "target"
phantom = "ssa"
cases = 4

[approaches.baseline]
label = "baseline"
on = ["source"]
steps = "source"

[approaches.combined]
label = "combined"
on = ["source", "target"]

[approaches.frozen-decoder]
label = "frozen decoder"
on = ["target"]
start = "baseline"
trains = "frozen-decoder"
steps = "rest"

[approaches.dann]
label = "DANN"
on = ["source", "target"]
alignment = "dann"

@FEDERATIONS@
[plan.task]
spacing_mm = 4.0

[plan.adaptation]
patch = 16
loss = "paper"
adapt_steps = 2
augment = false

[plan.evaluation]
val_share = 0.2
test_share = 0.4

[presets.small]
[presets.smoke]
"""

FEDERATIONS = """
[federations.fedavg]
rows = { local_only = "local-only", federated = "fedavg", adapted = "fedavg-local" }
labels = { local-only = "local only", fedavg = "FedAvg", fedavg-local = "FedAvg and local" }

[federations.fed-frozen-decoder]
rows = { federated = "fed-frozen-decoder" }
labels = { fed-frozen-decoder = "federated, frozen decoder" }
start = "baseline"
steps = "rest"
plan = { "adaptation.trains" = "frozen-decoder" }
"""


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The study's file, without federations."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY.replace("@FEDERATIONS@", ""))
    return file


@pytest.fixture
def tiny(tiny_file: Path, tmp_path: Path) -> Callable[..., Setup]:
    """A function that prepares the study in a folder, with other words in its file where they are given.

    The preset `small` has the federations, `smoke` the centralised approaches alone.
    """

    def make(
        out: str = "out",
        *,
        preset: str = "small",
        folders: Mapping[str, Path] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> Setup:
        text = TINY.replace("@FEDERATIONS@", FEDERATIONS if preset == "small" else "")
        for old, new in (words or {}).items():
            assert old in text
            text = text.replace(old, new)
        tiny_file.write_text(text)
        return prepare(str(tiny_file), tmp_path / out, preset=preset, folders=folders or {})

    return make
