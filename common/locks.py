"""The one way to lock a file or folder: however its process ends, the system gives the lock back."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import LockedError

_TRY_AGAIN_S = 0.02


def lock(descriptor: int, *, wait_s: float, refusal: str) -> None:
    """Take the lock of an open file or folder; closing it, or the end of the process, gives it back.

    Args:
        descriptor: of the file or folder.
        wait_s: how long another may go on holding it. More than 0: who only looks holds it for a moment too.
        refusal: what to say when the wait is over.

    Raises:
        LockedError: another process holds it.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise LockedError(refusal) from None
            time.sleep(_TRY_AGAIN_S)
        else:
            return


@contextmanager
def locked(path: Path, *, wait_s: float, refusal: str) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; it is made where there is none.

    Raises:
        LockedError: another process holds it.
    """
    with path.open("a") as handle:
        lock(handle.fileno(), wait_s=wait_s, refusal=refusal)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; where the file is missing, none does.

    Raises:
        OSError: it belongs to somebody else, and cannot be looked at.
    """
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
