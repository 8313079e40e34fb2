"""How long this site keeps what: what nobody used for long is removed, and the cache has a limit in bytes.

Done at a start, and once a day by the worker after a message. The records of what left and what was decided,
kept models and received releases are never removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from client import refusal
from client.policy import Policy
from common import processes
from common.files import sweep_drafts

DAY_S = 86400.0
DRAFT_S = 60.0
"""A younger draft may be one that a process is writing; what a kill left goes with the next sweep."""
SWEPT = Path("state") / "swept"
"""In a site folder: its time of change is that of the last sweep."""


def sweep(folder: Path, policy: Policy) -> Iterator[str]:
    """Remove what the policy does not keep any longer; yields what was removed, in words.

    May be called while the site runs: nothing that is being written or was used lately is touched.
    """
    days = policy.log_days
    logs = [*processes.sweep(folder, older_than_days=days, keep=4), *_old_logs(folder, days)]
    for part in (folder, folder / "run", folder / "models", folder / "cache"):
        sweep_drafts(part, older_than_s=DRAFT_S)
    runs = [path for path in (folder / "state").glob("*") if path.is_dir() and unused_days(path) > days]
    for path in runs:
        shutil.rmtree(path, ignore_errors=True)
    starts = _unlinked(_unused(folder / "models", "start-*.safetensors", days))
    cases = _unlinked(_unused(folder / "cache", "*.safetensors", days))
    swept = ((len(logs), "log(s)"), (len(runs), "state(s) of runs"), (starts, "starting model(s)"))
    for count, what in (*swept, (cases, "prepared case(s)")):
        if count:
            yield f"swept {count} {what} that nobody used for {days:g} days"
    over = trim(folder / "cache", int(policy.cache_gb * 1e9))
    if over:
        yield f"swept {over} prepared case(s), those used longest ago: cache_gb is {policy.cache_gb:g}"
    with contextlib.suppress(OSError):
        (folder / SWEPT).touch()


def sweep_daily(folder: Path, policy: Policy) -> None:
    """Sweep, if that was not done for a day. Never raises: what stays is swept another time."""
    with contextlib.suppress(OSError):
        done = (folder / SWEPT).stat().st_mtime if (folder / SWEPT).exists() else 0.0
        if not 0 <= time.time() - done < DAY_S:
            list(sweep(folder, policy))


def trim(folder: Path, most_bytes: int) -> int:
    """Remove the prepared cases that were used longest ago until the rest fits; returns how many went."""
    entries = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            entries.append((_last_used(path.stat()), path.stat().st_size, path))
    total, gone = sum(size for _, size, _ in entries), []
    for _, size, path in sorted(entries):
        if total <= most_bytes:
            break
        total -= size
        gone.append(path)
    return _unlinked(gone)


def used(path: Path) -> None:
    """Say that a file is in use, also where the disk does not note when it was read."""
    with contextlib.suppress(OSError):
        os.utime(path)


def unused_days(path: Path) -> float:
    """Days since a file, or anything directly in a folder, was written or read."""
    try:
        inside = [path, *path.iterdir()] if path.is_dir() else [path]
        last = max(item.stat().st_mtime if item.is_dir() else _last_used(item.stat()) for item in inside)
    except OSError:  # gone meanwhile
        return 0.0
    return (time.time() - last) / DAY_S


def _last_used(status: os.stat_result) -> float:
    return max(status.st_mtime, status.st_atime)


def _unused(folder: Path, pattern: str, days: float) -> list[Path]:
    return [path for path in folder.glob(pattern) if unused_days(path) > days]


def _old_logs(folder: Path, days: float) -> list[str]:
    """Older parts of site.log; the one that is written now is never removed."""
    old = _unused(folder, f"{refusal.FILE}.*", days)
    _unlinked(old)
    return [path.name for path in old]


def _unlinked(paths: list[Path]) -> int:
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)
