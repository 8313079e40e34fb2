"""Training in stretches: drafts, what a kill costs, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from common.data.sampling import Batch
from common.learning.loop import Settings, train
from common.seeds import generator
from simulation.study import stretches
from simulation.study.stretches import Advance, train_in_stretches

STEPS, STRETCH = 7, 3


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Conv3d(1, 2, 1)


def draw(step: int) -> Batch:
    rng = generator(1, step)
    image = torch.from_numpy(rng.normal(size=(2, 1, 4, 4, 4)).astype("float32"))
    return Batch(image, (image[:, 0] > 0).long())


def advancing(model: nn.Module) -> Advance:
    def advance(**where: object) -> object:
        settings = Settings(learning_rate=0.1, precision="fp32")
        return train(model, draw, settings, total_steps=STEPS, names=["weight", "bias"], **where)  # type: ignore[arg-type]

    return advance  # type: ignore[return-value]


def trained(file: Path, watch: Callable[[], object] = lambda: 0.5) -> tuple[nn.Module, stretches.Progress]:
    model = network()
    progress = train_in_stretches(file, model, advancing(model), watch, steps=STEPS, stretch=STRETCH)
    return model, progress


def test_the_last_stretch_is_shorter_and_all_are_accounted_for(tmp_path: Path) -> None:
    _, progress = trained(tmp_path / "draft.safetensors")
    assert (progress.step, len(progress.loss), progress.watched) == (STEPS, 3, [0.5] * 3)
    assert (tmp_path / "draft.safetensors").is_file()


@pytest.mark.parametrize("killed_in", [2, 3])
def test_a_kill_costs_a_stretch_and_changes_nothing(tmp_path: Path, killed_in: int) -> None:
    whole, of_whole = trained(tmp_path / "whole.safetensors")
    looks = []

    def dies() -> float:
        looks.append(1)
        if len(looks) == killed_in:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "draft.safetensors", dies)
    resumed, of_resumed = trained(tmp_path / "draft.safetensors")
    assert of_resumed == of_whole
    state = resumed.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.state_dict().items())


def test_a_finished_draft_is_not_trained_further(tmp_path: Path) -> None:
    first, _ = trained(tmp_path / "draft.safetensors")

    def never() -> float:
        raise AssertionError("looked again")

    again, progress = trained(tmp_path / "draft.safetensors", never)
    assert progress.step == STEPS
    assert torch.equal(again.state_dict()["weight"], first.state_dict()["weight"])
