"""A folder comes in: its layout, what its `cohort.toml` says, and what is wrong with it, in words."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.data.brats import codes_in, infer_label_map, open_brats
from common.data.cases import MODALITIES, Case, Cohort
from common.data.declaration import FILE_NAME as DECLARATION
from common.data.declaration import Declaration, read_declaration
from common.data.msd import is_decathlon, is_pairs, open_decathlon, open_pairs
from common.data.volume import Volume, inspect_header, read_label, read_volume, same_grid
from common.errors import DataError

BRAIN_ML = (300.0, 3000.0)
"""Volume of non-zero voxels that a head scan can have; below, it is a crop or empty."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `code` is short and stable, `text` is for the person at this machine."""

    level: Literal["PASS", "WARN", "FAIL"]
    case: str
    code: str
    text: str


def open_cohort(folder: Path, name: str | None = None, *, labels: bool = True) -> Cohort:
    """The cases of a folder, whatever its layout, with what its `cohort.toml` declares.

    A single case's folder is a cohort of one. A label map that is not declared is inferred from the codes in
    all the label files (see `brats.infer_label_map`), which reads each of them once.

    Args:
        folder: a BraTS or Decathlon folder, or one of `<case>-img`, `<case>-seg` pairs.
        name: the cohort's name; else the declared one, else the folder's.
        labels: False leaves expert labels out, unread: what is wrong with them does not matter then.

    Raises:
        DataError: no such folder, no case in it, an unusable `cohort.toml`, or labels that fit no map.
    """
    cohort = _declared_cohort(folder, name)
    if not labels:
        return replace(cohort, cases=tuple(replace(case, label=None) for case in cohort.cases))
    return _with_label_map(cohort)


def cohort_around(folder: Path) -> Path | None:
    """The folder of scans that would read a label map in `folder` as an expert's; None: there is none.

    Scans are looked for in a folder and in those directly in it, so the one above counts as well: if scans
    lie in it, if it is declared, or if two folders in it or more hold a case each. One case may lie anywhere.
    """
    for near in (folder.resolve(), folder.resolve().parent):
        holders = _cases_by_folder(near)
        cases_apart = [holder for holder, count in holders.items() if count == 1]
        declared = (near / DECLARATION).is_file() or is_decathlon(near)
        if near in holders or len(cases_apart) > 1 or declared:
            return near
    return None


def check(path: Path) -> list[Finding]:
    """Everything that can be said about a folder or one file before work starts on it; reads every voxel.

    An empty list never comes back: what is in order is a PASS.
    """
    if not path.exists():
        return [Finding("FAIL", path.name, "not-a-file", f"{path.name}: no such file or folder")]
    if not path.is_dir():
        return list(_check_file(path))
    try:
        cohort = _declared_cohort(path, None)
    except DataError as error:
        return [Finding("FAIL", "", error.code, str(error))]
    findings = []
    try:
        cohort = _with_label_map(cohort)
    except DataError as error:
        findings.append(Finding("FAIL", "", error.code, str(error)))
    findings += [Finding("WARN", "", "note", note) for note in cohort.notes]
    for case in cohort.cases:
        found = list(_check_case(case, cohort))
        usable = all(finding.level != "FAIL" for finding in found)
        findings += [*found, *([Finding("PASS", case.name, "ok", _described(case))] if usable else [])]
    return findings + list(_check_twins(cohort)) + list(_check_cohort(cohort))


def _declared_cohort(folder: Path, name: str | None) -> Cohort:
    if not folder.is_dir():
        raise DataError(f"{folder.name}: no such folder of scans", code="no-case")
    declared = read_declaration(folder)
    called = name or declared.name or folder.resolve().name
    try:
        cohort = _layout(folder)(folder, name=called)
    except OSError as error:
        raise DataError(f"{folder.name}: cannot be listed ({error.strerror})", code="no-case") from error
    notes = [declared.notes] if isinstance(declared.notes, str) else declared.notes
    return replace(
        cohort,
        cases=_with_patients(cohort.cases, declared),
        label_map=declared.label_map or cohort.label_map,
        field_strength_t=declared.field_strength_t,
        scanner=declared.scanner,
        phantom=declared.phantom,
        notes=(*cohort.notes, *notes),
    )


def _cases_by_folder(folder: Path) -> Counter[Path]:
    try:
        cases = _layout(folder)(folder, name=folder.name).cases
    except (DataError, OSError):
        return Counter()
    return Counter(next(iter(case.images.values())).path.parent for case in cases)


def _layout(folder: Path) -> Callable[..., Cohort]:
    if is_decathlon(folder):
        return open_decathlon
    return open_pairs if is_pairs(folder) else open_brats


def _with_patients(cases: tuple[Case, ...], declared: Declaration) -> tuple[Case, ...]:
    names = [case.name for case in cases]
    for case in declared.patients:
        if case not in names:
            nearest = difflib.get_close_matches(case, names, n=1)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            raise DataError(
                f"cohort.toml: patients names case {case}, which is not here{advice}", code="cohort"
            )
    return tuple(replace(case, patient=declared.patients.get(case.name, case.patient)) for case in cases)


def _with_label_map(cohort: Cohort) -> Cohort:
    if not cohort.labelled or cohort.label_map is not None:
        return cohort
    label_map, note = infer_label_map(cohort.cases)
    return replace(cohort, label_map=label_map, notes=(*cohort.notes, *([note] if note else [])))


def _check_file(path: Path) -> Iterator[Finding]:
    name = path.name
    is_label = "seg" in name.split(".nii")[0].lower()
    try:
        header = inspect_header(path)
        volume = read_label(path) if is_label else read_volume(path)
    except DataError as error:
        yield Finding("FAIL", name, error.code, str(error))
        return
    yield from (Finding("WARN", name, "header", f"{name}: {note}") for note in header.notes)
    if volume.array.min() == volume.array.max():
        yield Finding(
            "FAIL", name, "constant", f"{name}: every voxel is {volume.array.flat[0]:g}; nothing to see"
        )
        return
    codes = f", label codes {np.unique(volume.array).tolist()}" if is_label else ""
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{step:g}" for step in volume.spacing_mm)
    yield Finding("PASS", name, "ok", f"{name}: {size} voxels of {spacing} mm{codes}")


def _check_case(case: Case, cohort: Cohort) -> Iterator[Finding]:
    missing = [modality for modality in MODALITIES if modality not in case.images]
    if missing and (cohort.label_map is None or "ET" in cohort.label_map):
        yield Finding("WARN", case.name, "missing", f"case {case.name}: no {', '.join(missing)}")
    volumes: dict[str, Volume] = {}
    notes: set[str] = set()
    for modality, source in case.images.items():
        try:
            volumes[modality] = read_volume(source)
            notes |= set(inspect_header(source.path).notes)
        except DataError as error:
            yield Finding("FAIL", case.name, error.code, f"case {case.name}: {error}")
    yield from (Finding("WARN", case.name, "header", f"case {case.name}: {note}") for note in sorted(notes))
    yield from _check_images(case, volumes)
    yield from _check_label(case, cohort, grid=next(iter(volumes.values()), None))


def _check_images(case: Case, volumes: Mapping[str, Volume]) -> Iterator[Finding]:
    grids = list(volumes.values())
    for modality, volume in volumes.items():
        where = f"case {case.name}: {modality}"
        if volume.array.min() == volume.array.max():
            yield Finding("FAIL", case.name, "constant", f"{where} has one value in every voxel")
        if not same_grid(grids[0], volume):
            yield Finding("FAIL", case.name, "grid", f"{where} lies on another grid than the first modality")
    if all(volume.shape == grids[0].shape for volume in grids) and grids:
        inside = np.logical_or.reduce([volume.array != 0 for volume in grids])
        brain_ml = float(inside.sum() * np.prod(grids[0].spacing_mm)) / 1000
        low, high = BRAIN_ML
        if not low <= brain_ml <= high:
            text = f"{brain_ml:.0f} ml are not zero; {low:.0f} to {high:.0f} ml are usual for a head"
            yield Finding("WARN", case.name, "volume", f"case {case.name}: {text}")


def _check_label(case: Case, cohort: Cohort, *, grid: Volume | None) -> Iterator[Finding]:
    if case.label is None:
        return
    where = f"case {case.name}"
    try:
        label = read_label(case.label)
    except DataError as error:
        yield Finding("FAIL", case.name, error.code, f"{where}: {error}")
        return
    if grid is not None and not same_grid(grid, label):
        yield Finding("FAIL", case.name, "grid", f"{where}: the label lies on another grid than the images")
    codes = codes_in(label.array)
    strange = sorted(codes - set(cohort.label_map.values())) if cohort.label_map else []
    if strange:
        text = f"{where}: label code {strange[0]} is not in the label map {dict(cohort.label_map or {})}"
        yield Finding("FAIL", case.name, "label-codes", text)
    if not codes:
        yield Finding("WARN", case.name, "label-empty", f"{where}: its label map is empty")


def _check_twins(cohort: Cohort) -> Iterator[Finding]:
    """The same scan under two names would sit in training and test at once."""
    first: dict[str, Case] = {}
    for case in cohort.cases:
        for source in list(case.images.values())[:1]:
            digest = _digest(source.path)
            twin = first.setdefault(f"{digest}/{source.channel}", case)
            if twin.patient != case.patient:
                text = f"case {case.name} is the same scan as case {twin.name}; give both one patient"
                yield Finding("WARN", case.name, "twin", text)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_cohort(cohort: Cohort) -> Iterator[Finding]:
    if cohort.field_strength_t is None:
        yield Finding(
            "WARN", "", "undeclared", "cohort.toml: field_strength_t is not declared; reports show null"
        )
    if not cohort.labelled:
        yield Finding(
            "WARN", "", "no-label", "no case has a label: this cohort can be segmented, not trained on"
        )


def _described(case: Case) -> str:
    return f"case {case.name}: {', '.join(case.images)}{', label' if case.label else ', no label'}"
