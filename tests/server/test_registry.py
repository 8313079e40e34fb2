from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from common.checkpoint import load
from common.errors import CheckpointError, InputError
from common.releases import digest, verify
from server import cli
from server.card import INTENDED_USE, PHANTOM_SENTENCE, compose_card, lineage_of
from server.registry import list_releases, make_release, show

TENSORS = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}
PLAN = {"name": "demo", "sha256": "5c" * 32}


def scores(dice: float | None) -> dict[str, Any]:
    return {"dice": {"NCR": dice, "ET": 0.5, "mean": 0.4}, "hd95_mm": {"NCR": 3.0}}


def summary(*, phantom: bool = True) -> dict[str, Any]:
    folded = {"outcome": "folded", "reason": None}
    return {
        "plan": PLAN,
        "rounds": [
            {"round": 1, "sites": {"adult-a": folded, "ssa": folded}},
            {"round": 2, "sites": {"adult-a": folded, "ssa": {"outcome": "refused", "reason": "norm"}}},
            {"round": 3, "sites": {"adult-a": folded, "ssa": {"outcome": "late", "reason": None}}},
            {"round": 4, "sites": {"adult-a": folded}},
        ],
        "sites": {
            "adult-a": {
                "phantom": phantom,
                "field_strength_t": 3.0,
                "cases": {"test": 4},
                "before": scores(0.1),
                "federated": scores(0.7),
            },
            "ssa": {"field_strength_t": None, "cases": None, "before": scores(None)},
        },
    }


def lineage(*, phantom: bool = True, round_number: int = 2) -> dict[str, Any]:
    return lineage_of(
        summary(phantom=phantom),
        round_number=round_number,
        preset="nano",
        task="glioma",
        start="healthy-nano, pretrained for tissue",
    )


def card(**options: bool) -> str:
    return compose_card("demo", "1.0.0", lineage=lineage(**options), summary=summary(**options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path)


def made(run: Path) -> Path:
    return make_release(run, "demo", version="1.0.0", tensors=TENSORS, lineage=lineage(), card=card())


def test_a_release_is_three_files_that_agree(folder: Path, tmp_path: Path) -> None:
    assert folder == tmp_path / "releases" / "demo-1.0.0"
    assert sorted(file.name for file in folder.iterdir()) == [
        "lineage.json",
        "model-card.md",
        "model.safetensors",
    ]
    assert [file.name for file in folder.parent.iterdir()] == ["demo-1.0.0"]
    told = json.loads((folder / "lineage.json").read_text())
    assert told["model"]["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (told["plan"], told["round"], told["subset_rounds"]) == (PLAN, 2, [2])
    verify(show(tmp_path, "demo-1.0.0"))


def test_the_model_can_be_loaded_and_says_where_it_is_from(folder: Path) -> None:
    checkpoint = load(folder / "model.safetensors")

    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert checkpoint.provenance["plan"] == PLAN
    assert checkpoint.provenance["preset"] == "nano"


def test_lineage_names_who_was_in_each_round() -> None:
    rounds = lineage(round_number=4)["rounds"]

    assert [record["folded"] for record in rounds] == [["adult-a", "ssa"], *[["adult-a"]] * 3]
    assert [record["absent"] for record in rounds] == [
        {},
        {"ssa": "refused (norm)"},
        {"ssa": "late"},
        {"ssa": "not there"},
    ]
    assert [record["round"] for record in lineage(round_number=1)["rounds"]] == [1]


def test_the_card_says_what_it_must() -> None:
    text = card()

    for fact in (
        f"The scans of adult-a {PHANTOM_SENTENCE}",
        INTENDED_USE,
        PLAN["sha256"],
        "healthy-nano, pretrained for tissue",
    ):
        assert fact in text
    assert "- round 2: adult-a; **subset**, without ssa refused (norm)" in text
    assert "Merged from a subset of the sites: rounds 2." in text
    assert "| adult-a | 3 T | 4 | federated | 0.700 | 0.500 | 0.400 |" in text
    assert "| ssa | not stated | - | before | - | 0.500 | 0.400 |" in text
    assert "not been validated for clinical use" in text


def test_real_scans_are_not_called_phantoms() -> None:
    assert PHANTOM_SENTENCE not in card(phantom=False)


def test_a_card_without_results_or_rounds() -> None:
    bare = {**summary(), "rounds": [], "sites": {"ssa": {}}}
    text = compose_card(
        "demo",
        "0",
        lineage=lineage_of(bare, round_number=0, preset="nano", task="glioma", start="x"),
        summary=bare,
    )

    assert "Not measured." in text
    assert "- none: this is the first model" in text


def test_a_release_is_never_changed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"release demo-1\.0\.0 exists"):
        make_release(tmp_path, "demo", version="1.0.0", tensors=TENSORS, lineage=lineage(), card="other")


@pytest.mark.parametrize(
    ("name", "version"), [("../x", "1"), ("", "1"), ("Demo", "1"), ("demo", "../1"), ("demo", "")]
)
def test_names_that_are_paths_are_refused(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(InputError, match="a release is named by"):
        make_release(tmp_path, name, version=version, tensors=TENSORS, lineage=lineage(), card="")
    assert list(tmp_path.iterdir()) == []


def test_a_release_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        make_release(tmp_path, "demo", version="1", tensors=TENSORS, lineage={"plan": object()}, card="")
    assert list((tmp_path / "releases").iterdir()) == []


def test_releases_are_listed_and_found(folder: Path, tmp_path: Path) -> None:
    make_release(tmp_path, "demo", version="1.1", tensors=TENSORS, lineage=lineage(), card=card())

    assert [release.title for release in list_releases(tmp_path)] == ["demo-1.0.0", "demo-1.1"]
    assert list_releases(tmp_path / "elsewhere") == ()
    assert show(tmp_path, "demo-1.1").card == card()
    with pytest.raises(InputError, match=r"no release 'demo-2'; there are: demo-1\.0\.0, demo-1\.1"):
        show(tmp_path, "demo-2")


def test_a_broken_lineage_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "lineage.json").write_text("{")
    with pytest.raises(InputError, match=r"release demo-1\.0\.0: its lineage\.json cannot be read"):
        list_releases(tmp_path)

    shutil.rmtree(folder)
    assert list_releases(tmp_path) == ()


def test_a_run_at_the_hub_is_meant_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    run = hub / "runs" / "demo-1"
    made(run)
    (run / "run.json").write_text("{}")
    (hub / "hub.toml").write_text('address = "hub:443"\n[ports]\nedge = 443\nlink = 2000\nhealth = 2001\n')

    def asked(*words: str | Path) -> str:
        done = CliRunner().invoke(cli.release, list(map(str, words)), catch_exceptions=False)
        return done.output

    title = "demo-1.0.0"
    assert asked("list", "demo-1", "--hub", hub).startswith(title)
    assert asked("list", run).startswith(title)
    monkeypatch.setenv("FEDGLIA_HUB", str(hub))
    assert asked("list", "demo-1").startswith(title)
    with pytest.raises(InputError, match="no run of this hub; there are: demo-1"):
        asked("list", "demo-2")
    monkeypatch.delenv("FEDGLIA_HUB")
    with pytest.raises(InputError, match="no run directory, and no hub is named"):
        asked("list", "demo-1")


def test_an_exported_release_lies_in_the_folder_that_was_named(tmp_path: Path) -> None:
    made(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    sha256 = digest(tmp_path / "run" / "releases" / "demo-1.0.0" / "model.safetensors")
    for out in ("stick", "mail/demo-1.0.0"):
        words = ["export", str(tmp_path / "run"), "demo-1.0.0", str(tmp_path / out)]
        said = CliRunner().invoke(cli.release, words, catch_exceptions=False)
        assert said.output.endswith(f"SHA-256 of its model.safetensors: {sha256}\n")

    words = ["show", str(tmp_path / "run"), "demo-1.0.0"]
    assert sha256 in CliRunner().invoke(cli.release, words, catch_exceptions=False).output
    found = [file.parent for file in tmp_path.glob("**/lineage.json") if "releases" not in file.parts]
    assert sorted(found) == [tmp_path / "mail" / "demo-1.0.0", tmp_path / "stick" / "demo-1.0.0"]
