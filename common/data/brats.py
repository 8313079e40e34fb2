"""BraTS folders: one file per modality, named after the case.

Read: 2021 (`<case>_t1ce.nii.gz`, `<case>-t1c.nii.gz`), 2023 and later (`BraTS-GLI-00000-000-t1n.nii.gz`,
`BraTS-SSA-...`), `.nii` or `.nii.gz`; cases in folders of their own, side by side in one folder, or a single
case's folder. Label codes: ET is 4 up to 2021 and 3 from 2023 (Baid et al. 2021, arXiv:2107.02314;
Adewole et al. 2023, arXiv:2305.19369).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cases import MODALITIES, Case, Cohort, ImageSource
from common.data.volume import read_label
from common.errors import DataError

LABELS_2021: Mapping[str, int] = {"NCR": 1, "ED": 2, "ET": 4}
LABELS_2023: Mapping[str, int] = {"NCR": 1, "ED": 2, "ET": 3}

_PARTS: Mapping[str, str] = {
    "t1n": "t1n", "t1": "t1n", "t1w": "t1n",
    "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c",
    "t2w": "t2w", "t2": "t2w",
    "t2f": "t2f", "flair": "t2f",
    "seg": "seg",
}  # fmt: skip
_FILE = re.compile(rf"(?P<case>.+)[-_](?P<part>{'|'.join(_PARTS)})\.nii(\.gz)?", re.IGNORECASE)
_TIME_POINT = re.compile(r"(?P<patient>BraTS-[A-Za-z]+-\d{5})-\d{3}")


def open_brats(folder: Path, *, name: str) -> Cohort:
    """The cases of a BraTS folder, by name; the label map is left open.

    Raises:
        DataError: no case, or two files for one part of a case.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in _files(folder):
        match = _FILE.fullmatch(path.name)
        if match is not None:
            _take(found, match["case"], part=_PARTS[match["part"].lower()], path=path)
    without = tuple(
        f"{case}: a label and no image; left out"
        for case, parts in sorted(found.items())
        if set(parts) == {"seg"}
    )
    cases = tuple(_case(case, parts) for case, parts in sorted(found.items()) if set(parts) != {"seg"})
    if not cases:
        raise DataError(
            f"{folder.name}: no case found; expected <case>-t1n.nii.gz, -t1c, -t2w, -t2f (or _t1, _t1ce, "
            "_t2, _flair), in one folder for each case",
            code="no-case",
        )
    return Cohort(name, folder, cases, notes=without)


def patient_of(case: str) -> str:
    """The patient in a BraTS 2023 name, the same for all time points; else the case is its own."""
    match = _TIME_POINT.fullmatch(case)
    return match["patient"] if match else case


def infer_label_map(cases: Iterable[Case]) -> tuple[Mapping[str, int] | None, str | None]:
    """The label map that the codes in all the cases' label files speak for, and a note where it is a guess.

    Reads every label file (about 40 ms for 240x240x155), once in a process. None where there is no label.

    Raises:
        DataError: a file holds a code that fits neither BraTS year, or two files speak for different years;
            the message names the case.
    """
    by_code: dict[int, str] = {}
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        return None, None
    for case in labelled:
        for code in case_codes(case):
            by_code.setdefault(code, case.name)
    return _decide(by_code)


def case_codes(case: Case) -> frozenset[int]:
    """The codes above 0 in a labelled case's file.

    Raises:
        DataError: the case has no label, or its file cannot be read; the message names the case.
    """
    if case.label is None:
        raise DataError(f"case {case.name}: has no label", code="no-label")
    try:
        status = case.label.stat()
        return _codes(case.label, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"case {case.name}: its label cannot be opened ({error.strerror})") from error
    except DataError as error:
        raise DataError(f"case {case.name}: {error}", code=error.code) from error


@lru_cache(maxsize=65536)
def _codes(path: Path, size: int, modified_ns: int) -> frozenset[int]:
    """Memoised by size and time of change, which are arguments for that alone."""
    return codes_in(read_label(path).array)


def codes_in(label: NDArray[np.integer[Any]]) -> frozenset[int]:
    """The codes above 0 in a label array."""
    present = np.zeros(int(label.max()) + 1, dtype=np.bool_)
    present[label.ravel(order="K")] = True
    return frozenset(np.flatnonzero(present).tolist()) - {0}


def _decide(by_code: Mapping[int, str]) -> tuple[Mapping[str, int], str | None]:
    strange = sorted(code for code in by_code if code > 4)
    if strange:
        raise DataError(
            f"case {by_code[strange[0]]}: label code {strange[0]} is none of BraTS; declare label_map in "
            "cohort.toml",
            code="label-codes",
        )
    if 3 in by_code and 4 in by_code:
        raise DataError(
            f"case {by_code[3]} has label code 3 and case {by_code[4]} has 4: ET is 3 from BraTS 2023 and 4 "
            "up to 2021; declare label_map in cohort.toml, or keep the years apart",
            code="label-codes",
        )
    if 4 in by_code:
        return LABELS_2021, None
    if 3 in by_code:
        return LABELS_2023, None
    return (
        LABELS_2023,
        "no label file holds ET (code 3 or 4); NCR 1 and ED 2 are the same in every BraTS year",
    )


def _files(folder: Path) -> list[Path]:
    """Files of the folder and of the folders in it; names with a leading dot are a system's own."""
    near = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    inside = [path for sub in near if sub.is_dir() for path in sorted(sub.iterdir())]
    return [path for path in [*near, *inside] if not path.name.startswith(".") and not path.is_dir()]


def _take(found: dict[str, dict[str, Path]], case: str, *, part: str, path: Path) -> None:
    parts = found.setdefault(case, {})
    if part in parts:
        raise DataError(
            f"case {case}: two files for {part}, {parts[part].name} and {path.name}; keep one",
            code="ambiguous",
        )
    parts[part] = path


def _case(name: str, parts: Mapping[str, Path]) -> Case:
    images = {part: ImageSource(parts[part]) for part in MODALITIES if part in parts}
    return Case(name, patient_of(name), images, label=parts.get("seg"))
