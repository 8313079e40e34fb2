"""Run a command with a folder seen as a systemd unit lets it be seen, without systemd.

    unshare --mount python -m tests.deploy.under_mounts UNIT STATE COMMAND...

STATE takes the place of /var/lib/fedglia, and /srv/fedglia holds one scan. What it keeps of the unit:
TemporaryFileSystem=, BindReadOnlyPaths=, BindPaths=, InaccessiblePaths=. Root may look into a folder of
mode 000, so what is inaccessible is empty here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.under_unit import settings

SEEN = Path("/var/lib/fedglia")
SCAN = Path("/srv/fedglia/scans/scan.nii.gz")


def arrange(unit: Path, state: Path) -> None:
    """Mount everything as the unit says it, in this process's own namespace."""
    words = {key: " ".join(values).split() for key, values in settings(unit).items()}
    for place, over in ((SEEN, "/var/lib"), (SCAN.parent, "/srv")):
        mount("-t", "tmpfs", "tmpfs", over)
        place.mkdir(parents=True)
    SCAN.write_text("a scan")
    mount("--bind", str(state), str(SEEN))
    emptied = [word.partition(":") for word in words.get("TemporaryFileSystem", ())]
    for name, _, _ in emptied:
        mount("-t", "tmpfs", "tmpfs", name)
    for key in ("BindReadOnlyPaths", "BindPaths"):
        for word in words.get(key, ()):
            bind(word, state, read_only=key == "BindReadOnlyPaths")
    for name in words.get("InaccessiblePaths", ()):
        if Path(name).is_dir():
            mount("-t", "tmpfs", "-o", "mode=000", "tmpfs", name)
        else:
            mount("--bind", os.devnull, name)
    for name, _, options in emptied:
        mount("-o", f"remount,{options or 'rw'}", name)


def bind(word: str, state: Path, *, read_only: bool) -> None:
    """One part of the state folder, at its own place."""
    target = Path(word.removeprefix("-"))
    source = state / target.relative_to(SEEN)
    if not source.exists():
        if word.startswith("-"):
            return
        raise FileNotFoundError(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir() if source.is_dir() else target.touch()
    mount("--bind", str(source), str(target))
    if read_only:
        mount("-o", "remount,bind,ro", str(target))


def mount(*words: str) -> None:
    """The system's own command."""
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    arrange(Path(sys.argv[1]), Path(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
