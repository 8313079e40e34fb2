"""The bytes of a scan file: a regular file, unpacked as it streams, never more than was announced.

A gzip of a few kilobytes can unpack to gigabytes, a pipe can block for ever, a link can point out of the
data folder, and gzip's checksum is only compared by who reads to the end. These functions see to all four;
what goes wrong is a `DataError` in words.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

MAX_BEHIND = 1 << 20
"""Bytes that may follow what was announced; more is not padding."""

_CHUNK = 1 << 20


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unzipped where it is a gzip; errors while reading inside the block become a DataError.

    Raises:
        DataError: not a regular file, a link that leaves its folder, damaged or cut short.
    """
    with _open_regular(path) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path.name}: damaged or cut short ({error}); copy it again", code="damaged"
            ) from error


def filled(stream: BinaryIO, count: int, *, name: str) -> NDArray[np.uint8]:
    """The next `count` bytes; memory is touched only as far as the file really reaches.

    Raises:
        DataError: the stream ends before.
    """
    buffer = np.empty(count, dtype=np.uint8)
    done = 0
    while done < count:
        piece = stream.read(min(_CHUNK, count - done))
        if not piece:
            raise DataError(f"{name}: cut short, {count - done} bytes of voxels are missing", code="damaged")
        buffer[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        done += len(piece)
    return buffer


def skip(stream: BinaryIO, count: int, *, name: str) -> None:
    """Reads `count` bytes and drops them.

    Raises:
        DataError: the stream ends before.
    """
    while count > 0:
        piece = stream.read(min(_CHUNK, count))
        if not piece:
            raise DataError(f"{name}: cut short, {count} bytes are missing", code="damaged")
        count -= len(piece)


def check_end(stream: BinaryIO, *, name: str) -> None:
    """Reads to the end of the stream, which compares gzip's checksum.

    Raises:
        DataError: more than `MAX_BEHIND` bytes follow.
    """
    behind = 0
    while piece := stream.read(_CHUNK):
        behind += len(piece)
        if behind > MAX_BEHIND:
            raise DataError(f"{name}: more data behind the voxels than its header declares", code="damaged")


def _open_regular(path: Path) -> BinaryIO:
    """Opens without blocking on a pipe, and refuses what is no plain file of its own folder."""
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(path.parent.resolve()):
            raise DataError(
                f"{path.name}: a link to another folder; copy the file itself here", code="not-a-file"
            )
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "a link that leads to itself"
        raise DataError(f"{path.name}: cannot be opened ({reason})", code="not-a-file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path.name}: not a regular file", code="not-a-file")
    return io.BufferedReader(io.FileIO(descriptor), _CHUNK)
