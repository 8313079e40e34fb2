"""Study files: presets, refusals, and which cohorts are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from simulation.study.kinds import KINDS
from simulation.study.spec import PRESETS, Study, parse, read, resolve, shipped

RAW: dict[str, Any] = {
    "schema": 1,
    "name": "tiny",
    "kind": "none",
    "about": "a test",
    "source": "nobody",
    "cohorts": {
        "a": {"role": "source", "phantom": "adult-a", "cases": 4},
        "b": {"role": "source", "phantom": "adult-b", "cases": 4},
        "t": {"role": "target", "phantom": "ssa", "cases": 3},
    },
    "presets": {"small": {}, "smoke": {"cohorts": {"a": {"cases": 2}}}},
}


def tiny(preset: str = "small", **changes: object) -> Study:
    return parse({**RAW, **changes}, Study, preset=preset, origin="tiny.toml")


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_study_reads_in_every_preset(name: str, preset: str, tmp_path: Path) -> None:
    raw, origin = read(name)
    kind = KINDS[raw["kind"]]
    study = parse(raw, kind.study, preset=preset, origin=origin)
    data = resolve(study, tmp_path, {})
    kind.check(study, data)
    names = [job.name for job in kind.jobs(study, data)]
    assert len(names) == len(set(names)) > 3
    again = parse({**study.as_dict(), "presets": {preset: {}}}, kind.study, preset=preset, origin="again")
    assert again.sha256 == study.sha256


def test_a_preset_is_laid_over_key_by_key() -> None:
    assert tiny("smoke").cohorts["a"].cases == 2
    assert tiny("smoke").cohorts["a"].phantom == "adult-a"
    assert tiny("smoke").cohorts["b"].cases == 4
    assert tiny("smoke").sha256 != tiny("small").sha256


def test_changes_are_laid_over_the_preset() -> None:
    changed = parse(RAW, Study, preset="smoke", origin="tiny.toml", changes={"seed": 4, "cohorts.a.cases": 7})
    assert (changed.seed, changed.cohorts["a"].cases, changed.cohorts["b"].cases) == (4, 7, 4)
    with pytest.raises(InputError, match=r"unknown key 'cohorts\.a\.case'"):
        parse(RAW, Study, preset="smoke", origin="tiny.toml", changes={"cohorts.a.case": 7})


@pytest.mark.parametrize(
    ("changes", "preset", "words"),
    [
        ({}, "full", "has no preset 'full'; it has small, smoke"),
        ({"colour": "blue"}, "small", "unknown key 'colour'"),
        ({"about": 3}, "small", "'about'"),
        (
            {"cohorts": {"a": {"role": "r", "phantom": "adult-z", "cases": 3}}},
            "small",
            "no phantom 'adult-z'",
        ),
        ({"cohorts": {}}, "small", "'cohorts'"),
        ({"presets": 3}, "small", "presets must be tables"),
        ({"presets": {"small": 3}}, "small", "presets must be tables"),
    ],
)
def test_refusals_name_the_key(changes: dict[str, Any], preset: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(preset, **changes)


def test_a_missing_key_is_named() -> None:
    raw = {key: value for key, value in RAW.items() if key != "source"}
    with pytest.raises(InputError, match="'source' is missing"):
        parse(raw, Study, preset="small", origin="tiny.toml")


def test_unknown_studies_and_files_that_are_no_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'ssa-transfer'"):
        read("ssa-transfr")
    (tmp_path / "x.toml").write_text("= nothing")
    with pytest.raises(InputError, match=r"x\.toml: not a TOML file"):
        read(str(tmp_path / "x.toml"))


def test_a_role_is_played_by_the_folders_given_for_it_alone(tmp_path: Path) -> None:
    data = resolve(tiny(), tmp_path / "out", {"b": tmp_path}, {"b": "ssa-1.5T"})
    assert [source.name for source in data.sources] == ["b", "t"]
    assert [source.phantom for source in data.sources] == [None, "ssa"]
    assert data.sources[0].degrade == "ssa-1.5T"
    assert data.sources[1].folder == tmp_path / "out" / "cohorts" / "t"
    assert data.any_phantom


@pytest.mark.parametrize(
    ("folders", "degrade", "words"),
    [
        ({"c": "."}, {}, "has no cohort 'c'"),
        ({"a": ".", "t": "."}, {}, "are the same folder"),
        ({"a": "nowhere"}, {}, "there is no such folder"),
        ({"a": "."}, {"a": "ssa-1.5"}, "did you mean 'ssa-1.5T'"),
        ({}, {"a": "ultra-low"}, "only scans given with --data"),
    ],
)
def test_cohorts_that_cannot_be_used(
    tmp_path: Path, folders: dict[str, str], degrade: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        resolve(tiny(), tmp_path, {name: tmp_path / path for name, path in folders.items()}, degrade)
