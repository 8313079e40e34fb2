"""What leaves this site: what a reply may hold, and a line about each one before it goes.

    SITE/egress.jsonl   a chain (see `client.chain`): message, run, round, records, bytes, SHA-256, norm

What is not named here stays, whatever made it: a record, a metric or a field that a later version adds must
be added here too, where somebody reads it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client import accounts, audit, chain
from client.policy import Metric
from common import wire
from common.codec import codec, norm_of
from common.errors import RefusedUpdate
from common.files import canonical

_JUDGED: Mapping[str, Metric | None] = {
    "scores": None,
    "scores.dice": "dice",
    "scores.hd95_mm": "hd95_mm",
    "scores.empty": "empty",
    "scores.cases": "cases",
    "validation": "validation_dice",
}
_TRAINED: Mapping[str, Metric | None] = {**_JUDGED, "kept": None, "train_s": "train_s"}
MAY_HOLD: Mapping[str, Mapping[str, Metric | None]] = {
    wire.HELLO: {
        "site": None,
        "phantom": None,
        "knows_start": None,
        "cases": None,
        "patients": None,
        "field_strength_t": "field_strength_t",
        "degraded": "field_strength_t",
        "notes": "notes",
    },
    wire.RECEIVE: {"received": None},
    wire.ROUND: {
        "loss": "loss",
        "domain_loss": "domain_loss",
        "validation_dice": "validation_dice",
        "train_s": "train_s",
        "precision": "precision",
    },
    wire.EVALUATE: _JUDGED,
    wire.ADAPT: _TRAINED,
    wire.ALONE: _TRAINED,
}
"""Message -> what its metrics may hold -> the policy's word for it; None: no federation without it."""

_TABLE = ("schema", "round", "weight", "codec", "names", "shapes", "dtypes")


@dataclass(frozen=True)
class Sifted:
    """A reply as it may leave, and the names of what was taken out."""

    content: RecordDict
    withheld: tuple[str, ...]


def sift(content: RecordDict, kind: str, allowed: frozenset[str]) -> Sifted:
    """Take out of a reply what may not leave.

    Args:
        content: as the app made it; stays as it is.
        kind: message type that it answers.
        allowed: the policy's metrics.

    Raises:
        RefusedUpdate: a record that may leave is not what it should be.
    """
    out: dict[str, Any] = {}
    withheld: list[str] = []
    for key in content:
        if key == wire.METRICS:
            kept, gone = _sift_metrics(wire.read_metrics(content), MAY_HOLD.get(kind, {}), allowed)
            out[key] = wire.pack_metrics(kept)
            withheld += gone
        elif key == wire.TIMES:
            kept, gone = _sift_metrics(wire.read_metrics(content, wire.TIMES), {"busy_s": "busy_s"}, allowed)
            out[key] = wire.pack_metrics(kept)
            withheld += gone
        elif key == wire.REFUSAL:
            code, correlation = wire.read_refusal(content), wire.read_correlation(content)
            out[key] = wire.pack_refusal(str(code), correlation=str(correlation))[wire.REFUSAL]
        elif kind == wire.ROUND and key in (wire.TABLE, wire.WEIGHTS):
            out[key] = _only(content[key])
        else:
            withheld.append(f"record {audit.plain(key)}")
    return Sifted(RecordDict(out), tuple(withheld))


def describe(content: RecordDict) -> dict[str, Any]:
    """Facts about a reply for the record: records, tensors, bytes of its values, SHA-256, norm, metrics.

    Raises:
        RefusedUpdate: its weights do not fit their own table, or are not finite.
    """
    digest, nbytes = hashlib.sha256(), 0
    for key in sorted(content):
        for part in _parts(content[key]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
            nbytes += len(part)
    facts: dict[str, Any] = {"records": sorted(content), "bytes": nbytes, "sha256": digest.hexdigest()}
    if wire.WEIGHTS in content:
        facts |= _weights(content)
    if wire.METRICS in content:
        facts["metrics"] = _names(wire.read_metrics(content))
    if wire.REFUSAL in content:
        facts |= {"code": wire.read_refusal(content), "id": wire.read_correlation(content)}
    return facts


def record(folder: Path, facts: Mapping[str, object]) -> None:
    """Write the line about a reply; what it describes may leave only after this returned.

    Raises:
        RunError: code `disk` or `ledger`; the reply must stay.
    """
    chain.append(folder / accounts.FILE, {"time": audit.now(), **facts})


def _sift_metrics(
    metrics: Mapping[str, Any], may_hold: Mapping[str, Metric | None], allowed: frozenset[str], path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """A table that must be there stays as an empty one; anything else that may not leave is gone."""
    kept: dict[str, Any] = {}
    withheld: list[str] = []
    for key, value in metrics.items():
        name = f"{path}{key}"
        inside = any(row.startswith(f"{name}.") for row in may_hold)
        word = may_hold.get(name)
        if name not in may_hold or (word is not None and word not in allowed):
            withheld.append(audit.plain(name))
            if word is not None and isinstance(value, dict) and not path:
                kept[key] = {}
        elif inside and isinstance(value, dict):
            kept[key], gone = _sift_metrics(value, may_hold, allowed, f"{name}.")
            withheld += gone
        else:
            kept[key] = value
    return kept, withheld


def _only(record: object) -> Any:  # noqa: ANN401 - any of Flower's records
    """A table with the fields that it is known to have, or the buffer of weights."""
    if isinstance(record, ConfigRecord):
        return ConfigRecord({key: record[key] for key in _TABLE if key in record})
    if isinstance(record, ArrayRecord) and len(record) == 1:
        return record
    raise RefusedUpdate("the update is no table and no single buffer", code="malformed")


def _parts(record: object) -> list[bytes]:
    """The values of a record as bytes, always in the same order."""
    if isinstance(record, ArrayRecord):
        return [part for key in sorted(record) for part in (key.encode(), bytes(record[key].data))]
    assert isinstance(record, ConfigRecord)
    return [canonical({key: record[key] for key in record})]


def _weights(content: RecordDict) -> dict[str, Any]:
    table, buffer = content[wire.TABLE], content[wire.WEIGHTS]
    assert isinstance(table, ConfigRecord)
    assert isinstance(buffer, ArrayRecord)
    names, shapes = table["names"], table["shapes"]
    if not isinstance(names, list) or not isinstance(shapes, list):
        raise RefusedUpdate("the update's table has no lists of names and shapes", code="malformed")
    size = sum(math.prod(int(side) for side in str(shape).split("x") if side) for shape in shapes)
    row = codec(str(table["codec"]))
    flat = row.decode(row.split(next(iter(buffer.values())).data, size), size)
    return {"tensors": len(names), "values": size, "norm": norm_of(flat), "weight": table["weight"]}


def _names(metrics: Mapping[str, Any], path: str = "") -> list[str]:
    """Dotted names, two levels deep."""
    names: list[str] = []
    for key, value in metrics.items():
        names += _names(value, f"{key}.") if isinstance(value, dict) and value and not path else [path + key]
    return names
