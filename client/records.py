"""The two records of a site: what left, what was decided. Nothing leaves while one of them is not whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client import accounts, audit, chain
from common.errors import SiteError

RECORDS: Mapping[str, str] = {accounts.FILE: "what left", audit.FILE: "what was decided"}
"""File -> what it is the record of."""


def damaged(folder: Path) -> dict[str, str]:
    """File -> what is wrong, of each record that is not as it was written; every line of both is read.

    Ten thousand lines cost some 70 ms.

    Raises:
        RunError: a record cannot be opened.
        LockedError: another process has been writing one for long.
    """
    verdicts = {file: chain.verify(folder / file) for file in RECORDS}
    return {file: verdict.words for file, verdict in verdicts.items() if verdict.bad_line is not None}


def check(folder: Path) -> None:
    """Refuse to go on with a record that was changed.

    Raises:
        SiteError: code `ledger`: one was.
        RunError, LockedError: as `damaged`.
    """
    for file, words in damaged(folder).items():
        raise SiteError(f"{complaint(file, words)}: {mend(file)}", code="ledger")


def complaint(file: str, words: str) -> str:
    """That a record is not as it was written, and what follows.

    Args:
        file: which.
        words: what is wrong with it.
    """
    return f"record of {RECORDS[file]}, {file}: {words}. Nothing leaves until it is whole again"


def mend(file: str) -> str:
    """What to do about it; how a new record is begun in place of a changed one."""
    head = chain.head_file(Path(file))
    return f"find out who changed it; then move {file} and {head} away together, and keep them"
