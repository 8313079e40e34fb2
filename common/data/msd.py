"""Medical Segmentation Decathlon folders (Antonelli et al. 2022, Nat Commun 13:4128).

`imagesTr/<case>.nii.gz` with all modalities in one four-dimensional file, `labelsTr/<case>.nii.gz`,
unlabelled `imagesTs`, and a `dataset.json` that names channels and label codes. Without that file four
channels are taken for Task01 (glioma: FLAIR, T1w, T1 with gadolinium, T2w; codes ED 1, NCR 2, ET 3). Also
the pairs `<case>-img.nii.gz`, `<case>-seg.nii.gz` in folders of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.cases import Case, Cohort, ImageSource
from common.data.volume import inspect_header
from common.errors import DataError

TASK01_CHANNELS = ("t2f", "t1n", "t1c", "t2w")
TASK01_LABELS: Mapping[str, int] = {"ED": 1, "NCR": 2, "ET": 3}
HIPPOCAMPUS_LABELS: Mapping[str, int] = {"anterior": 1, "posterior": 2}

_MODALITIES = {
    "flair": "t2f", "t2f": "t2f", "t1w": "t1n", "t1": "t1n", "t1n": "t1n", "mri": "t1n",
    "t1gd": "t1c", "t1ce": "t1c", "t1c": "t1c", "t2w": "t2w", "t2": "t2w",
}  # fmt: skip
_STRUCTURES = {
    "edema": "ED",
    "non-enhancing tumor": "NCR",
    "non-enhancing tumour": "NCR",
    "enhancing tumor": "ET",
    "enhancing tumour": "ET",
}


def is_decathlon(folder: Path) -> bool:
    """True where the folder has the Decathlon's `imagesTr`."""
    return (folder / "imagesTr").is_dir()


def is_pairs(folder: Path) -> bool:
    """True where the folder, or a folder in it, holds `<case>-img.nii.gz`."""
    return any(_pair_images(folder))


def open_decathlon(folder: Path, *, name: str) -> Cohort:
    """The cases of a Decathlon task folder; `imagesTs` are cases without a label.

    Raises:
        DataError: no case, a `dataset.json` that cannot be read, or channels that are not ours.
    """
    paths = [path for part in ("imagesTr", "imagesTs") for path in _volumes(folder / part)]
    if not paths:
        raise DataError(f"{folder.name}: imagesTr holds no .nii.gz file", code="no-case")
    described = _described(folder / "dataset.json")
    channels = _channels(described, paths[0])
    cases = tuple(_decathlon_case(path, folder=folder, channels=channels) for path in paths)
    if described is not None:
        label_map: Mapping[str, int] | None = _label_map(described)
    else:
        label_map = TASK01_LABELS if len(channels) == 4 else _labels_by_name(cases)
    labelled = any(case.label is not None for case in cases)
    return Cohort(name, folder, cases, label_map=label_map if labelled else None)


def open_pairs(folder: Path, *, name: str) -> Cohort:
    """The cases of a folder of `<case>-img`, `<case>-seg` pairs, one T1 each.

    Raises:
        DataError: no pair, or two images of one name.
    """
    cases: dict[str, Case] = {}
    for path in _pair_images(folder):
        case, suffix = path.name.split("-img.", 1)
        if case in cases:
            raise DataError(f"case {case}: two images; keep one", code="ambiguous")
        label = path.with_name(f"{case}-seg.{suffix}")
        cases[case] = Case(case, case, {"t1n": ImageSource(path)}, label=label if label.exists() else None)
    found = tuple(cases[case] for case in sorted(cases))
    if not found:
        raise DataError(f"{folder.name}: no <case>-img.nii.gz found", code="no-case")
    return Cohort(name, folder, found, label_map=_labels_by_name(found))


def _pair_images(folder: Path) -> list[Path]:
    near = [path for pattern in ("*-img.nii*", "*/*-img.nii*") for path in folder.glob(pattern)]
    return sorted(path for path in near if not path.name.startswith("."))


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.nii*") if not path.name.startswith("."))


def _stem(path: Path) -> str:
    return path.name.split(".nii", 1)[0]


def _described(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"dataset.json: cannot be read ({error})", code="cohort") from error
    for key in ("modality", "labels"):
        if not isinstance(described, dict) or not isinstance(described.get(key), dict):
            raise DataError(f'dataset.json: "{key}" is missing; it maps numbers to names', code="cohort")
    return dict(described)


def _channels(described: Mapping[str, Any] | None, first: Path) -> tuple[str, ...]:
    """Our name of each channel, in the file's order."""
    if described is None:
        volumes = inspect_header(first).volumes
        if volumes not in (1, 4):
            raise DataError(
                f"{first.name}: {volumes} channels and no dataset.json that names them", code="dimensions"
            )
        return TASK01_CHANNELS if volumes == 4 else ("t1n",)
    named = [str(described["modality"][key]) for key in sorted(described["modality"], key=_number)]
    unknown = [channel for channel in named if channel.lower() not in _MODALITIES]
    if unknown:
        raise DataError(
            f"dataset.json: modality {unknown[0]!r} is none of FLAIR, T1w, t1gd, T2w, MRI", code="cohort"
        )
    return tuple(_MODALITIES[channel.lower()] for channel in named)


def _label_map(described: Mapping[str, Any]) -> Mapping[str, int]:
    named = {_number(code): str(text).lower() for code, text in described["labels"].items()}
    return {_STRUCTURES.get(text, text): code for code, text in sorted(named.items()) if code != 0}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"dataset.json: {text!r} should be a number", code="cohort") from error


def _labels_by_name(cases: tuple[Case, ...]) -> Mapping[str, int] | None:
    """The hippocampus task's codes where every case is named after it; else nobody said."""
    labelled = [case for case in cases if case.label is not None]
    named = all(case.name.startswith("hippocampus") for case in labelled)
    return HIPPOCAMPUS_LABELS if labelled and named else None


def _decathlon_case(path: Path, *, folder: Path, channels: tuple[str, ...]) -> Case:
    several = len(channels) > 1
    images = {
        channel: ImageSource(path, number if several else None) for number, channel in enumerate(channels)
    }
    label = folder / "labelsTr" / path.name
    return Case(_stem(path), _stem(path), images, label=label if label.exists() else None)
