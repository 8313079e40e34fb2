"""The first global model: fresh, shipped, or a file by its hash; the head is exchanged for another task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.checkpoint import load, save
from common.errors import CheckpointError
from common.models.network import build
from common.plan import Plan
from server.run import create, opened
from server.start import file_hash, first_model, starting_model
from tests.stub_sites import plan_of

TISSUE = plan_of(task__kind="tissue")
GLIOMA = plan_of()


def write_model(path: Path, plan: Plan, **facts: object) -> dict[str, Tensor]:
    """A model file of a plan's network, as pretraining writes one."""
    tensors = build(plan, seed=9).state_dict()
    save(path, tensors, {"preset": plan.model.preset, "task": plan.task.kind, **facts})
    return tensors


def by_hash(plan: Plan, path: Path) -> Plan:
    return plan.override({"model.start": f"sha256:{file_hash(path)}"})


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def test_scratch_is_fresh_seeded_and_has_a_new_head() -> None:
    one, again, other = (starting_model(plan) for plan in (GLIOMA, GLIOMA, plan_of(seed=2)))

    assert (one.new_head, one.origin) == (True, "fresh weights")
    assert one.digest == again.digest
    assert one.digest != other.digest


def test_a_model_of_another_task_lends_all_but_its_head(tmp_path: Path) -> None:
    file = tmp_path / "tissue.safetensors"
    given = write_model(file, TISSUE)
    start = starting_model(by_hash(GLIOMA, file), file)
    kept = {name for name, tensor in start.tensors.items() if same(tensor, given[name])}

    assert start.new_head is True
    assert kept >= {name for name in given if not name.startswith("head.")}
    assert {name for name in start.tensors if name.startswith("head.")} - kept
    assert start.origin == "tissue, pretrained for tissue"


def test_a_model_of_the_same_task_is_taken_whole(tmp_path: Path) -> None:
    file = tmp_path / "glioma.safetensors"
    given = write_model(file, GLIOMA)
    start = starting_model(by_hash(GLIOMA, file), file)

    assert start.new_head is False
    assert all(same(tensor, given[name]) for name, tensor in start.tensors.items())


@pytest.mark.parametrize("name", ["healthy", "glioma"])
def test_every_shipped_model_starts_a_run(name: str) -> None:
    assert starting_model(plan_of(model__start=name)).new_head is (name == "healthy")


def test_a_file_that_is_not_the_plans_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    write_model(file, GLIOMA)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: is not the model that the plan names"):
        starting_model(plan_of(model__start="sha256:" + "0" * 64), file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be read"):
        file_hash(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="give the file with --start FILE"):
        starting_model(plan_of(model__start="sha256:" + "0" * 64))


def test_a_model_that_does_not_say_its_task_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "nameless.safetensors"
    write_model(file, GLIOMA, task="weather")
    with pytest.raises(CheckpointError, match=r"nameless\.safetensors: does not say which task"):
        starting_model(by_hash(GLIOMA, file), file)


def test_a_model_of_another_preset_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "nano.safetensors"
    write_model(file, GLIOMA)
    base = by_hash(plan_of(model__preset="base"), file)
    with pytest.raises(CheckpointError, match="holds architecture 'nano', needed is 'base'"):
        starting_model(base, file)


def test_a_run_reads_its_first_model_back(tmp_path: Path) -> None:
    """Kept as round 0: the file that it came from may be gone when the run is resumed."""
    file = tmp_path / "glioma.safetensors"
    write_model(file, GLIOMA)
    plan = by_hash(GLIOMA, file)
    create(tmp_path / "run", plan, resume=False)
    with opened(tmp_path / "run") as run:
        (run.folder / "start.safetensors").write_bytes(file.read_bytes())
        made = first_model(run)
        (run.folder / "start.safetensors").unlink()
        read = first_model(run)

    assert (made.digest, made.new_head, made.origin) == (read.digest, read.new_head, read.origin)
    assert load(tmp_path / "run" / "checkpoints" / "round-0000.safetensors").provenance["round"] == 0
