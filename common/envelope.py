"""A message as it travels between machines: in few parts, for Flower sends and fetches each part by itself.

    words             every record, in Flower's own serialisation, with the arrays' bytes left out
    bytes-0, -1, ...  those bytes, one array after the other, in parts that a hub's edge lets through

A round of three sites is some sixty requests instead of a hundred and ten; a SuperLink serves about sixty a
second. The arrays stand apart so that a model which goes to many sites is stored at the hub once, whatever
else each of them is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common.errors import RefusedUpdate

PART_BYTES = 7 << 20
"""The edge lets 8 MiB through."""

_WORDS, _RECORDS, _LENGTHS, _BYTES = "words", "records", "lengths", "bytes"


def seal(content: RecordDict) -> RecordDict:
    """The content of a message, made ready to travel; `unseal` gives it back."""
    words, arrays = RecordDict(), list[Array]()
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays += record.values()
            words[key] = ArrayRecord({name: replace(array, data=b"") for name, array in record.items()})
        else:
            words[key] = record
    data = b"".join(array.data for array in arrays)
    lengths = [len(array.data) for array in arrays]
    records = recorddict_to_proto(words).SerializeToString(deterministic=True)
    sealed = RecordDict({_WORDS: ConfigRecord({_RECORDS: records, _LENGTHS: lengths})})
    for number, start in enumerate(range(0, len(data), PART_BYTES)):
        sealed[f"{_BYTES}-{number}"] = ConfigRecord({_BYTES: data[start : start + PART_BYTES]})
    return sealed


def unseal(sealed: RecordDict) -> RecordDict:
    """The content that was sealed; what is in it is still to be judged.

    Raises:
        RefusedUpdate: code `malformed`: this is no sealed content, or a part of it is missing or too much.
    """
    try:
        words: dict[str, Any] = dict(sealed.config_records[_WORDS])
        parts: list[Any] = [sealed.config_records[f"{_BYTES}-{i}"][_BYTES] for i in range(len(sealed) - 1)]
        content = recorddict_from_proto(ProtoRecordDict.FromString(words[_RECORDS]))
        _fill(content, words[_LENGTHS], memoryview(b"".join(parts)))
    except Exception as error:  # whatever a parser says of bytes that somebody else made
        raise RefusedUpdate("the message is no sealed content", code="malformed") from error
    return content


def _fill(content: RecordDict, lengths: list[int], data: memoryview) -> None:
    """Give each array its bytes.

    Raises:
        ValueError: there are more or fewer than the arrays hold.
    """
    arrays = [array for record in content.array_records.values() for array in record.values()]
    if sum(lengths) != len(data) or min(lengths, default=0) < 0:
        raise ValueError("the arrays' bytes are of another length")
    start = 0
    for array, length in zip(arrays, lengths, strict=True):
        array.data = bytes(data[start : start + length])
        start += length
