"""How commands change site.toml: in place, with people's comments kept, whole or not at all.

What a change would make unreadable is not written, so a command can never leave a site without a policy.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from client.site import site_of
from common import locks
from common.errors import SiteError
from common.files import write_atomic

PATIENCE_S = 20.0
"""How long to wait for another process that writes; it needs milliseconds."""


@contextmanager
def edited(folder: Path) -> Iterator[tomlkit.TOMLDocument]:
    """The site.toml of a folder, to be changed in the block; written when the block ends without an error.

    Raises:
        SiteError: it cannot be read, or what was made of it could not be; then it stays as it was.
        LockedError: another command has been changing it for long.
        RunError: it cannot be written.
    """
    path = (folder / "site.toml").resolve()  # a link stays a link
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, what="site.toml")
        try:
            document = tomlkit.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, TOMLKitError) as error:
            raise SiteError(f"{folder.name}: no usable site.toml ({error})") from None
        yield document
        text = tomlkit.dumps(document)
        site_of(tomllib.loads(text), folder)
        write_atomic(path, text.encode(), mode=stat.S_IMODE(path.stat().st_mode))
    finally:
        os.close(descriptor)


def policy_of(document: tomlkit.TOMLDocument) -> Any:  # noqa: ANN401 - tomlkit's own containers
    """The [policy] table of a document; made where there is none."""
    if "policy" not in document:
        document["policy"] = tomlkit.table()
    return document["policy"]


def lock(descriptor: int, *, what: str) -> None:
    """Take the lock of an open file or folder of the site.

    Raises:
        LockedError: another process has held it for 20 s.
    """
    refusal = f"{what}: another process has been writing it for {PATIENCE_S:g} s; end it and try again"
    locks.lock(descriptor, wait_s=PATIENCE_S, refusal=refusal)
