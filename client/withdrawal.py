"""A patient withdraws: never used again from the next message on, and what was prepared of the scans goes.

What a finished round learned from them stays in the models that came of it; nobody can take that out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from client import audit
from client.settings import edited
from client.site import Site
from common.data.cases import Case
from common.errors import DataError, InputError
from common.files import canonical, write_atomic

NOTE = Path("cache") / "withdrawal.json"
"""In a site folder: that there was a withdrawal since the last message ended, and whose label maps went."""


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
        InputError: no such patient in the data folder, and `gone` is not said; or `gone` is said of what is
            there: a patient, a case, a folder.
        DataError: the data folder cannot be read, and `gone` is not said.
        SiteError, RunError, LockedError: site.toml cannot be changed; then nothing was.
    """
    mine = _cases(site, patient, gone=gone)
    with edited(site.folder) as document:
        listed = document.setdefault("withdrawn", tomlkit.array())
        new = patient not in listed
        if new:
            listed.append(patient)
    maps = None if gone else [f"{case}.nii.gz" for case in mine]
    _leave_note(site.folder, maps)
    prepared, predictions = _clear(site.folder, maps)
    if new:
        audit.note(site.folder, "withdrawn", {"patients": 1})
    return Withdrawn(new, len(mine), prepared, predictions)


def finish(folder: Path) -> None:
    """Remove once more what a withdrawal removed, if there was one; called before and after each message.

    A message that was at work during the withdrawal knew nothing of it, and may have prepared the patient's
    scans again. It has ended when this is called: a worker has one message at a time. The note goes before
    site.toml is read for the next, so a withdrawal that comes between the two is found after that one.

    Raises:
        OSError: the cache cannot be written; the note stays, and so does every scan's use: nothing may run.
    """
    note = folder / NOTE
    if not note.exists():
        return
    try:
        maps = json.loads(note.read_bytes())["maps"]
    except (ValueError, KeyError, TypeError):
        maps = None
    _clear(folder, maps)
    note.unlink(missing_ok=True)


def _leave_note(folder: Path, maps: list[str] | None) -> None:
    """For `finish`; of two withdrawals with no message between them the note of both is kept."""
    (folder / NOTE).parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads((folder / NOTE).read_bytes())["maps"]
        maps = None if before is None or maps is None else sorted({*before, *maps})
    write_atomic(folder / NOTE, canonical({"maps": maps}), mode=0o600)


def _clear(folder: Path, maps: list[str] | None) -> tuple[int, int]:
    """Remove prepared cases, and the label maps of those names, None: all; says how many of each."""
    prepared = _remove((folder / "cache").glob("*.safetensors"))
    there = (folder / "predictions").glob("*.nii.gz")
    return prepared, _remove(path for path in there if maps is None or path.name in maps)


def _cases(site: Site, patient: str, *, gone: bool) -> list[str]:
    cases = _known(site, gone=gone)
    found = [case.name for case in cases if case.patient == patient]
    owner = next((case.patient for case in cases if case.name == patient), None)
    if found and gone:
        raise InputError(f"{len(found)} case(s) of {patient} are in the data folder: withdraw without --gone")
    if owner is not None and not found:
        raise InputError(f"'{patient[:64]}' is a case in the data folder, no patient; did you mean {owner}?")
    if gone and _is_there(site, patient):
        raise InputError(
            f"'{patient[:64]}' is a folder or file in the data folder, and no patient's name there: see "
            "[patients] in cohort.toml, or the cases' names"
        )
    if not found and not gone:
        raise InputError(
            f"no case of a patient '{patient[:64]}' is in the data folder: see [patients] in cohort.toml, or "
            "the cases' names. If the scans have left it already, say --gone"
        )
    return found


def _known(site: Site, *, gone: bool) -> tuple[Case, ...]:
    try:
        return site.cohort.cases
    except DataError:  # of the folder that is left when scans have gone, there may be no cohort to read
        if gone:
            return ()
        raise


def _is_there(site: Site, name: str) -> bool:
    with contextlib.suppress(OSError):
        return any(path.name == name for path in site.data.iterdir())
    return False


def _remove(paths: Iterable[Path]) -> int:
    count = 0
    for path in paths:
        path.unlink(missing_ok=True)
        count += 1
    return count
