"""A release that comes back to a site: the one that was exported, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from client.cli import site as commands
from client.join import init_site
from client.receiving import receive, words
from client.settings import edited, policy_of
from client.site import Site, open_site
from common.checkpoint import load
from common.errors import CheckpointError, InputError
from common.models.network import build_for
from common.releases import copy_release, read_release
from server.registry import make_release

PLAN = {"name": "demo", "sha256": "5c" * 32}
ROUNDS = [
    {"round": 1, "folded": ["ssa", "adult-a"], "absent": {}},
    {"round": 2, "folded": ["adult-a"], "absent": {"ssa": "late"}},
]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "scans").mkdir()
    init_site(tmp_path / "site", hub="hub:443", name="ssa", data=tmp_path / "scans")
    return open_site(tmp_path / "site")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    model = build_for("nano", "glioma", seed=1).state_dict()
    lineage = {
        "plan": PLAN,
        "preset": "nano",
        "task": "glioma",
        "spacing_mm": 4.0,
        "rounds": ROUNDS,
        "subset_rounds": [2],
    }
    made = make_release(tmp_path / "run", "demo", version="1", tensors=model, lineage=lineage, card="# demo")
    return copy_release(read_release(made), tmp_path / "stick")


def test_a_release_is_kept_whole_and_noted(site: Site, exported: Path) -> None:
    found = receive(site, exported)

    assert found.folder == site.folder / "releases" / "demo-1"
    given, kept = (load(folder / "model.safetensors").tensors for folder in (exported, found.folder))
    assert all(torch.equal(given[name], kept[name]) for name in given)
    (line,) = (site.folder / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "model received"
    assert json.loads(line)["sha256"] == found.lineage["model"]["sha256"]


def test_received_again_nothing_changes(site: Site, exported: Path) -> None:
    receive(site, exported)
    before = (site.folder / "releases" / "demo-1" / "model.safetensors").stat().st_mtime_ns
    receive(site, exported)

    assert (site.folder / "releases" / "demo-1" / "model.safetensors").stat().st_mtime_ns == before
    assert len((site.folder / "audit.jsonl").read_text().splitlines()) == 1


def test_a_kept_release_that_was_damaged_is_found_when_it_is_received_again(
    site: Site, exported: Path
) -> None:
    kept = receive(site, exported)
    (kept.folder / "model-card.md").write_text("CE-marked")

    with pytest.raises(CheckpointError, match=r"model-card\.md is not the one"):
        receive(site, exported)


def test_a_damaged_release_is_refused_and_leaves_nothing(site: Site, exported: Path) -> None:
    content = bytearray((exported / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (exported / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the one that lineage\.json"):
        receive(site, exported)
    assert list((site.folder / "releases").iterdir()) == []
    assert not (site.folder / "audit.jsonl").exists()


def test_a_damaged_one_is_refused_also_if_the_release_is_here_already(site: Site, exported: Path) -> None:
    receive(site, exported)
    (exported / "model-card.md").write_text("CE-marked")

    with pytest.raises(CheckpointError, match=r"model-card\.md is not the one"):
        receive(site, exported)


def test_the_folder_around_a_release_is_understood_if_it_holds_one(site: Site, exported: Path) -> None:
    assert receive(site, exported.parent).title == "demo-1"
    shutil.copytree(exported, exported.parent / "demo-2")

    with pytest.raises(InputError, match="holds several releases, give one of them: demo-1, demo-2"):
        receive(site, exported.parent)


def test_another_release_of_that_name_is_refused(site: Site, exported: Path) -> None:
    receive(site, exported)
    lineage = json.loads((exported / "lineage.json").read_text())
    (exported / "lineage.json").write_text(json.dumps({**lineage, "round": 9}))

    with pytest.raises(InputError, match="another release demo-1 is here already"):
        receive(site, exported)


def test_what_is_no_release_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lineage\.json cannot be read"):
        receive(site, tmp_path)
    with pytest.raises(InputError, match="give the folder"):
        receive(site, tmp_path / "nothing")


def test_its_history_is_told_for_this_site(site: Site, exported: Path) -> None:
    told = "\n".join(words(site, receive(site, exported)))

    assert "plan demo 5c5c5c5c5c5c, not approved here" in told
    assert "2 round(s) went into it; this site's updates are in 1 of them" in told
    assert "rounds 2 were merged from a part of the sites" in told
    with edited(site.folder) as document:
        policy_of(document)["approved"] = [{**{"plan": "demo", "sha256": PLAN["sha256"]}, "when": ""}]
    assert "5c5c, approved here" in "\n".join(words(open_site(site.folder), receive(site, exported)))


def test_the_command_says_how_to_predict_and_that_works(
    site: Site, exported: Path, tiny_cohorts: dict[str, Path], tmp_path: Path
) -> None:
    from common.commands import predict

    done = CliRunner().invoke(commands, ["receive", str(exported), "--site", str(site.folder)])
    assert done.exit_code == 0
    (line,) = [line for line in done.output.splitlines() if "fedglia predict" in line]
    model = line.split("--model ")[1]
    case = sorted(path for path in tiny_cohorts["ssa"].iterdir() if path.is_dir())[0]
    segmented = CliRunner().invoke(predict, [str(case), str(tmp_path / "maps"), "--model", model])

    assert segmented.exit_code == 0, segmented.output
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [f"{case.name}-seg.nii.gz"]
