"""Prepared cases on disk, so that a scan is unpacked and resampled once.

An entry's name is a hash over the content of the case's files, the settings and this format's version: a file
that changes is prepared again, wherever it lies. Entries are written in one step and carry a checksum; one
that is damaged is made anew. They hold patients' scans and stay at the site.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.data.cases import Case, Cohort
from common.data.geometry import Geometry
from common.data.transforms import Preparation, PreparedCase, prepare
from common.errors import DataError
from common.files import write_atomic

VERSION = 1
"""Goes up when the same scan and settings would be prepared differently."""


class Cache:
    """A folder of prepared cases; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def prepared(self, case: Case, cohort: Cohort, preparation: Preparation) -> PreparedCase:
        """The prepared case, from disk where it is there.

        Raises:
            DataError: as `transforms.prepare`.
        """
        path = self.folder / f"{entry_key(case, cohort, preparation)}.safetensors"
        found = load_entry(path, case)
        if found is None:
            found = prepare(case, cohort, preparation)
            write_atomic(path, packed(found))
        return found


def entry_key(case: Case, cohort: Cohort, preparation: Preparation) -> str:
    """Hash (64 hexadecimal digits) of everything that a prepared case depends on."""
    degradation = preparation.degradation or cohort.degraded
    content = {
        "version": VERSION,
        "images": {
            modality: [_digest_of(source.path, case), source.channel]
            for modality, source in case.images.items()
            if modality in preparation.modalities
        },
        "label": case.label and _digest_of(case.label, case),
        "label_map": dict(cohort.label_map or {}),
        "settings": asdict(preparation) | {"degradation": degradation},
        "seeded_by": case.name if degradation else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path, case: Case) -> str:
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"case {case.name}: {path.name} cannot be read ({error.strerror})", code="not-a-file"
        ) from error


@lru_cache(maxsize=65536)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    """Memoised by size and time of change, which are arguments for that alone."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packed(case: PreparedCase) -> bytes:
    """A prepared case as the content of an entry."""
    arrays: dict[str, NDArray[Any]] = {"image": case.image}
    if case.label is not None:
        arrays["label"] = case.label
    about = {"geometry": asdict(case.geometry), "present": case.present, "crc32": _checksum(arrays)}
    return save(arrays, metadata={"about": json.dumps(about)})


def load_entry(path: Path, case: Case) -> PreparedCase | None:
    """The prepared case of `case` in an entry's file, or None where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads(file.metadata()["about"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if about["crc32"] != _checksum(arrays):
            return None
        geometry = _geometry(about["geometry"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return PreparedCase(
        name=case.name,
        patient=case.patient,
        image=arrays["image"],
        label=arrays.get("label"),
        geometry=geometry,
        present=tuple(about["present"]),
    )


def _checksum(arrays: dict[str, NDArray[Any]]) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, total)
    return total


def _geometry(fields: dict[str, Any]) -> Geometry:
    return Geometry(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:  # noqa: ANN401 - JSON's own lists of lists
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
