"""What is installed: Python, the packages at their pins, nothing foreign under our names, no launcher."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version

from packaging.requirements import Requirement

from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject
from client.services import environment

ROOMS = ("client", "common", "server", "simulation")
LAUNCHERS = ("flwr-clientapp", "flower-superexec")
OLDEST, TOO_NEW = (3, 11), (3, 14)
AGAIN = "install again: python -m pip install -c constraints.txt -e ."


def check_python(subject: Subject) -> Iterator[Said]:
    """Is this a Python that FedGlia runs on?"""
    words = "Python {}.{}.{}".format(*sys.version_info)
    if OLDEST <= sys.version_info[:2] < TOO_NEW:
        yield passed(words)
    else:
        yield failed(f"{words}; 3.11 to 3.13 are needed", "make the environment again with Python 3.11")


def check_packages(subject: Subject) -> Iterator[Said]:
    """Is every package there, in a version that FedGlia was made for?"""
    wrong = False
    for requirement in map(Requirement, requires("fedglia") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong = True
            yield failed(f"{requirement.name} is not installed", AGAIN)
            continue
        if not requirement.specifier.contains(found.split("+")[0], prereleases=True):
            wrong = True
            yield failed(f"{requirement.name} {found}; {requirement.specifier} is needed", AGAIN)
    if not wrong:
        yield passed(f"flwr {version('flwr')}, torch {version('torch')} and the others are as they should be")


def check_names(subject: Subject) -> Iterator[Said]:
    """Does another package bring a `client` or `common` of its own, which might run in place of ours?"""
    owners = packages_distributions()
    foreign = {
        room: sorted(set(owners.get(room, ())) - {"fedglia"})
        for room in ROOMS
        if importlib.util.find_spec(room)
    }
    found = {room: names for room, names in foreign.items() if names}
    for room, names in found.items():
        yield failed(
            f"the package {', '.join(names)} has a folder named {room} too: its code might run here",
            f"python -m pip uninstall {names[0]}; then {AGAIN}",
        )
    if not found:
        yield passed("no other package uses our names")


def check_programs(subject: Subject) -> Iterator[Said]:
    """Can anything start a program of Flower's that runs whatever a bundle holds?"""
    path = environment("node", subject.folder)["PATH"]
    found = [shutil.which(name, path=path) for name in LAUNCHERS]
    for program in filter(None, found):
        yield failed(
            f"{program} can be started by its name; only this site's worker may run what the hub asks for",
            f"remove it: {program} (FedGlia's own environment keeps the programs that it needs)",
        )
    if not any(found):
        yield passed("no program but this site's worker runs what the hub asks for")
    if not shutil.which("fedglia"):
        yield warned(
            "fedglia is not on the PATH of this shell",
            f'export PATH="{sys.prefix}/bin:$PATH"',
        )
