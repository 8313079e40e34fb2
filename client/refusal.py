"""The border for errors: the hub is told a code and an id, the words stay here under that id."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from common import wire
from common.errors import FedGliaError
from common.files import append_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """What may leave of an error, and the reply that carries it."""

    code: str
    correlation: str
    content: RecordDict


def refuse(folder: Path | None, error: Exception) -> Refusal:
    """Log an error in words, and give what may be said of it elsewhere. Never raises.

    Args:
        folder: of the site, whose site.log takes the words; None: this process's log does.
        error: what was raised; one that was not raised on purpose has the code `internal`.
    """
    correlation = uuid.uuid4().hex[:12]
    known = isinstance(error, FedGliaError)
    code = error.code if isinstance(error, FedGliaError) else "internal"
    try:
        content = wire.pack_refusal(code, correlation=correlation)
    except FedGliaError:  # no short word: it may hold anything
        code = "internal"
        content = wire.pack_refusal(code, correlation=correlation)
    log.warning("refused with code %s, id %s", code, correlation)
    words = str(error) if known else "".join(traceback.format_exception(error))
    try:
        if folder is None:
            log.error("id %s: %s", correlation, words)
        else:
            append_line(folder / "site.log", {"time": time.time(), "id": correlation, "error": words})
    except Exception as unwritable:  # a full disk, or words that are no text, must not hold the refusal back
        log.error("%s. It would have said, id %s: %r", unwritable, correlation, words)
    return Refusal(code, correlation, content)
