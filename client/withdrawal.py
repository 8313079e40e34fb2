"""A patient withdraws: never used again from the next message on, and what was prepared of the scans goes.

What a finished round learned from them stays in the models that came of it; nobody can take that out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from client import audit
from client.settings import edited
from client.site import Site
from common.errors import InputError


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal did; `new` is False where the patient had withdrawn before.

    Attributes:
        cases: of the patient in the data folder; they are not touched.
        prepared: prepared cases removed: everybody's, as their names do not say whose they are.
        predictions: label maps removed.
    """

    new: bool
    cases: int
    prepared: int
    predictions: int


def withdraw(site: Site, patient: str, *, gone: bool = False) -> Withdrawn:
    """Take a patient out for good.

    Args:
        site: the site.
        patient: as `cohort.toml` or the file names call them.
        gone: the scans have left the data folder already, so the name cannot be looked up there.

    Raises:
        InputError: no such patient in the data folder, and `gone` is not said.
        DataError: the data folder cannot be read, and `gone` is not said.
        SiteError, RunError, LockedError: site.toml cannot be changed; then nothing was.
    """
    mine = _cases(site, patient, gone=gone)
    with edited(site.folder) as document:
        listed = document.setdefault("withdrawn", tomlkit.array())
        new = patient not in listed
        if new:
            listed.append(patient)
    prepared = _remove((site.folder / "cache").glob("*.safetensors"))
    named = [f"{case}.nii.gz" for case in mine]
    maps = (site.folder / "predictions").glob("*.nii.gz")
    predictions = _remove(path for path in maps if gone or path.name in named)
    if new:
        audit.note(site.folder, "withdrawn", {"patients": 1})
    return Withdrawn(new, len(mine), prepared, predictions)


def _cases(site: Site, patient: str, *, gone: bool) -> list[str]:
    if gone:
        return []
    found = [case.name for case in site.cohort.cases if case.patient == patient]
    if not found:
        close = difflib.get_close_matches(patient, site.cohort.patients, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(
            f"no case of a patient '{patient[:64]}' is in the data folder{hint or '.'} If the scans have "
            "left it already, say --gone"
        )
    return found


def _remove(paths: Iterable[Path]) -> int:
    count = 0
    for path in paths:
        path.unlink(missing_ok=True)
        count += 1
    return count
