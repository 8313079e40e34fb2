"""The smallest task-transfer study, and folders of tiny scans for its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.volume import Volume, write_volume
from simulation.study.run import Setup, prepare

TINY = """
schema = 1
name = "tiny"
kind = "task-transfer"
about = "a test"
source = "nobody"
seeds = 2
folds = 2
epochs = 11
steps_per_epoch = 1
source_steps = 2
edge = 16
boxes = 2

[cohorts.hippocampus]
role = "source"
phantom = "adult-a"
cases = 2

[cohorts.glioma]
role = "target"
phantom = "adult-a"
cases = 4

[presets.small]
"""

Make = Callable[..., Setup]
WriteGliomas = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A study's workers compute with one thread; so do jobs that a test carries out itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def gliomas(tmp_path: Path) -> WriteGliomas:
    """A function that writes a BraTS folder of `count` patients; `codes` is what their labels hold."""

    def write(
        count: int, *, codes: tuple[int, ...] = (1, 2, 4), modality: str = "t1ce", labels: bool = True
    ) -> Path:
        rng = np.random.default_rng(1)
        for number in range(count):
            folder = tmp_path / "gliomas" / f"case{number}"
            folder.mkdir(parents=True)
            scan = rng.integers(1, 100, (20, 20, 20)).astype(np.int16)
            write_volume(folder / f"case{number}_{modality}.nii.gz", Volume(scan, np.eye(4)))
            label = np.zeros((20, 20, 20), np.uint8)
            for place, code in enumerate(codes):
                label[5 + 3 * place : 8 + 3 * place, 8:12, 8:12] = code
            if labels:
                write_volume(folder / f"case{number}_seg.nii.gz", Volume(label, np.eye(4)))
        return tmp_path / "gliomas"

    return write


@pytest.fixture
def hippocampi(tmp_path: Path) -> Path:
    """A Decathlon folder of three patients."""
    rng = np.random.default_rng(2)
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "hippocampi" / name).mkdir(parents=True)
    for number in range(3):
        label = np.zeros((18, 24, 18), np.uint8)
        label[6:12, 6:12, 6:12], label[6:12, 12:18, 6:12] = 2, 1
        scan = (100 * label + rng.integers(1, 50, label.shape)).astype(np.int16)
        for part, array in (("imagesTr", scan), ("labelsTr", label)):
            file = tmp_path / "hippocampi" / part / f"hippocampus_{number:03d}.nii.gz"
            write_volume(file, Volume(array, np.eye(4)))
    return tmp_path / "hippocampi"
