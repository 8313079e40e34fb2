"""What crosses the wire: message names, record keys, and how weights and metrics become Flower records.

The one file in `common` that knows Flower. Weights travel as one flat buffer, because each array of a
Flower message costs several requests, with a table that says what lies in it. A reader knows its own
`Layout` and compares the table with it; nothing is allocated, and no format is parsed, on a payload's word.

Flower's `Array` is given a serialisation type of our own: `Array.numpy()` then refuses it, so that no
NumPy file header from another machine is ever read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from common.codec import Flat, Packed, codec
from common.errors import FedGliaError, RefusedUpdate
from common.messages import ADAPT as ADAPT
from common.messages import ALONE as ALONE
from common.messages import EVALUATE as EVALUATE
from common.messages import HELLO as HELLO
from common.messages import RECEIVE as RECEIVE
from common.messages import REFUSAL as REFUSAL
from common.messages import ROUND as ROUND

SCHEMA = 1
"""Version of the messages; a reader refuses any other."""

WEIGHTS = "weights"
TABLE = "table"
INSTRUCTION = "instruction"
METRICS = "metrics"
TIMES = "times"  # apart from the metrics: two runs of one seed have the same metrics and other times

MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 12

_BUFFER = "flat"
_SERIALISATION = "fedglia.flat"
_FLOATS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_CODE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CORRELATION = re.compile(r"[0-9a-f]{0,32}")


@dataclass(frozen=True)
class Layout:
    """Which tensors lie in a flat buffer: (name, shape, dtype) in the order of their names.

    The order is that of the names and not that of a state dict, so that a model and the file it was
    saved to have the same layout.
    """

    entries: tuple[tuple[str, tuple[int, ...], str], ...]

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Layout:
        """The layout of a state dict.

        Raises:
            FedGliaError: a tensor is not float32, float16 or bfloat16, which float32 holds exactly.
        """
        return Layout(tuple(_entry(name, state[name]) for name in sorted(state)))

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(math.prod(shape) for _, shape, _ in self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in their own types."""
        return sum(math.prod(shape) * _BYTES[dtype] for _, shape, dtype in self.entries)

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and types."""
        return hashlib.sha256(json.dumps(self.columns()).encode()).hexdigest()

    def followed_by(self, other: Layout) -> Layout:
        """One buffer that holds what this layout describes, then what `other` does."""
        return Layout(self.entries + other.entries)

    def columns(self) -> tuple[list[str], list[str], list[str]]:
        """Names, shapes as "32x4x3", and types: the form in which the table travels."""
        names = [name for name, _, _ in self.entries]
        shapes = ["x".join(map(str, shape)) for _, shape, _ in self.entries]
        return names, shapes, [dtype for _, _, dtype in self.entries]


@dataclass(frozen=True)
class Payload:
    """Weights as they came in: `flat` float32 (layout.size,), maybe a read-only view of the message.

    Attributes:
        weight: what the sender's update counts in the fold (its patients); 0 from the hub.
        nbytes: bytes of the buffer on the wire.
    """

    flat: Flat
    layout: Layout
    round_number: int
    weight: int
    codec: str
    nbytes: int


def flatten(state: Mapping[str, Tensor], layout: Layout) -> Flat:
    """The values of `state` as one float32 vector in the layout's order; other keys of `state` stay out.

    Raises:
        FedGliaError: `state` lacks a tensor of the layout, or it has another shape or type.
    """
    flat = np.empty(layout.size, dtype=np.float32)
    start = 0
    for name, shape, dtype in layout.entries:
        tensor = state.get(name)
        if tensor is None:
            raise FedGliaError(f"the state dict has no '{name}', which the layout names")
        if tuple(tensor.shape) != shape or _float_name(name, tensor) != dtype:
            raise FedGliaError(
                f"'{name}' is {tensor.dtype} {tuple(tensor.shape)}; the layout says {dtype} {shape}"
            )
        stop = start + tensor.numel()
        torch.from_numpy(flat[start:stop]).copy_(tensor.detach().reshape(-1))
        start = stop
    return flat


def digest(flat: Flat) -> str:
    """SHA-256 of the values: the name under which a site keeps a model that it received whole."""
    return hashlib.sha256(flat.astype("<f4", copy=False).tobytes()).hexdigest()


def unflatten(buffer: Flat, layout: Layout) -> dict[str, Tensor]:
    """The tensors that lie in `buffer` (layout.size,), each with memory of its own, in its own type.

    Raises:
        FedGliaError: the buffer has another length than the layout, or is not float32.
    """
    if buffer.shape != (layout.size,) or buffer.dtype != np.float32:
        raise FedGliaError(
            f"a buffer of {buffer.dtype} {buffer.shape} where the layout needs float32 ({layout.size},)"
        )
    types = {name: dtype for dtype, name in _FLOATS.items()}
    state, start = {}, 0
    for name, shape, dtype in layout.entries:
        stop = start + math.prod(shape)
        own = buffer[start:stop].astype(np.float32)
        state[name] = torch.from_numpy(own).reshape(shape).to(types[dtype])
        start = stop
    return state


def pack_weights(packed: Packed, layout: Layout, *, round_number: int, weight: int = 0) -> RecordDict:
    """The content of a message that carries weights; metrics may be added under their own key.

    Args:
        packed: what a codec made of the flat vector.
        layout: what lies in that vector; at least one tensor.
        round_number: the round that the weights belong to.
        weight: patients behind an update, 0 from the hub.
    """
    names, shapes, dtypes = layout.columns()
    if not names:
        raise FedGliaError("there is nothing to send: the layout is empty")
    data = packed.tobytes()
    table = ConfigRecord(
        {
            "schema": SCHEMA,
            "round": round_number,
            "weight": weight,
            "codec": packed.codec,
            "names": names,
            "shapes": shapes,
            "dtypes": dtypes,
        }
    )
    array = Array(dtype="uint8", shape=(len(data),), stype=_SERIALISATION, data=data)
    return RecordDict({TABLE: table, WEIGHTS: ArrayRecord({_BUFFER: array})})


def read_weights(content: RecordDict, layout: Layout) -> Payload:
    """The weights in a message, which must be of this layout.

    Raises:
        RefusedUpdate: the code says why: `schema`, `malformed`, `names`, `shape`, `dtype`, `round`, `weight`,
            `codec`, `size` or `not-finite`. The text quotes nothing from the message but its numbers.
    """
    table = _record(content, TABLE)
    if table.get("schema") != SCHEMA:
        raise RefusedUpdate(f"the message is not of schema {SCHEMA}; update the older side", code="schema")
    _compare(table, layout)
    row = codec(_text(table, "codec"))
    data = _buffer(content)
    flat = row.decode(row.split(data, layout.size), layout.size)
    return Payload(flat, layout, _count(table, "round"), _count(table, "weight"), row.name, len(data))


def pack_metrics(metrics: Mapping[str, Any]) -> ConfigRecord:
    """A record of nested dicts and lists of strings, booleans, finite numbers and None.

    Raises:
        FedGliaError: a value that JSON does not know, NaN or Inf, or more than 1 MiB.
    """
    try:
        text = json.dumps(metrics, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise FedGliaError(f"metrics cannot be sent: {error}; use None where there is no number") from error
    if len(text.encode()) > MAX_JSON_BYTES:
        raise FedGliaError(f"metrics of {len(text)} characters; at most {MAX_JSON_BYTES} bytes are sent")
    return ConfigRecord({"schema": SCHEMA, "json": text})


def read_metrics(content: RecordDict, key: str = METRICS) -> dict[str, Any]:
    """What `pack_metrics` put under `key`; numbers are finite, nesting is at most 12 deep.

    Raises:
        RefusedUpdate: code `malformed` (no such record, not strict JSON, too large or too deep),
            or `schema`.
    """
    record = _record(content, key)
    if record.get("schema") != SCHEMA:
        raise RefusedUpdate(f"'{key}' is not of schema {SCHEMA}; update the older side", code="schema")
    text = _text(record, "json")
    if len(text) > MAX_JSON_BYTES:
        raise RefusedUpdate(f"'{key}' is longer than the {MAX_JSON_BYTES} bytes allowed", code="size")
    return _parse(text, key)


def pack_refusal(code: str, *, correlation: str = "") -> RecordDict:
    """The content of a reply that refuses: a code, and an id under which the site's own log has the rest.

    Raises:
        FedGliaError: a code that is not a short word, or an id that is not hexadecimal; so that no
            path and no message of an exception leaves by this way.
    """
    if not _CODE.fullmatch(code) or not _CORRELATION.fullmatch(correlation):
        raise FedGliaError("a refusal is a short lower-case code and a hexadecimal id, nothing else")
    return RecordDict({REFUSAL: ConfigRecord({"schema": SCHEMA, "code": code, "id": correlation or "0"})})


def read_refusal(content: RecordDict) -> str | None:
    """The code of a reply that refuses; None for any other reply; `malformed` where the code is no code."""
    return _refusal_field(content, "code", _CODE)


def read_correlation(content: RecordDict) -> str | None:
    """The id of a reply that refuses, to be looked up in the site's own log; None for any other reply."""
    return _refusal_field(content, "id", _CORRELATION)


def _refusal_field(content: RecordDict, field: str, form: re.Pattern[str]) -> str | None:
    record = content.get(REFUSAL)
    if record is None:
        return None
    value = record.get(field) if isinstance(record, ConfigRecord) else None
    return value if isinstance(value, str) and form.fullmatch(value) else "malformed"


def _entry(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return name, tuple(tensor.shape), _float_name(name, tensor)


def _float_name(name: str, tensor: Tensor) -> str:
    try:
        return _FLOATS[tensor.dtype]
    except KeyError:
        raise FedGliaError(
            f"'{name}' is {tensor.dtype}; only {', '.join(_BYTES)} travel (a counter or a buffer of another "
            "type stays with its site)"
        ) from None


def _compare(table: ConfigRecord, layout: Layout) -> None:
    names, shapes, dtypes = layout.columns()
    if table.get("names") != names:
        found = table.get("names")
        absent = sorted(set(names) - set(found)) if isinstance(found, list) else names
        what = f"'{absent[0]}' is missing" if absent else "it names tensors that were not asked for"
        raise RefusedUpdate(f"the table of names is another one: {what}", code="names")
    for key, expected, code in (("shapes", shapes, "shape"), ("dtypes", dtypes, "dtype")):
        found = table.get(key)
        if found != expected:
            which = _first_difference(found, expected)
            raise RefusedUpdate(f"'{names[which]}' is not of {code} {expected[which] or '()'}", code=code)


def _first_difference(found: object, expected: list[str]) -> int:
    if not isinstance(found, list) or len(found) != len(expected):
        return 0
    return next(index for index, value in enumerate(expected) if found[index] != value)


def _record(content: RecordDict, key: str) -> ConfigRecord:
    record = content.get(key)
    if not isinstance(record, ConfigRecord):
        raise RefusedUpdate(f"the message has no record '{key}'", code="malformed")
    return record


def _text(record: ConfigRecord, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise RefusedUpdate(f"'{key}' is not a text", code="malformed")
    return value


def _count(table: ConfigRecord, key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedUpdate(f"'{key}' is not a whole number of 0 or more", code=key)
    return value


def _buffer(content: RecordDict) -> bytes:
    record = content.get(WEIGHTS)
    if not isinstance(record, ArrayRecord) or list(record) != [_BUFFER]:
        raise RefusedUpdate("the message has no single buffer of weights", code="malformed")
    array = record[_BUFFER]
    if array.stype != _SERIALISATION or array.dtype != "uint8":
        raise RefusedUpdate("the buffer of weights is not raw bytes", code="dtype")
    if tuple(array.shape) != (len(array.data),):
        raise RefusedUpdate("the buffer of weights declares another length than it has", code="size")
    return array.data


def _parse(text: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedUpdate(f"'{key}' is not strict JSON", code="malformed") from None
    if not isinstance(value, dict) or not _is_plain(value, MAX_JSON_DEPTH):
        raise RefusedUpdate(
            f"'{key}' is not an object of finite numbers, at most {MAX_JSON_DEPTH} deep", code="malformed"
        )
    return value


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _is_plain(value: object, depth: int) -> bool:
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(_is_plain(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    # 1e999 is valid JSON and reads as infinity.
    return not isinstance(value, float) or math.isfinite(value)
