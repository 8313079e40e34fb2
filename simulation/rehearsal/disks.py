"""A small disk under a folder that is full at a word: a file system in memory, where mounting is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

_COMMAND_S = 20.0
_PAGE_BYTES = 1 << 12


@dataclass(frozen=True)
class Disk:
    """A mounted file system of its own."""

    folder: Path
    size_bytes: int

    def fill(self) -> None:
        """Leave no room: from now on every new page is refused, as on a full disk."""
        room = os.statvfs(self.folder)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        _run("mount", "-o", f"remount,size={used + _PAGE_BYTES}", str(self.folder))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        _run("mount", "-o", f"remount,size={self.size_bytes}", str(self.folder))


@contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[Disk | None]:
    """A file system of its own at `folder`, gone at the end with what it holds; None where nobody may mount.

    Raises:
        RunError: it cannot be unmounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder))
    except RunError:
        yield None
        return
    try:
        yield Disk(folder, size_bytes)
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take away what is mounted at a folder, also where a process still holds it.

    Raises:
        RunError: that was refused.
    """
    if folder.is_mount():
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None or os.geteuid() != 0:
        raise RunError(f"{command[0]}: only root may mount, where there is such a program")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if done.returncode:
        raise RunError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
