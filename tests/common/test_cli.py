from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from common import cli, plan
from common.checkpoint import save
from common.data.phantom.writer import write_cohort
from common.data.volume import Volume, read_label, read_volume, write_volume
from common.models.unet import build_unet
from server.card import compose_card, lineage_of
from server.registry import make_release
from server.run import create

ROOMS = {
    "common": {"data", "evaluate", "plan", "predict", "pretrain"},
    "server": {"hub", "release", "rounds"},
    "client": {"site"},
    "simulation": {"demo", "phantom", "report", "simulate", "study"},
}
SLOW_TO_IMPORT = ("torch", "flwr", "monai", "scipy", "nibabel", "matplotlib")


@dataclass(frozen=True)
class Ended:
    """What a command left: exit status and what it said."""

    status: int
    out: str
    err: str


Fedglia = Callable[..., Ended]


@pytest.fixture
def fedglia(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fedglia:
    """Runs the command in this process, as the shell would: `fedglia("plan", "check", "demo")`."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fedglia", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ended(int(caught.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom cases at 4 mm."""
    return write_cohort(
        tmp_path_factory.mktemp("phantoms") / "ssa", site="ssa", cases=2, seed=3, spacing_mm=4
    )


@pytest.fixture
def cohort(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of the phantom cases that a test may break."""
    return Path(shutil.copytree(phantoms, tmp_path / "cohort"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that knows nothing."""
    path = tmp_path_factory.mktemp("models") / "fresh.safetensors"
    network = build_unet("nano", in_channels=4, classes=4, seed=0)
    facts = {"preset": "nano", "task": "glioma", "spacing_mm": 4.0}
    save(path, network.state_dict(), facts)
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run directory with one release, `smoke-r1`."""
    folder, wanted = tmp_path / "run", plan.load("smoke")
    create(folder, wanted, resume=False)
    sites = {"adult": {"phantom": True}, "ssa": {"phantom": True}}
    folded = {"round": 1, "sites": {site: {"outcome": "folded"} for site in sites}}
    about = {"name": wanted.name, "sha256": wanted.sha256}
    summary = {"plan": about, "sites": sites, "rounds": [folded]}
    lineage = lineage_of(summary, round_number=1, preset="nano", task="glioma", start="fresh weights")
    network = build_unet("nano", in_channels=4, classes=4, seed=0)
    card = compose_card("smoke", "r1", lineage=lineage, summary=summary)
    make_release(folder, "smoke", version="r1", tensors=network.state_dict(), lineage=lineage, card=card)
    return folder


def commands(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    """Every command below a group, as the words that call it."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = (*before, name)
        found += [words, *(commands(command, *words) if isinstance(command, click.Group) else [])]
    return found


def in_a_process(*words: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command, or a piece of Python, in a process of its own."""
    script = [sys.executable, "-c", code or "from common.cli import main; main()", *words]
    return subprocess.run(
        script, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}, check=False
    )


# Help


def test_help_lists_every_rooms_commands_under_who_uses_them() -> None:
    said = CliRunner().invoke(cli.fedglia, ["--help"])
    assert said.exit_code == 0
    for audience in ("Hospital and coordinator:", "Coordinator:", "Researcher:"):
        assert audience in said.output
    for names in ROOMS.values():
        assert all(f"\n  {name} " in said.output for name in names)


def test_every_installed_command_is_listed_under_someone() -> None:
    listed = {name for _, rows in cli.AUDIENCES for name, _ in rows}
    assert listed == set().union(*ROOMS.values())
    assert set(cli.fedglia.list_commands(click.Context(cli.fedglia))) == listed


@pytest.mark.parametrize("absent", ["server", "simulation"])
def test_a_room_that_is_not_installed_is_not_listed(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == absent else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    said = CliRunner().invoke(cli.fedglia, ["--help"])
    for room, names in ROOMS.items():
        assert all((f"\n  {name} " in said.output) == (room != absent) for name in names)
    refused = CliRunner().invoke(cli.fedglia, [sorted(ROOMS[absent])[0]])
    assert refused.exit_code == 2
    assert "No such command" in refused.output


@pytest.mark.parametrize("words", commands(cli.fedglia), ids=" ".join)
def test_every_command_explains_itself(words: Sequence[str]) -> None:
    said = CliRunner().invoke(cli.fedglia, [*words, "--help"])
    assert said.exit_code == 0
    assert said.output.startswith("Usage: ")
    assert "\\b" not in said.output


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "check", "demo"], ["simulate", "--help"], ["release", "--help"]]
)
def test_what_needs_no_network_library_answers_without_one(words: list[str]) -> None:
    code = (
        "import sys\nfrom common.cli import main\ntry:\n    main()\nfinally:\n"
        f"    print([name for name in {SLOW_TO_IMPORT} if name in sys.modules])"
    )
    ended = in_a_process(*words, code=code)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert ended.returncode == 0


# Exit statuses, as the shell sees them


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["plan", "check", "demo"], 0, "demo: a valid plan for adult-a, adult-b, ssa; hash "),
        (["plan", "check", "nothing"], 2, "error: there is no plan 'nothing'"),
        (["data", "check", "nothing"], 2, "FAIL  nothing: no such file or folder"),
        (["nothing"], 2, "No such command 'nothing'"),
        (["release", "list", "nothing"], 2, "error: 'nothing' is no run directory"),
    ],
)
def test_the_shell_is_told_how_it_ended(words: list[str], status: int, said: str, tmp_path: Path) -> None:
    ended = in_a_process(*words)
    assert ended.returncode == status
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(
    fedglia: Fedglia, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> plan.Plan:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "load", interrupted)
    ended = fedglia("plan", "check", "demo")
    assert ended.status == 130
    assert "--resume" in ended.err


# Plans


def test_a_shown_plan_is_a_plan_with_the_same_hash(fedglia: Fedglia, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(fedglia("plan", "show", "glioma").out)
    shown = json.loads(fedglia("plan", "show", "glioma", "--json").out)
    printed = fedglia("plan", "hash", "glioma").out.strip()
    assert shown == plan.load("glioma").as_dict()
    assert printed == plan.load("glioma").sha256
    assert fedglia("plan", "hash", tmp_path / "mine.toml").out.strip() == printed


def test_shipped_plans_are_named_with_what_they_are_for(fedglia: Fedglia) -> None:
    lines = fedglia("plan", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(plan.shipped())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rounds]\nqorum = 1", "did you mean 'rounds.quorum'?"),
        ("[rounds]\nquorum = 'two'", "'rounds.quorum': must be a whole number"),
        ("", "rounds.quorum is 2, but the plan names 1 site(s)"),
    ],
)
def test_a_wrong_plan_ends_with_2_and_names_the_key(
    fedglia: Fedglia, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "mine.toml").write_text(f'schema = 1\nname = "mine"\n{text}\n[sites.a]\n')
    ended = fedglia("plan", "check", tmp_path / "mine.toml")
    assert ended.status == 2
    assert ended.err.startswith("error: mine.toml: ")
    assert said in ended.err


# Simulations that cannot start


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no plan 'nothing'"),
        (["smoke", "--set", "adaptation.localsteps=3"], "did you mean 'adaptation.local_steps'?"),
        (["smoke", "--set", "rounds.count=many"], "'rounds.count': must be a whole number; found 'many'"),
        (["smoke", "--set", "rounds.count"], "--set rounds.count: write it as NAME=VALUE"),
        (["smoke", "--site", "adults=COHORT"], "no site 'adults'; did you mean 'adult'?"),
        (["smoke", "--site", "adult=COHORT"], "site 'ssa' of plan smoke has no cases: add --site ssa=FOLDER"),
        (["smoke", "--site", "adult=COHORT", "--site", "adult=COHORT"], "--site adult is given twice"),
        (["smoke", "--site", "adult=COHORT", "--site", "ssa=nothing"], "nothing: no such folder of scans"),
        (["smoke", "--degrade", "ssa=ssa-1.5"], "no degradation 'ssa-1.5'; did you mean 'ssa-1.5T'?"),
        (["smoke", "--set", "sites.ssa.phantom='sssa'"], "there is no phantom 'sssa'; did you mean 'ssa'?"),
        (["smoke", "--start", "nothing"], "nothing: cannot be read"),
    ],
)
def test_a_simulation_that_cannot_start_ends_with_2_and_makes_nothing(
    fedglia: Fedglia, cohort: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    given = [word.replace("COHORT", str(cohort)) for word in words]
    ended = fedglia("simulate", *given, "--out", tmp_path / "run")
    assert ended.status == 2
    assert said in ended.err
    assert not (tmp_path / "run").exists()


def simulate_on(fedglia: Fedglia, cohort: Path) -> Ended:
    """A simulation whose two sites read the same folder."""
    out = cohort.parent / "run"
    sites = [f"--site=adult={cohort}", f"--site=ssa={cohort}"]
    ended = fedglia("simulate", "smoke", *sites, "--out", out)
    assert not out.exists()
    return ended


def test_a_folder_without_labels_ends_with_2_and_is_named(fedglia: Fedglia, cohort: Path) -> None:
    for label in cohort.rglob("*-seg.nii.gz"):
        label.unlink()
    ended = simulate_on(fedglia, cohort)
    assert ended.status == 2
    assert "cohort adult: 0 labelled patients; at least 2 are needed" in ended.err


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("ET = 4", "case BraTS-SSA-00001-000: label code 3 is not in the cohort's label map"),
        ("XX = 3", "its label map {'NCR': 1, 'ED': 2, 'XX': 3} has no ET"),
    ],
)
def test_a_label_map_that_does_not_fit_ends_with_2_and_names_what(
    fedglia: Fedglia, cohort: Path, declared: str, said: str
) -> None:
    toml = cohort / "cohort.toml"
    toml.write_text(toml.read_text().replace("ET = 3", declared))
    ended = simulate_on(fedglia, cohort)
    assert ended.status == 2
    assert said in ended.err
    assert "cohort.toml" in ended.err


def test_a_run_is_not_mixed_with_what_is_there(fedglia: Fedglia, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for out in (tmp_path, tmp_path / "notes"):
        ended = fedglia("simulate", "smoke", "--out", out)
        assert ended.status == 2
        assert "notes" in ended.err
    assert (tmp_path / "notes").read_text() == "mine"
    assert not (tmp_path / "run.json").exists()


# Scans


def test_good_scans_pass(fedglia: Fedglia, cohort: Path) -> None:
    ended = fedglia("data", "check", cohort)
    assert ended.status == 0
    assert ended.out.count("PASS") == 2
    assert "FAIL" not in ended.out


def test_bad_scans_are_named_beside_the_good_ones(fedglia: Fedglia, cohort: Path) -> None:
    (cohort / "BraTS-SSA-00001-000" / "BraTS-SSA-00001-000-t2f.nii.gz").write_bytes(b"no scan")
    ended = fedglia("data", "check", cohort, "--json")
    findings = json.loads(ended.out)
    failed = [finding for finding in findings if finding["level"] == "FAIL"]
    passed = [finding["case"] for finding in findings if finding["level"] == "PASS"]
    assert ended.status == 2
    assert {finding["case"] for finding in failed} == {"BraTS-SSA-00001-000"}
    assert all(set(finding) == {"level", "case", "code", "text"} for finding in findings)
    assert passed == ["BraTS-SSA-00002-000"]


def test_single_files_are_looked_at_too(fedglia: Fedglia, cohort: Path) -> None:
    label = cohort / "BraTS-SSA-00001-000" / "BraTS-SSA-00001-000-seg.nii.gz"
    (cohort / "broken.nii").write_bytes(b"\0" * 400)
    ended = fedglia("data", "check", label, cohort / "broken.nii")
    assert ended.status == 2
    assert "label codes [0, 1, 2, 3]" in ended.out
    assert "FAIL  broken.nii" in ended.out


def test_the_folder_i_stand_in_has_a_name(
    fedglia: Fedglia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"FAIL  {tmp_path.name}: no case found" in fedglia("data", "check", ".").out


def test_phantoms_are_what_they_say(fedglia: Fedglia, tmp_path: Path) -> None:
    words = ["--site", "adult-b", "--cases", 1, "--seed", 5, "--spacing", 4]
    assert fedglia("phantom", tmp_path / "one", *words).status == 0
    assert fedglia("phantom", tmp_path / "two", *words).status == 0
    (label,) = (tmp_path / "one").rglob("*-seg.nii.gz")
    again = tmp_path / "two" / label.relative_to(tmp_path / "one")
    assert np.array_equal(read_label(label).array, read_label(again).array)
    assert read_label(label).spacing_mm == pytest.approx((4, 4, 4))
    assert fedglia("data", "check", tmp_path / "one").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--site", "sssa"], "no phantom site is called 'sssa'"),
        (["--cases", "0"], "'--cases'"),
        (["--spacing", "9"], "'--spacing'"),
    ],
)
def test_a_phantom_that_cannot_be_made_ends_with_2(
    fedglia: Fedglia, tmp_path: Path, words: list[str], said: str
) -> None:
    ended = fedglia("phantom", tmp_path / "out", *words)
    assert ended.status == 2
    assert said in ended.err


def test_phantoms_are_not_mixed_with_what_is_there(fedglia: Fedglia, cohort: Path) -> None:
    ended = fedglia("phantom", cohort, "--cases", 1)
    assert ended.status == 2
    assert "is not empty" in ended.err


# Prediction and evaluation


def test_label_maps_keep_each_scans_shape_and_affine(
    fedglia: Fedglia, cohort: Path, model: Path, tmp_path: Path
) -> None:
    ended = fedglia("predict", cohort, tmp_path / "found", "--model", model)
    assert ended.status == 0
    assert "[2/2] BraTS-SSA-00002-000" in ended.err
    for case in ("BraTS-SSA-00001-000", "BraTS-SSA-00002-000"):
        scan = read_volume(cohort / case / f"{case}-t1n.nii.gz")
        found = read_label(tmp_path / "found" / f"{case}-seg.nii.gz")
        assert found.shape == scan.shape
        assert np.allclose(found.affine, scan.affine, atol=1e-4)
        assert set(np.unique(found.array)) <= {0, 1, 2, 3}


def test_one_cases_folder_is_enough_and_a_bad_label_does_not_matter(
    fedglia: Fedglia, cohort: Path, model: Path, tmp_path: Path
) -> None:
    case = cohort / "BraTS-SSA-00001-000"
    label = read_label(case / f"{case.name}-seg.nii.gz")
    write_volume(case / f"{case.name}-seg.nii.gz", Volume(label.array[:-1], label.affine))
    ended = fedglia("predict", case, tmp_path / "found", "--model", model)
    assert ended.status == 0
    assert [path.name for path in (tmp_path / "found").iterdir()] == [f"{case.name}-seg.nii.gz"]


def test_a_broken_case_is_named_and_the_others_are_done(
    fedglia: Fedglia, cohort: Path, model: Path, tmp_path: Path
) -> None:
    (cohort / "BraTS-SSA-00001-000" / "BraTS-SSA-00001-000-t1c.nii.gz").write_bytes(b"no scan")
    ended = fedglia("predict", cohort, tmp_path / "found", "--model", model)
    assert ended.status == 2
    assert "refused: case BraTS-SSA-00001-000" in ended.err
    assert "1 label map(s)" in ended.out
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["BraTS-SSA-00002-000-seg.nii.gz"]


@pytest.mark.parametrize("inside", [".", "found", "BraTS-SSA-00001-000"])
def test_label_maps_are_never_written_among_the_scans(
    fedglia: Fedglia, cohort: Path, model: Path, inside: str
) -> None:
    before = sorted(cohort.rglob("*"))
    ended = fedglia("predict", cohort, cohort / inside, "--model", model)
    assert ended.status == 2
    assert "lies inside IN" in ended.err
    assert sorted(cohort.rglob("*")) == before


@pytest.mark.parametrize("among", ["maps", "BraTS-SSA-00002-000", "BraTS-SSA-00002-000/maps", "."])
def test_label_maps_of_one_case_are_not_written_among_the_others(
    fedglia: Fedglia, cohort: Path, model: Path, among: str
) -> None:
    before = sorted(cohort.rglob("*"))
    ended = fedglia("predict", cohort / "BraTS-SSA-00001-000", cohort / among, "--model", model)
    assert ended.status == 2
    assert "lies among the scans of" in ended.err
    assert sorted(cohort.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(fedglia: Fedglia, cohort: Path, model: Path) -> None:
    target = cohort.parent / "taken"
    target.write_text("a file")
    ended = fedglia("predict", cohort, target, "--model", model)
    assert ended.status == 2
    assert "error: taken: " in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no model 'mine.safetensors'"), (b"no model", "not a safetensors file")],
)
def test_a_wrong_model_ends_with_2(
    fedglia: Fedglia, cohort: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "mine.safetensors"
    if content is not None:
        path.write_bytes(content)
    for words in (["predict", cohort, tmp_path / "found", "--model", path], ["evaluate", path, cohort]):
        ended = fedglia(*words)
        assert ended.status == 2
        assert said in ended.err


def test_a_model_is_compared_with_the_expert_case_by_case(
    fedglia: Fedglia, cohort: Path, model: Path
) -> None:
    ended = fedglia("evaluate", model, cohort, "--json")
    found = json.loads(ended.out)
    assert ended.status == 0
    assert list(found["cases"]) == ["BraTS-SSA-00001-000", "BraTS-SSA-00002-000"]
    assert list(found["mean_dice"]) == ["NCR", "ED", "ET", "TC", "WT"]
    whole = [case["WT"]["dice"] for case in found["cases"].values()]
    assert found["mean_dice"]["WT"] == pytest.approx(np.mean(whole))
    assert all(0 <= dice <= 1 for dice in whole)
    table = fedglia("evaluate", model, cohort).out.splitlines()
    assert [line.split()[0] for line in table] == ["Dice", *found["cases"], "mean"]


def test_degraded_scans_give_other_numbers(fedglia: Fedglia, cohort: Path, model: Path) -> None:
    plain = json.loads(fedglia("evaluate", model, cohort, "--json").out)
    degraded = json.loads(fedglia("evaluate", model, cohort, "--json", "--degrade", "ultra-low").out)
    assert degraded["cases"] != plain["cases"]


@pytest.mark.parametrize("degrade", [None, "ultra-lo"])
def test_what_cannot_be_compared_ends_with_2(
    fedglia: Fedglia, cohort: Path, model: Path, degrade: str | None
) -> None:
    if degrade is None:
        for label in cohort.rglob("*-seg.nii.gz"):
            label.unlink()
    ended = fedglia("evaluate", model, cohort, *(["--degrade", degrade] if degrade else []))
    assert ended.status == 2
    assert ("no degradation is called 'ultra-lo'" if degrade else "cohort: no case has a label") in ended.err


# Releases


def test_a_release_is_listed_shown_and_exported(fedglia: Fedglia, run_folder: Path, tmp_path: Path) -> None:
    listed = fedglia("release", "list", run_folder)
    assert listed.out.startswith("smoke-r1  round 1, plan smoke ")
    assert json.loads(fedglia("release", "list", run_folder, "--json").out)[0]["name"] == "smoke"
    shown = fedglia("release", "show", run_folder, "smoke-r1")
    assert shown.out.startswith("# smoke r1")
    assert json.loads(fedglia("release", "show", run_folder, "smoke-r1", "--json").out)["round"] == 1
    exported = fedglia("release", "export", run_folder, "smoke-r1", tmp_path / "out")
    assert exported.status == 0
    files = sorted(path.name for path in (tmp_path / "out" / "smoke-r1").iterdir())
    assert files == ["lineage.json", "model-card.md", "model.safetensors"]


def test_a_damaged_or_unknown_release_ends_with_2(fedglia: Fedglia, run_folder: Path, tmp_path: Path) -> None:
    assert "there are: smoke-r1" in fedglia("release", "show", run_folder, "smoke-r2").err
    with (run_folder / "releases" / "smoke-r1" / "model-card.md").open("a") as card:
        card.write("better than it is")
    ended = fedglia("release", "export", run_folder, "smoke-r1", tmp_path / "out")
    assert ended.status == 2
    assert "model-card.md is not the one" in ended.err


def test_a_run_without_a_release_says_so(fedglia: Fedglia, run_folder: Path) -> None:
    shutil.rmtree(run_folder / "releases")
    assert fedglia("release", "list", run_folder).out.startswith("no release yet")
