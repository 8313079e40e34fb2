"""A release comes back to the site: checked against its lineage, kept whole or not at all, then used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from client import audit
from client.site import Site
from common.errors import InputError
from common.files import sweep_drafts
from common.releases import LINEAGE_FILE, MODEL_FILE, Release, copy_release, read_release, verify

FOLDER = "releases"


def receive(site: Site, folder: Path) -> Release:
    """Copy a release, as `fedglia release export` wrote it, to SITE/releases/; returns the copy.

    Receiving the same release again changes nothing; what is given is looked at all the same.

    Args:
        site: the site.
        folder: the release, or a folder that holds it and no other.

    Raises:
        InputError: no readable release, or another one of that name and version is here.
        CheckpointError: a file, given or kept, is not the one that the lineage describes.
        RunError: the audit record cannot be written; the release stays.
    """
    given = read_release(_release_in(folder))
    sweep_drafts(site.folder / FOLDER)
    there = site.folder / FOLDER / given.title
    if there.exists():
        kept = read_release(there)
        if kept.lineage != given.lineage:
            raise InputError(f"another release {given.title} is here already; remove it first: {there}")
        verify(given)
        verify(kept)
        return kept
    copy = read_release(copy_release(given, site.folder / FOLDER))
    audit.note(site.folder, "model received", {"release": copy.title, "sha256": _sha256(copy)})
    return copy


def _release_in(folder: Path) -> Path:
    """The release that a person means: `export OUT` writes OUT/NAME-VERSION, and OUT is easily given."""
    if not folder.is_dir():
        raise InputError(f"{folder.name}: give the folder that `fedglia release export` wrote")
    inside = [file.parent for file in folder.glob(f"[!.]*/{LINEAGE_FILE}")]
    if (folder / LINEAGE_FILE).exists() or not inside:
        return folder
    if len(inside) > 1:
        held = ", ".join(sorted(release.name for release in inside))
        raise InputError(f"{folder.name}: holds several releases, give one of them: {held}")
    return inside[0]


def words(site: Site, release: Release) -> Iterator[str]:
    """Where a release comes from, as this hospital wants to know it."""
    lineage = release.lineage
    plan = lineage.get("plan") or {}
    digest = str(plan.get("sha256", "?"))
    approved = site.policy is not None and digest in site.policy.approved_hashes
    yield f"release {release.title}, model SHA-256 {_sha256(release)}"
    name, yes = audit.plain(str(plan.get("name"))), "approved here" if approved else "not approved here"
    yield f"plan {name} {digest[:12]}, {yes}"
    rounds = [entry for entry in lineage.get("rounds") or () if isinstance(entry, dict)]
    ours = [entry.get("round") for entry in rounds if site.name in (entry.get("folded") or ())]
    yield f"{len(rounds)} round(s) went into it; this site's updates are in {len(ours)} of them"
    if lineage.get("subset_rounds"):
        yield f"rounds {', '.join(map(str, lineage['subset_rounds']))} were merged from a part of the sites"
    yield "digests show damage and mix-ups and are no signature: compare the SHA-256 with the coordinator's"
    model = release.folder / MODEL_FILE
    yield f"segment with it: fedglia predict SCANS LABEL_MAPS --model {model}"


def _sha256(release: Release) -> str:
    model = release.lineage.get("model")
    return str(model.get("sha256", "?")) if isinstance(model, dict) else "?"
