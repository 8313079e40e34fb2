"""The units: systemd understands every word, little is exposed, each process sees only what is its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, NODE_READS, program, wrong
from tests.deploy.under_unit import settings

UNITS = DEPLOY / "systemd"
NAMES = ("fedglia-hub", "fedglia-site-node", "fedglia-site-worker")
SYSTEM = Path("/usr/lib/systemd/system")
BARE = "as it is"


def overlay(name: str) -> str:
    """The optional file that goes with a unit."""
    (path,) = (UNITS / f"{name}.service.d").iterdir()
    return path.name


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that looks to systemd like a machine on which the units are installed."""
    program("systemd-analyze")
    if not (SYSTEM / "sysinit.target").exists():
        pytest.skip("systemd's own units are not on this machine")
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system", ignore=shutil.ignore_patterns("*.d"))
    system = tmp_path / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for target in SYSTEM.glob("*.target"):
        shutil.copy(target, system)
    command = tmp_path / "opt/fedglia/bin/fedglia"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    return tmp_path


def put_on(machine: Path, name: str, extra: str) -> None:
    """Install the optional file of a unit, where one is asked for."""
    if extra != BARE:
        shutil.copytree(UNITS / f"{name}.service.d", machine / f"etc/systemd/system/{name}.service.d")


def analyze(machine: Path, *words: str) -> str:
    """What systemd-analyze says about the machine in a folder."""
    asked = [program("systemd-analyze"), "--no-pager", f"--root={machine}", *words]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


CASES = [(name, extra) for name in NAMES for extra in (BARE, overlay(name))]


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_systemd_understands_every_word_of_a_unit(machine: Path, name: str, extra: str) -> None:
    put_on(machine, name, extra)
    assert analyze(machine, "verify", f"{name}.service") == ""


def test_the_check_of_units_finds_what_is_wrong(machine: Path) -> None:
    unit = machine / "etc/systemd/system/fedglia-hub.service"
    unit.write_text(unit.read_text().replace("TasksMax=", "TasksMaxx="))
    assert "TasksMaxx" in analyze(machine, "verify", "fedglia-hub.service")


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_the_exposure_is_what_the_page_says_and_low(machine: Path, name: str, extra: str) -> None:
    put_on(machine, name, extra)
    said = analyze(machine, "security", "--offline=true", f"{name}.service")
    measured = float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)[0])
    page = (DEPLOY / "README.md").read_text()
    (told,) = re.findall(rf"^\| `{name}\.service` \| {re.escape(extra)} \| ([\d.]+) \|", page, re.MULTILINE)
    assert measured <= 2.5
    assert abs(measured - float(told)) <= 0.2  # other versions of systemd weigh a little differently


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_starts_a_command_that_exists_and_is_started_again_for_ever(name: str) -> None:
    words = settings(UNITS / f"{name}.service")
    (command,) = words["ExecStart"]
    path, *arguments = command.split()
    assert path == "/opt/fedglia/bin/fedglia"
    assert wrong(arguments) is None
    assert "--foreground" in arguments
    assert (words["Restart"], words["RestartSec"]) == (["always"], ["15"])
    assert words["StartLimitIntervalSec"] == ["0"]


def test_each_process_of_a_site_sees_only_what_is_its_own() -> None:
    node, worker = (settings(UNITS / f"fedglia-site-{name}.service") for name in ("node", "worker"))
    assert node["InaccessiblePaths"] == ["/srv/fedglia"]
    assert node["TemporaryFileSystem"] == ["/var/lib/fedglia:ro"]
    read = {word.removeprefix("-") for words in node["BindReadOnlyPaths"] for word in words.split()}
    assert read == {f"/var/lib/fedglia/site/{name}" for name in NODE_READS}
    assert node["BindPaths"] == ["/var/lib/fedglia/site/run"]
    assert not {"ReadWritePaths", "StateDirectory"} & set(node)
    assert worker["ReadOnlyPaths"] == ["/srv/fedglia"]
    assert worker["InaccessiblePaths"] == ["/var/lib/fedglia/site/key"]
    assert (worker["IPAddressDeny"], worker["IPAddressAllow"]) == (["any"], ["localhost"])
    # The same user runs both: only a user namespace each keeps one from looking into the other's memory.
    assert node["PrivateUsers"] == worker["PrivateUsers"] == ["yes"]


def test_the_user_is_made_by_systemd(tmp_path: Path) -> None:
    shown = subprocess.run(
        [
            program("systemd-sysusers"),
            "--dry-run",
            f"--root={tmp_path}",
            str(UNITS / "fedglia.sysusers.conf"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in shown.stderr:
        pytest.skip("this systemd-sysusers has no --dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "Creating user 'fedglia'" in shown.stderr
