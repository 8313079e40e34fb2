"""Releases: a global model with its lineage and card, in a folder that is never changed once it is there.

    RUN/releases/<name>-<version>/model.safetensors  model-card.md  lineage.json

`lineage.json` holds the digests of the other two. They show damage and mix-ups; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoint import load, save
from common.errors import CheckpointError, InputError
from common.files import write_atomic

MODEL_FILE = "model.safetensors"
CARD_FILE = "model-card.md"
LINEAGE_FILE = "lineage.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+]{0,31}")


@dataclass(frozen=True)
class Release:
    """A release as its lineage tells it; `verify` says whether the files still agree."""

    name: str
    version: str
    folder: Path
    lineage: dict[str, Any]

    @property
    def title(self) -> str:
        """`<name>-<version>`, which is also its folder's name."""
        return f"{self.name}-{self.version}"

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")


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
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
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
    return tuple(_read(folder) for folder in folders if folder.is_dir())


def show(run_dir: Path, title: str) -> Release:
    """One release by `<name>-<version>`.

    Raises:
        InputError: there is none; the message names those that are.
    """
    found = {release.title: release for release in list_releases(run_dir)}
    if title not in found:
        raise InputError(f"there is no release '{title[:80]}'; there are: {', '.join(found) or 'none'}")
    return found[title]


def verify(release: Release) -> None:
    """Check that model and card are those that the lineage describes.

    Raises:
        CheckpointError: a file is missing, its digest differs, or the model names another plan.
    """
    for file, key in ((MODEL_FILE, "model"), (CARD_FILE, "card")):
        stated = release.lineage.get(key)
        expected = stated.get("sha256") if isinstance(stated, Mapping) else None
        found = _digest(release.folder / file)
        if found != expected:
            raise CheckpointError(
                f"release {release.title}: {file} is not the one that {LINEAGE_FILE} describes (SHA-256 "
                f"{found[:12]}, expected {str(expected)[:12]}); it was changed or damaged: do not use it, "
                "make the release again from its run"
            )
    provenance = load(release.folder / MODEL_FILE).provenance
    if provenance.get("plan") != release.lineage.get("plan"):
        raise CheckpointError(
            f"release {release.title}: the model says that it comes from another plan than {LINEAGE_FILE}"
        )


def export(release: Release, out: Path) -> Path:
    """Copy a release to `out`, a folder that is made if missing; returns the copy.

    Raises:
        CheckpointError: the release, or the copy, does not agree with its lineage.
        InputError: `out` holds a release of that name.
    """
    verify(release)
    target = out / release.title
    if target.exists():
        raise InputError(f"{target.name} is in the target folder already; remove it or name another folder")
    draft = out / f".{release.title}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for file in (MODEL_FILE, CARD_FILE, LINEAGE_FILE):
            shutil.copyfile(release.folder / file, draft / file)
        verify(_read(draft))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_files(folder: Path, lineage: dict[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
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
        "sha256": _digest(model),
        "bytes": model.stat().st_size,
        "fingerprint": load(model).provenance.get("fingerprint"),
    }
    lineage["card"] = {"file": CARD_FILE, "sha256": _digest(folder / CARD_FILE)}
    text = json.dumps(lineage, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(folder / LINEAGE_FILE, f"{text}\n".encode())


def _read(folder: Path) -> Release:
    try:
        lineage = json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8"))
        return Release(str(lineage["name"]), str(lineage["version"]), folder, lineage)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"release {folder.name}: its {LINEAGE_FILE} cannot be read; make the release again from its run"
        ) from None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"release {path.parent.name}: {path.name} cannot be read ({error.strerror})"
        ) from None
