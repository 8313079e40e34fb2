"""A release that is received is the one that was made, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.checkpoint import save
from common.errors import CheckpointError, InputError
from common.releases import Release, copy_release, read_release, verify
from server.registry import make_release

PLAN = {"name": "demo", "sha256": "5c" * 32}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    folder = make_release(
        tmp_path,
        "demo",
        version="1.0.0",
        tensors={"encoder.weight": torch.arange(6.0)},
        lineage={"plan": PLAN, "preset": "nano"},
        card="# demo",
    )
    return read_release(folder)


def test_a_release_verifies_and_knows_its_title(release: Release) -> None:
    verify(release)
    assert release.title == "demo-1.0.0"
    assert release.card == "# demo"


def test_a_copy_is_the_release_and_verifies(release: Release, tmp_path: Path) -> None:
    copy = copy_release(release, tmp_path / "out")

    originals = sorted(file.name for file in release.folder.iterdir())
    assert sorted(file.name for file in copy.iterdir()) == originals
    assert all((copy / name).read_bytes() == (release.folder / name).read_bytes() for name in originals)
    verify(read_release(copy))
    with pytest.raises(InputError, match="already"):
        copy_release(release, tmp_path / "out")


def tamper_model(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def tamper_card(folder: Path) -> None:
    (folder / "model-card.md").write_text("CE-marked")


def swap_model(folder: Path) -> None:
    save(folder / "model.safetensors", {"w": torch.zeros(1)}, {"plan": PLAN})


def lose_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("tamper", [tamper_model, tamper_card, swap_model, lose_model])
def test_a_changed_release_is_not_copied(
    release: Release, tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    tamper(release.folder)

    with pytest.raises(CheckpointError, match=r"release demo-1\.0\.0: model"):
        copy_release(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def relabel(release: Release, **changes: object) -> None:
    file = release.folder / "lineage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_lineage_of_another_plan_is_noticed(release: Release) -> None:
    relabel(release, plan={**PLAN, "sha256": "00" * 32})

    with pytest.raises(CheckpointError, match="comes from another plan"):
        verify(read_release(release.folder))


@pytest.mark.parametrize("name", ["../../evil", "", ".", "a/b"])
def test_a_name_that_is_a_path_is_refused(release: Release, name: str) -> None:
    relabel(release, name=name)

    with pytest.raises(InputError, match="a name that no release can have"):
        read_release(release.folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "demo"}', "[" * 100_000])
def test_a_broken_lineage_is_named(release: Release, text: str) -> None:
    (release.folder / "lineage.json").write_text(text)

    with pytest.raises(InputError, match=r"its lineage\.json cannot be read"):
        read_release(release.folder)
