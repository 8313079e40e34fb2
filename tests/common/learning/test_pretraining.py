from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.checkpoint import load
from common.errors import CheckpointError, InputError
from common.learning import pretraining
from common.learning.loop import Settings
from common.learning.pretraining import RECIPES, pretrain


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both recipes shrunk to four steps on coarse heads."""
    for task, recipe in RECIPES.items():
        stream = replace(recipe.stream, site="adult-a", spacing_mm=(4.0, 4.0), size=2, refresh=2, ahead=0)
        tiny = replace(recipe, steps=4, patch=16, stream=stream, settings=Settings(precision="fp32"))
        monkeypatch.setitem(pretraining.RECIPES, task, tiny)


@pytest.mark.parametrize("task", ["tissue", "glioma"])
def test_a_model_file_says_what_it_is(task: str, tmp_path: Path) -> None:
    said: list[str] = []
    path = pretrain(task=task, out=tmp_path / "m.safetensors", threads=1, workers=0, say=said.append)
    facts = load(path).provenance

    assert (facts["task"], facts["preset"], facts["steps"], facts["seed"]) == (task, "nano", 4, 1)
    assert facts["classes"] == len(facts["structures"]) + 1
    assert "4 steps" in said[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(task="glioma", out=tmp_path / "whole.safetensors", threads=1, workers=0)
    moved = pretraining._move
    calls: list[float] = []

    def stop_at_third_step(*args: object, share: float) -> None:
        calls.append(share)
        if len(calls) == 3:
            raise KeyboardInterrupt
        moved(*args, share=share)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "_move", stop_at_third_step)
    again = {"task": "glioma", "out": tmp_path / "split.safetensors", "threads": 1, "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        pretrain(**again, checkpoint_every=2)  # type: ignore[arg-type]
    monkeypatch.setattr(pretraining, "_move", moved)
    said: list[str] = []
    split = pretrain(**again, say=said.append)  # type: ignore[arg-type]

    expected, actual = load(whole).tensors, load(split).tensors
    assert said[0] == "going on at step 2 of 4"
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_number_of_processes_that_make_cases_does_not_matter(tmp_path: Path) -> None:
    one = pretrain(task="tissue", out=tmp_path / "one.safetensors", threads=1, workers=1)
    two = pretrain(task="tissue", out=tmp_path / "two.safetensors", threads=1, workers=2)

    expected, actual = load(one).tensors, load(two).tensors
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_draft_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "m.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(task="tissue", out=out, threads=1, workers=0)

    with pytest.raises(CheckpointError, match="another seed"):
        pretrain(task="tissue", out=out, seed=2, threads=1, workers=0)


def test_unknown_task_is_refused_by_naming_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tissue, glioma"):
        pretrain(task="stroke", out=tmp_path / "m.safetensors")
