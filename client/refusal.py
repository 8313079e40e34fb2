"""The border for errors: the hub is told a code and an id, the words stay here under that id."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import FedGliaError
from common.files import append_line
from common.service_logs import TIME

if TYPE_CHECKING:
    from flwr.app import RecordDict

FILE = "site.log"
MAX_BYTES = 5 << 20
KEPT = 4
_WORDS, _TRACE = 2_000, 20_000
"""Characters of a line: of an error's words, and of the end of a traceback."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """What may leave of an error, and the reply that carries it."""

    code: str
    correlation: str
    content: RecordDict


def refuse(folder: Path | None, error: Exception, *, correlation: str | None = None) -> Refusal:
    """Log an error in words, and give what may be said of it elsewhere. Never raises.

    Args:
        folder: of the site, whose site.log takes the words; None: this process's log does.
        error: what was raised; one that was not raised on purpose has the code `internal`.
        correlation: the id, where it was chosen before.
    """
    refused = pack(error, correlation or uuid.uuid4().hex[:12])
    known = isinstance(error, FedGliaError)
    log.warning("refused with code %s, id %s", refused.code, refused.correlation)
    words = str(error)[:_WORDS] if known else "".join(traceback.format_exception(error))[-_TRACE:]
    try:
        if folder is None:
            log.error("id %s: %s", refused.correlation, words)
        else:
            path = folder / FILE
            _rotate(path)
            append_line(path, {"time": time.strftime(TIME), "id": refused.correlation, "error": words})
    except Exception as unwritable:  # a full disk, or words that are no text, must not hold the refusal back
        log.error("%s. It would have said, id %s: %r", unwritable, refused.correlation, words)
    return refused


def pack(error: Exception, correlation: str) -> Refusal:
    """What may leave of an error, without a line about it anywhere."""
    from common import wire  # imports PyTorch and Flower, which a status and a stop do without

    code = error.code if isinstance(error, FedGliaError) else "internal"
    try:
        return Refusal(code, correlation, wire.pack_refusal(code, correlation=correlation))
    except FedGliaError:  # no short word: it may hold anything
        return Refusal("internal", correlation, wire.pack_refusal("internal", correlation=correlation))


def _rotate(path: Path) -> None:
    """Put a log that has grown past its limit aside; one process writes it, and opens it for each line."""
    if not path.exists() or path.stat().st_size < MAX_BYTES:
        return
    for age in range(KEPT, 0, -1):
        older = path if age == 1 else Path(f"{path}.{age - 1}")
        if older.exists():
            older.replace(f"{path}.{age}")
