"""A hub in one file: what cannot be made again, and what the runs gave.

The archive holds hub.toml, the keys and certificates, the secret, the admissions, and of each run its plan,
events, summary, report and releases; with `--with-runs` its checkpoints and all else. Flower's database is
not in it: the admissions fill a new one. Whoever holds the file can be the hub, so it is mode 0600.

The last member is a list of all others with their SHA-256; nothing is believed that does not agree with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any

from common import certificates
from common.errors import InputError, RunError
from common.files import sync_folder
from server.hub.folder import Hub, open_hub
from server.hub.making import draft_of

MANIFEST = "manifest.json"
_ALWAYS = ("hub.toml", "secret", "admissions.json")
_PARTS = ("pki", "runs")
_OF_RUNS = ("plan.toml", "plan.sha256", "run.json", "events.jsonl", "summary.json", "report.html")
_LEFT_OUT = ("spool", "lock", "hub.lock", "stop")
_LONGEST_MANIFEST = 64 << 20
_BLOCK = 1 << 20


def back_up(hub: Hub, file: Path, *, with_runs: bool) -> int:
    """Write a backup and read it back; the hub may run meanwhile. Returns the number of files in it.

    Args:
        hub: as it is now.
        file: must not exist; appears whole or not at all.
        with_runs: also checkpoints and rounds, with which an unfinished run can be resumed.

    Raises:
        InputError: the file exists, or its folder does not.
        RunError: the disk is full, or what was written does not read back the same.
    """
    if file.exists():
        raise InputError(f"{file.name}: exists; a backup replaces nothing, name a new file")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file.name}: its folder does not exist; make it first")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            _write(hub, handle, with_runs=with_runs)
            handle.flush()
            os.fsync(handle.fileno())
        found = _read(draft, None)
        os.link(draft, file)  # unlike a rename, this replaces nothing
        sync_folder(file.absolute().parent)
    except OSError as error:
        raise RunError(
            f"{file.name}: cannot be written ({error.strerror}); make room", code="disk"
        ) from error
    except InputError as error:
        raise RunError(f"{file.name}: does not read back as it was written ({error})", code="disk") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return len(found)


def restore(file: Path, folder: Path) -> Hub:
    """Make a hub's folder from a backup; it appears whole or not at all.

    Args:
        file: written by `back_up`.
        folder: must be missing or empty.

    Raises:
        InputError: the folder holds something; or the file is no backup, is damaged, or holds what no backup
            does, such as a link or a path that leads out of the folder.
        RunError: the disk is full.
    """
    try:
        with draft_of(folder) as draft:
            _read(file, draft)
            (draft / "runs").mkdir(mode=0o700, exist_ok=True)
            open_hub(draft)
            certificates.read_certificate(draft / "pki" / "ca.crt")
    except OSError as error:
        raise RunError(
            f"{folder.name}: cannot be written ({error.strerror}); make room", code="disk"
        ) from error
    return open_hub(folder)


def _write(hub: Hub, handle: IO[bytes], *, with_runs: bool) -> None:
    files: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=handle, mode="w:gz", compresslevel=1) as archive:
        for path in _chosen(hub, with_runs=with_runs):
            # A run may write meanwhile: its files are replaced as a whole, and the log only grows.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as source:
                name = path.relative_to(hub.folder).as_posix()
                entry = _entry(name, os.fstat(source.fileno()).st_size)
                digest = _Digesting(source, entry.size)
                archive.addfile(entry, digest)
                files[name] = {"bytes": entry.size, "sha256": digest.sha256.hexdigest()}
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        words = {"schema": 1, "fedglia": version("fedglia"), "made_at": made_at, "files": files}
        content = json.dumps(words, indent=1).encode()
        archive.addfile(_entry(MANIFEST, len(content)), io.BytesIO(content))


def _chosen(hub: Hub, *, with_runs: bool) -> Iterator[Path]:
    yield from (path for name in _ALWAYS if (path := hub.folder / name).is_file())
    yield from sorted(hub.pki.glob("*.key")) + sorted(hub.pki.glob("*.crt"))
    for run in sorted(hub.runs_folder.glob("*/")):
        for path in sorted(run.rglob("*")):
            inside = path.relative_to(run).parts
            if path.is_symlink() or not path.is_file() or any(part.endswith(".tmp") for part in inside):
                continue
            if inside[0] == "releases" or inside[0] in _OF_RUNS or (with_runs and inside[0] not in _LEFT_OUT):
                yield path


def _read(file: Path, target: Path | None) -> dict[str, Any]:
    """Check every member, copy it below `target` if there is one; returns the manifest's files."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, mode="r|gz") as archive:
            for member in archive:
                source = _checked(file, member, found, archive)
                if member.name == MANIFEST:
                    return _agreed(file, found, source.read(_LONGEST_MANIFEST))
                found[member.name] = _copied(source, member, target)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and target is not None and file.is_file():
            raise
        raise InputError(f"{file.name}: is no backup of a hub, or is damaged; take another") from None
    raise InputError(f"{file.name}: ends too early; take another backup")


def _checked(
    file: Path, member: tarfile.TarInfo, found: dict[str, dict[str, Any]], archive: tarfile.TarFile
) -> IO[bytes]:
    name = PurePosixPath(member.name)
    ours = member.name in (*_ALWAYS, MANIFEST) or (len(name.parts) > 1 and name.parts[0] in _PARTS)
    plain = (
        member.isreg()
        and not member.issparse()
        and str(name) == member.name
        and not name.is_absolute()
        and ".." not in name.parts
    )
    source = archive.extractfile(member) if plain and ours and member.name not in found else None
    if source is None:
        raise InputError(
            f"{file.name}: holds {member.name[:80]!r}, which no backup does; nothing was restored"
        )
    return source


def _copied(source: IO[bytes], member: tarfile.TarInfo, target: Path | None) -> dict[str, Any]:
    digest = _Digesting(source, member.size)
    with contextlib.ExitStack() as stack:
        out: IO[bytes] | None = None
        if target is not None:
            path = target / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            out = stack.enter_context(os.fdopen(descriptor, "wb"))
        while block := digest.read(_BLOCK):
            if out is not None:
                out.write(block)
        if out is not None:
            out.flush()
            os.fsync(out.fileno())
    return {"bytes": member.size, "sha256": digest.sha256.hexdigest()}


def _agreed(file: Path, found: dict[str, Any], content: bytes) -> dict[str, Any]:
    manifest = json.loads(content)
    if manifest.get("schema") != 1:
        raise InputError(
            f"{file.name}: was made by a newer FedGlia ({manifest.get('fedglia')}); use that one"
        )
    if manifest["files"] != found or "hub.toml" not in found:
        raise InputError(f"{file.name}: does not hold what it says; it was changed or damaged, take another")
    return found


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    return entry


class _Digesting:
    """Reads at most so many bytes of a file, and knows their SHA-256."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self.source, self.left, self.sha256 = source, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end."""
        block = self.source.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(block)
        self.sha256.update(block)
        return block
