"""Backup and restore: whole or not at all, and nothing that a stranger put into the file."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError, RunError
from server.hub import backup
from server.hub.backup import MANIFEST, back_up, restore
from server.hub.folder import Hub


@pytest.fixture
def used(hub: Hub) -> Hub:
    """A hub with an admission and a run of which there is more than a backup takes."""
    (hub.folder / "admissions.json").write_text("{}")
    (hub.folder / "state.db").write_bytes(b"Flower's")
    run = hub.runs_folder / "demo-1"
    for name in (
        *("run.json", "plan.toml", "summary.json", "lock", "releases/demo-r2/model.safetensors"),
        *(
            "checkpoints/round-0001.safetensors",
            "spool/ssa.bin",
            "releases/.demo-r3.0.tmp/x",
            "rounds/round-0001.json",
        ),
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"content of {name}")
    (run / "releases" / "link").symlink_to("/etc/hostname")
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_comes_back_is_what_was_there(used: Hub, tmp_path: Path) -> None:
    file = tmp_path / "hub.tar.gz"
    assert back_up(used, file, with_runs=False) == 13
    assert file.stat().st_mode & 0o777 == 0o600
    again = restore(file, tmp_path / "again")
    there, before = contents(again.folder), contents(used.folder)
    run = "runs/demo-1"
    assert {name: before[name] for name in there} == there
    assert {name for name in there if name.startswith(run)} == {
        *(f"{run}/{name}" for name in ("run.json", "plan.toml", "summary.json")),
        f"{run}/releases/demo-r2/model.safetensors",
    }
    assert set(before) - set(there) == {
        *(f"{run}/{name}" for name in ("lock", "checkpoints/round-0001.safetensors", "spool/ssa.bin")),
        *(
            f"{run}/{name}"
            for name in ("releases/.demo-r3.0.tmp/x", "releases/link", "rounds/round-0001.json")
        ),
        "state.db",
    }
    assert (again.address, again.ports) == (used.address, used.ports)
    assert (again.pki / "ca.key").stat().st_mode & 0o777 == 0o600


def test_with_runs_an_unfinished_one_can_go_on(used: Hub, tmp_path: Path) -> None:
    back_up(used, tmp_path / "file", with_runs=True)
    run = restore(tmp_path / "file", tmp_path / "again").runs_folder / "demo-1"
    assert (run / "checkpoints" / "round-0001.safetensors").is_file()
    assert (run / "rounds" / "round-0001.json").is_file()
    assert not (run / "spool").exists()
    assert not (run / "lock").exists()


def test_a_backup_replaces_nothing(used: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="exists; a backup replaces nothing"):
        back_up(used, tmp_path / "file", with_runs=False)
    with pytest.raises(InputError, match="its folder does not exist"):
        back_up(used, tmp_path / "none" / "file", with_runs=False)
    back_up(used, tmp_path / "other", with_runs=False)
    with pytest.raises(InputError, match="is a hub already"):
        restore(tmp_path / "other", used.folder)
    with pytest.raises(InputError, match="is not empty"):
        restore(tmp_path / "other", tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("moment", ["writing", "reading back"])
def test_a_full_disk_leaves_nothing(
    used: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if moment == "writing":
        monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    else:
        monkeypatch.setattr(os, "link", full)
    with pytest.raises(RunError, match="No space left"):
        back_up(used, out / "file", with_runs=False)
    assert list(out.iterdir()) == []


def test_what_reads_back_otherwise_is_no_backup(
    used: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(file: Path, target: Path | None) -> dict[str, object]:
        raise InputError("it was changed")

    monkeypatch.setattr(backup, "_read", bad)
    with pytest.raises(RunError, match="does not read back"):
        back_up(used, tmp_path / "file", with_runs=False)
    assert not (tmp_path / "file").exists()


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found, b""


def read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    source = archive.extractfile(info)
    assert source is not None
    return source.read()


def changed_byte(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, content = members[0]
    members[0] = (info, content.replace(b"localhost", b"localhosT", 1))


def newer(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, content = members[-1]
    words = json.dumps({**json.loads(content), "schema": 2}).encode()
    info.size = len(words)
    members[-1] = (info, words)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_byte, "does not hold what it says"),
        (lambda members: members.pop(3), "does not hold what it says"),
        (lambda members: members.pop(), "ends too early"),
        (lambda members: members.insert(0, entry("pki/extra")), "does not hold what it says"),
        (lambda members: members.insert(0, members[0]), "which no backup does"),
        (lambda members: members.insert(0, entry("pki/../../escaped")), "which no backup does"),
        (lambda members: members.insert(0, entry("runs/x/../../../escaped")), "which no backup does"),
        (lambda members: members.insert(0, entry("../escaped")), "which no backup does"),
        (lambda members: members.insert(0, entry("/etc/escaped")), "which no backup does"),
        (lambda members: members.insert(0, entry("pki//x")), "which no backup does"),
        (lambda members: members.insert(0, entry("edge/nginx.conf")), "which no backup does"),
        (lambda members: members.insert(0, entry("runs/x", tarfile.SYMTYPE, "/etc")), "which no backup does"),
        (
            lambda members: members.insert(0, entry("runs/x", tarfile.LNKTYPE, "secret")),
            "which no backup does",
        ),
        (lambda members: members.insert(0, entry("runs/x", tarfile.FIFOTYPE)), "which no backup does"),
        (lambda members: members.insert(0, entry("runs/x", tarfile.DIRTYPE)), "which no backup does"),
        (newer, "made by a newer FedGlia"),
    ],
)
def test_nothing_of_a_changed_file_is_restored(used: Hub, tmp_path: Path, change: Change, said: str) -> None:
    back_up(used, tmp_path / "file", with_runs=False)
    with tarfile.open(tmp_path / "file") as archive:
        members = [
            (info, ((source := archive.extractfile(info)) and source.read()) or b"") for info in archive
        ]
    change(members)
    with tarfile.open(tmp_path / "changed", "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    there = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=said):
        restore(tmp_path / "changed", tmp_path / "again")
    assert set(tmp_path.iterdir()) == there


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_refused(used: Hub, tmp_path: Path, keep: float) -> None:
    back_up(used, tmp_path / "file", with_runs=True)
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(InputError, match="take another"):
        restore(tmp_path / "cut", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name in ("text", "missing"):
        with pytest.raises(InputError, match="is no backup of a hub"):
            restore(tmp_path / name, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_list_comes_last(used: Hub, tmp_path: Path) -> None:
    back_up(used, tmp_path / "file", with_runs=False)
    with tarfile.open(tmp_path / "file") as archive:
        assert archive.getnames()[-1] == MANIFEST
