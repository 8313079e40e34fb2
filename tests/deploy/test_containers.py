"""Dockerfiles and compose files: valid, pinned, without rights; each container sees only what is its own."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.places import DEPLOY, NODE_READS, ROOT, documents, program, wrong

VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))


def services(name: str) -> dict[str, Any]:
    """The services of a compose file."""
    (document,) = documents((DEPLOY / "compose" / f"{name}.yaml").read_text())
    found: dict[str, Any] = document["services"]
    return found


def run(*words: str) -> str:
    """What a linter says; it must find nothing."""
    done = subprocess.run(
        [program(words[0]), *words[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Images


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_of_dockerfiles_and_their_shell_finds_nothing(path: Path) -> None:
    assert run("hadolint", str(path)) == ""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_and_runs_as_nobody_in_particular(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^ARG PYTHON=(.*)$", text, re.MULTILINE) == ["python:3.11.14-slim-bookworm"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert f"fedglia=={VERSION}" in text
    assert "--no-index" in text
    start = re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE)[0].replace('"', "").split(", ")
    assert wrong(start) is None


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_takes_only_what_the_ignore_file_lets_through(path: Path) -> None:
    ignored, *let_through = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored == "*"
    allowed = {line.removeprefix("!") for line in let_through}
    text = path.read_text()
    taken = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE) + re.findall(r"source=(\w+)", text)
    assert {name.rstrip("/") for name in taken} == allowed


def test_rooms_that_an_image_leaves_out_are_rooms() -> None:
    left_out = {path.name: set(re.findall(r"site-packages/(\w+)", path.read_text())) for path in DOCKERFILES}
    assert left_out == {
        "hub.Dockerfile": {"simulation"},
        "site.Dockerfile": {"server", "simulation"},
    }
    assert all((ROOT / room / "__init__.py").exists() for rooms in left_out.values() for room in rooms)


# Compose


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_fits_the_compose_specification(path: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(path))


@pytest.mark.parametrize("name", ["hub", "site"])
def test_containers_hold_no_right_and_write_only_where_they_must(name: str) -> None:
    for service in services(name).values():
        assert service["image"] == f"fedglia-{name}:{VERSION}"
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ulimits"]["core"] == 0  # a core file of a worker would hold scans
        assert wrong(service["command"]) is None
        if "healthcheck" in service:
            assert wrong(service["healthcheck"]["test"][2:]) is None


def test_what_runs_always_has_a_ceiling_and_is_started_again() -> None:
    always = {**services("hub"), **services("site")}
    del always["setup"]
    for service in always.values():
        assert service["restart"] == "always"
        assert service["mem_limit"]
        assert service["pids_limit"]


def test_only_the_edge_is_published() -> None:
    assert services("hub")["hub"]["ports"] == ["8443:8443"]
    assert not any("ports" in service for service in services("site").values())


def test_the_node_has_no_scans_and_the_worker_no_key() -> None:
    found = services("site")
    assert seen_of_the_site(found["node"]["volumes"]) == {"run": False, **dict.fromkeys(NODE_READS, True)}
    assert any(place.startswith("/var/lib/fedglia:") for place in found["node"]["tmpfs"])
    mounts = found["worker"]["volumes"]
    assert [mount for mount in mounts if mount.endswith("/srv/fedglia/scans:ro")]
    assert "/dev/null:/var/lib/fedglia/site/key:ro" in mounts
    assert found["worker"]["network_mode"] == "service:node"


def seen_of_the_site(mounts: list[dict[str, Any]]) -> dict[str, bool]:
    """What of the site's folder is mounted at its own place, and whether only to be read."""
    assert all(mount["target"] == f"/var/lib/fedglia/{mount['volume']['subpath']}" for mount in mounts)
    return {
        mount["volume"]["subpath"].removeprefix("site/"): mount.get("read_only", False) for mount in mounts
    }


def test_hours_of_the_day_are_the_hospitals_where_they_are_judged() -> None:
    found = services("site")
    assert found["worker"]["environment"]["TZ"] == found["setup"]["environment"]["TZ"]
    assert found["worker"]["environment"]["TZ"].startswith("${FEDGLIA_TIMEZONE")


def test_the_file_for_gpus_speaks_of_the_same_services() -> None:
    assert set(services("site-gpu")) < set(services("site"))
