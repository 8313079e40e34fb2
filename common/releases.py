"""Releases as both sides read them: a global model with its lineage and card, checked before it is used.

    <name>-<version>/model.safetensors  model-card.md  lineage.json

The hub makes them (`server/registry.py`), a site receives them. `lineage.json` holds the digests of the
other two: they show damage and mix-ups; they are no signature.
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

from common.errors import CheckpointError, InputError

MODEL_FILE = "model.safetensors"
CARD_FILE = "model-card.md"
LINEAGE_FILE = "lineage.json"

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+]{0,31}")


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


def read_release(folder: Path) -> Release:
    """The release in a folder, as its lineage tells it; `verify` says whether that is true.

    Raises:
        InputError: there is no readable lineage, or it names what cannot be a release.
    """
    try:
        lineage = json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8"))
        name, version = str(lineage["name"]), str(lineage["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"release {folder.name}: its {LINEAGE_FILE} cannot be read; make the release again from its run"
        ) from None
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):  # they become the name of a folder
        raise InputError(f"release {folder.name}: {LINEAGE_FILE} gives it a name that no release can have")
    return Release(name, version, folder, lineage)


def verify(release: Release) -> None:
    """Check that model and card are those that the lineage describes.

    Raises:
        CheckpointError: a file is missing, its digest differs, or the model names another plan.
    """
    from common.checkpoint import load

    for file, key in ((MODEL_FILE, "model"), (CARD_FILE, "card")):
        stated = release.lineage.get(key)
        expected = stated.get("sha256") if isinstance(stated, Mapping) else None
        found = digest(release.folder / file)
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


def copy_release(release: Release, out: Path) -> Path:
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
        verify(read_release(draft))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def digest(path: Path) -> str:
    """SHA-256 of a release's file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"release {path.parent.name}: {path.name} cannot be read ({error.strerror})"
        ) from None
