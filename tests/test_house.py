"""The house as a whole: rooms, contracts, the bundle, what the pages say and what is there."""

from __future__ import annotations

import ast
import importlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
import typing
import zipfile
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import Any

import annotated_types
import click
import pytest
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common import plan
from common.cli import fedglia
from common.codec import CODECS
from common.data.cases import STRUCTURES
from common.data.declaration import Declaration
from common.learning.alignment import STRENGTH
from common.learning.finetuning import ADAPTATIONS
from common.learning.losses import LOSSES
from common.models.unet import PRESETS
from common.plan import Plan, SitePlan
from server.aggregation import FOLDS, STEPS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("client", "common", "server", "simulation")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "misc", "core", "base", "manager"}


@cache
def files() -> tuple[Path, ...]:
    """Every file that the repository holds, or would after `git add`; relative paths."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(path for path in map(Path, listed.splitlines()) if (ROOT / path).is_file())


def texts(*patterns: str) -> Iterator[tuple[Path, str]]:
    """Path and content of the text files of the repository that match a pattern."""
    for path in files():
        if path.suffix != ".safetensors" and any(fnmatch(str(path), pattern) for pattern in patterns):
            yield path, (ROOT / path).read_text(encoding="utf-8")


def modules() -> list[Path]:
    """Python files of the four rooms."""
    return [path for path in files() if path.parts[0] in ROOMS and path.suffix == ".py"]


# Rooms


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_the_wheel_holds_the_four_rooms_and_nothing_else() -> None:
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {path.parts[0] for path in files() if len(path.parts) > 1}
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set(ROOMS)


def test_nobody_else_owns_a_rooms_name() -> None:
    owners = packages_distributions()
    assert {room: set(owners.get(room, ())) for room in ROOMS} == {room: {"fedglia"} for room in ROOMS}
    for room in ROOMS:
        assert Path(str(importlib.import_module(room).__file__)) == ROOT / room / "__init__.py"


def test_the_wheel_is_never_published() -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


def test_every_folder_of_modules_is_a_package_with_a_map() -> None:
    for folder in {path.parent for path in modules()}:
        text = (ROOT / folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(text)), folder


def test_every_data_file_of_a_room_is_in_the_wheel() -> None:
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    for path in files():
        if path.parts[0] in ROOMS and path.suffix != ".py":
            inside = str(Path(*path.parts[1:]))
            assert any(fnmatch(inside, pattern) for pattern in declared.get(path.parts[0], ())), path


def test_modules_are_small_and_named_for_what_they_hold() -> None:
    for path in modules():
        text = (ROOT / path).read_text()
        assert len(text.splitlines()) <= MAX_FILE_LINES, path
        assert NAMES_THAT_SAY_NOTHING.isdisjoint({*path.parts, path.stem}), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{path}: {node.name}"


# The Flower app


def test_the_bundle_that_sites_receive_holds_no_code() -> None:
    from flwr.cli.build import build_fab_from_files

    content: dict[str, bytes | Path] = {str(path): ROOT / path for path in files()}
    bundle, _ = build_fab_from_files(content)
    assert sorted(zipfile.ZipFile(io.BytesIO(bundle)).namelist()) == [".info/CONTENT", "pyproject.toml"]


def test_the_bundles_components_are_the_two_apps() -> None:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    components = PROJECT["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert isinstance(importlib.import_module("server.app").app, ServerApp)
    assert isinstance(importlib.import_module("client.app").app, ClientApp)


@pytest.mark.parametrize("module", ["server/app.py", "client/app.py"])
def test_flower_can_read_the_app_without_running_it(module: str) -> None:
    """`flwr build` looks for a plain assignment; an annotated one is not seen."""
    assert re.search(r"^app = (Server|Client)App\(", (ROOT / module).read_text(), re.MULTILINE)


def test_entry_points_are_there_and_installed_as_declared() -> None:
    declared = PROJECT["project"]["entry-points"]["fedglia.commands"]
    for target in [*declared.values(), *PROJECT["project"]["scripts"].values()]:
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))
    installed = {entry.name: entry.value for entry in entry_points(group="fedglia.commands")}
    assert installed == declared


# Dependencies


def pins() -> dict[str, str]:
    """Package -> version, of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned_and_the_pin_fits() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [
        Requirement(text) for text in [*PROJECT["project"]["dependencies"], *(x for e in extras for x in e)]
    ]
    pinned = pins()
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), name


def test_what_must_not_move_does_not() -> None:
    assert pins()["torch"] == "2.13.0"
    assert pins()["flwr"] == "1.41.0"
    required = PROJECT["project"]["dependencies"]
    assert {"torch==2.13.0", "flwr==1.41.0"} <= {requirement.strip() for requirement in required}


def test_ray_is_no_part_of_the_demo() -> None:
    assert not any(requirement.startswith("ray") for requirement in PROJECT["project"]["dependencies"])


# What must not be in the repository


def test_no_path_of_this_machine_and_no_registry_is_named() -> None:
    mine = [place for place in (str(ROOT), str(Path.home()), sys.prefix) if len(place) > 1]
    registries = ["-".join(["index", "url"]), "pypi" + ".org", "python" + "hosted", "files" + ".python"]
    for path, text in texts("*"):
        for word in [*mine, *registries]:
            assert not re.search(rf"(?<![\w.]){re.escape(word)}\b", text), f"{path}: {word}"


def test_no_path_of_any_persons_machine_is_named_outside_tests() -> None:
    for path, text in texts("*"):
        if path.parts[0] != "tests":
            assert not re.search(r"(?<![\w.])/(home|Users|root|work)/", text), path


def test_no_scan_is_committed() -> None:
    assert [path for path in files() if path.name.endswith((".nii", ".nii.gz", ".dcm", ".mgz"))] == []


def test_shipped_models_are_small() -> None:
    shipped = [path for path in files() if path.suffix == ".safetensors"]
    assert all(path.parent == Path("common/models/shipped") for path in shipped)
    assert sum((ROOT / path).stat().st_size for path in shipped) < 4_000_000


# Pages

PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("docs/*.md", "docs/decisions/*.md", "deploy/*.md"),
)


def commands_in(text: str) -> Iterator[list[str]]:
    """Words after `fedglia` in code: of each line of a block, and of each span in a sentence."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [*(line for block in blocks for line in block.replace("\\\n", " ").splitlines()), *spans]:
        words = shlex.split(line, comments=True) if "fedglia " in line else []
        if words and words[0].removeprefix(".venv/bin/") == "fedglia":
            yield words[1:]


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command as a page writes it; `|` parts the names of several."""
    command: click.Command = fedglia
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        names = [word for word in words if word != "|"] if "|" in words else words[:1]
        found = [command.get_command(click.Context(command), name) for name in names]
        if None in found:
            return f"no command {names}"
        command, words = typing.cast(click.Command, found[0]), [] if "|" in words else words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = {word.split("=")[0] for word in words if word.startswith("-")} - known - {"--help", "--version"}
    return f"{command.name} has no {sorted(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_exists(page: str) -> None:
    for path, text in texts(page):
        for words in commands_in(text):
            assert complaint(words) is None, f"{path}: fedglia {' '.join(words)}"


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    page = (
        "Run `fedglia simulat demo`, `fedglia plan check | shw`:\n```sh\nfedglia demo --outt x  # so\n```\n"
    )
    assert [complaint(words) is None for words in commands_in(page)] == [False, False, False]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_on_a_page_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path, text in texts(page):
        assert set(re.findall(r"`make ([a-z]+)", text)) <= targets, path


@pytest.mark.parametrize("page", PAGES)
def test_every_link_on_a_page_leads_somewhere(page: str) -> None:
    for path, text in texts(page):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            assert (ROOT / path.parent / target).exists(), f"{path}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_house_on_a_page_exists(page: str) -> None:
    for path, text in texts(page):
        for named in re.findall(rf"`((?:{'|'.join(ROOMS)}|deploy|docs|tests)/[\w./-]+)`", text):
            assert (ROOT / named).exists(), f"{path}: {named}"


def test_the_readme_says_where_things_are() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Where is what", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`([\w./-]+)`", table)
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name
    for room in ROOMS:
        assert any(name.startswith(f"{room}/") for name in named)


def test_decisions_are_numbered_and_have_the_three_parts() -> None:
    pages = [(path, text) for path, text in texts("docs/decisions/*.md")]
    assert [int(path.name[:4]) for path, _ in pages] == list(range(1, len(pages) + 1))
    for path, text in pages:
        assert text.startswith(f"# {path.name[:4]} "), path
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], path


@pytest.mark.parametrize(
    ("part", "key", "rows"),
    [
        (plan.Task, "kind", STRUCTURES),
        (plan.Model, "preset", PRESETS),
        (plan.Adaptation, "trains", ADAPTATIONS),
        (plan.Adaptation, "loss", LOSSES),
        (plan.Alignment, "method", {"none", *STRENGTH}),
        (plan.Aggregation, "fold", FOLDS),
        (plan.Aggregation, "server_optimiser", STEPS),
        (plan.Aggregation, "codec", CODECS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_plans_names_are_the_tables_rows(part: type[BaseModel], key: str, rows: Collection[str]) -> None:
    assert set(typing.get_args(part.model_fields[key].annotation)) == set(rows)


def leaves(part: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name, as written in a file, and field of each key of a plan."""
    for name, field in part.model_fields.items():
        kind, key = field.annotation, prefix + (field.alias or name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{key}.")
        elif key == "sites":
            yield from leaves(SitePlan, "sites.NAME.")
        else:
            yield key, field


def choices(field: FieldInfo) -> str:
    """What a key may hold, in words."""
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(field.annotation))
    kinds: dict[object, str] = {int: "whole number", float: "number", bool: "`true`, `false`"}
    if field.annotation == plan.Patch:
        return "whole number from 16 to 256, or a list of three"
    return " ".join([kinds.get(field.annotation, "text"), *filter(None, map(bound_words, field.metadata))])


def bound_words(bound: object) -> str:
    """A bound of a number in words; nothing for any other rule."""
    match bound:
        case annotated_types.Ge(ge):
            return f"from {ge}"
        case annotated_types.Gt(gt):
            return f"above {gt}"
        case annotated_types.Le(le):
            return f"to {le}"
        case annotated_types.Lt(lt):
            return f"below {lt}"
    return ""


def plan_rows() -> list[str]:
    """The coordinator's table of the plan, made from the plan's own descriptions."""
    rows = []
    for key, field in leaves(Plan):
        default = "must be said" if field.default is PydanticUndefined else as_in_toml(field.default)
        meaning = str(field.description).replace("|", r"\|")
        rows.append(f"| `{key}` | {default} | {choices(field)} | {meaning} |")
    return rows


def as_in_toml(value: object) -> str:
    """A default as the plan's file writes it."""
    if value is None or value == "":
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_coordinators_table_of_the_plan_is_the_plan() -> None:
    page = (ROOT / "docs" / "coordinator-handbook.md").read_text()
    found = [line for line in page.splitlines() if line.startswith("| `")]
    wanted = plan_rows()
    start = found.index(wanted[0]) if wanted[0] in found else 0
    assert found[start : start + len(wanted)] == wanted


def test_the_site_handbooks_cohort_toml_names_every_key() -> None:
    page = (ROOT / "docs" / "site-handbook.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    declared = tomllib.loads(example)
    assert set(declared) == set(Declaration.model_fields)
    assert Declaration.model_validate(declared)
