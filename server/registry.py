"""Releases: a global model with its lineage and card, in a folder that is never changed once it is there.

    RUN/releases/<name>-<version>/model.safetensors  model-card.md  lineage.json

`lineage.json` holds the digests of the other two. They show damage and mix-ups; they are no signature.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import write_atomic
from common.releases import (
    CARD_FILE,
    LINEAGE_FILE,
    MODEL_FILE,
    NAME,
    VERSION,
    Release,
    digest,
    read_release,
)

if TYPE_CHECKING:
    from torch import Tensor


def make_release(
    run_dir: Path,
    name: str,
    *,
    version: str,
    tensors: Mapping[str, Tensor],
    lineage: Mapping[str, Any],
    card: str,
) -> Path:
    """Write a release, whole or not at all; returns its folder.

    Args:
        run_dir: the run that made the model.
        name: lower-case letters, digits and '-'.
        version: letters, digits, '.' and '+'.
        tensors: the whole model.
        lineage: JSON values with at least `plan` and `preset`; name, version and digests are added.
        card: the model card, Markdown.

    Raises:
        InputError: an unusable name or version, or a release of that name and version is there.
    """
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise InputError(
            f"'{name[:50]}' '{version[:32]}': a release is named by lower-case letters, digits and '-', "
            "and its version by letters, digits, '.' and '+'"
        )
    folder = run_dir / "releases" / f"{name}-{version}"
    if folder.exists():
        raise InputError(f"release {folder.name} exists and is never changed; choose another version")
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)  # of a kill; a run has one writer
    draft.mkdir(parents=True)
    try:
        _write_files(draft, {**lineage, "name": name, "version": version}, tensors, card)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def list_releases(run_dir: Path) -> tuple[Release, ...]:
    """The releases of a run, by name and version; none where none were made.

    Raises:
        InputError: a release's lineage cannot be read.
    """
    folders = sorted((run_dir / "releases").glob("[!.]*"))
    return tuple(read_release(folder) for folder in folders if folder.is_dir())


def show(run_dir: Path, title: str) -> Release:
    """One release by `<name>-<version>`.

    Raises:
        InputError: there is none; the message names those that are.
    """
    found = {release.title: release for release in list_releases(run_dir)}
    if title not in found:
        raise InputError(f"there is no release '{title[:80]}'; there are: {', '.join(found) or 'none'}")
    return found[title]


def _write_files(folder: Path, lineage: dict[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    from common.checkpoint import load, save

    known = ("name", "version", "plan", "preset", "task", "spacing_mm", "round", "phantom_sites")
    save(
        folder / MODEL_FILE,
        tensors,
        {key: lineage[key] for key in known if key in lineage} | {"kind": "release"},
    )
    write_atomic(folder / CARD_FILE, card.encode())
    model = folder / MODEL_FILE
    lineage["model"] = {
        "file": MODEL_FILE,
        "sha256": digest(model),
        "bytes": model.stat().st_size,
        "fingerprint": load(model).provenance.get("fingerprint"),
    }
    lineage["card"] = {"file": CARD_FILE, "sha256": digest(folder / CARD_FILE)}
    text = json.dumps(lineage, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(folder / LINEAGE_FILE, f"{text}\n".encode())
