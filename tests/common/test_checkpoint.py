from __future__ import annotations

import hashlib
import os
import resource
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from common import checkpoint
from common.checkpoint import (
    check_architecture,
    fingerprint,
    load,
    save,
)
from common.errors import CheckpointError, RunError

STATE = {
    "encoder.weight": torch.linspace(-3, 3, 24).reshape(2, 3, 4),
    "encoder.empty": torch.zeros(0, 4),
    "head.bias": torch.tensor(0.5),
    "steps": torch.tensor([7], dtype=torch.int64),
    "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
}
PROVENANCE = {"preset": "nano", "plan": {"name": "demo", "sha256": "ab" * 32}, "round": 3, "site": "Køge"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "round-0003.safetensors"
    save(path, STATE, PROVENANCE)
    return path


def test_tensors_and_provenance_come_back(saved: Path) -> None:
    loaded = load(saved, fingerprint=fingerprint(STATE, preset="nano"))

    assert loaded.tensors.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    assert loaded.provenance | PROVENANCE == loaded.provenance


def test_saving_leaves_one_file(saved: Path) -> None:
    save(saved, STATE, PROVENANCE)

    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_loaded_tensors_do_not_depend_on_the_file(saved: Path) -> None:
    tensors = load(saved).tensors
    with saved.open("r+b") as handle:
        handle.truncate(0)

    assert torch.equal(tensors["encoder.weight"], STATE["encoder.weight"])


def test_tensors_that_share_memory_and_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save(tmp_path / "m", {"a": base, "b": base.T}, {})

    assert torch.equal(load(tmp_path / "m").tensors["b"], base.T)


def test_float16_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    state = {"w": torch.randn(5000, generator=torch.Generator().manual_seed(1)), "n": torch.tensor([3])}
    save(tmp_path / "full", state, {})
    save(tmp_path / "half", state, {}, storage="float16")
    loaded = load(tmp_path / "half").tensors

    assert (tmp_path / "half").stat().st_size < 0.53 * (tmp_path / "full").stat().st_size
    assert loaded["w"].dtype == torch.float32
    assert torch.equal(loaded["w"], state["w"].half().float())
    assert torch.equal(loaded["n"], state["n"])


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'w' holds a value beyond 65504"):
        save(tmp_path / "m", {"w": torch.tensor([7e4])}, {}, storage="float16")


def test_provenance_must_be_json(tmp_path: Path) -> None:
    for value in (object(), float("nan")):
        with pytest.raises(CheckpointError, match="provenance is not JSON"):
            save(tmp_path / "m", {}, {"x": value})


def test_fingerprint_is_of_the_architecture_alone() -> None:
    base = fingerprint(STATE, preset="nano")
    halves = {name: tensor.to(torch.float16) for name, tensor in reversed(STATE.items())}

    assert fingerprint(halves, preset="nano") == base
    assert fingerprint(STATE, preset="base") != base
    assert fingerprint({**STATE, "x": torch.zeros(1)}, preset="nano") != base
    assert fingerprint({**STATE, "head.bias": torch.zeros(1)}, preset="nano") != base


def test_another_architecture_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"round-0003\.safetensors: holds architecture 'nano'"):
        load(saved, fingerprint=fingerprint(STATE, preset="base"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.weight": torch.zeros(6, 4)}, r"'encoder.weight': expected \(6, 4\), found \(2, 3, 4\)"),
        ({"decoder.bias": torch.zeros(1)}, r"'decoder.bias': expected \(1,\), found none"),
    ],
)
def test_the_first_differing_tensor_is_named(saved: Path, change: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"architecture 'nano', needed is 'base'.*{words}"):
        check_architecture(load(saved), {**STATE, **change}, preset="base")


def test_a_tensor_too_many_is_named(saved: Path) -> None:
    needed = {name: tensor for name, tensor in STATE.items() if name != "steps"}

    with pytest.raises(CheckpointError, match=r"'steps': expected none, found \(1,\)"):
        check_architecture(load(saved), needed, preset="nano")
    check_architecture(load(saved), STATE, preset="nano")


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(saved)


@given(st.integers(0, 10**9), st.integers(0, 7))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_never_gives_another_model(saved: Path, position: int, bit: int) -> None:
    whole = bytearray(saved.read_bytes())
    whole[position % len(whole)] ^= 1 << bit
    damaged = saved.with_name("damaged")
    damaged.write_bytes(whole)

    try:
        loaded = load(damaged)
    except CheckpointError:
        return
    # Only bits that carry nothing (padding, the unused "format" note) may go unnoticed.
    assert loaded.provenance | PROVENANCE == loaded.provenance
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in STATE.items())


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"^model.safetensors: there is no such model file"):
        load(path)
    for content in (b"", b"PK\x03\x04 a zip file, as torch writes", struct.pack("<Q", 10**18), b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            load(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="was not written by FedGlia"):
        load(path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CheckpointError, match="no such model file"):
        load(tmp_path / "pipe")


def test_a_file_above_the_ceiling_is_not_opened(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 100)

    with pytest.raises(CheckpointError, match="at most 100"):
        load(saved)


def test_a_write_cut_short_by_the_system_leaves_no_litter(saved: Path) -> None:
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            save(saved, {"w": torch.zeros(100_000)}, PROVENANCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_provenance_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m"
    save_file({}, path, metadata={"provenance": text, "checksum": hashlib.sha256(text.encode()).hexdigest()})

    with pytest.raises(CheckpointError, match="not a JSON object"):
        load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(saved: Path) -> None:
    saved.chmod(0)

    with pytest.raises(CheckpointError, match="cannot be read"):
        load(saved)
