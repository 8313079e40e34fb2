"""A message as it travels between machines: in few parts, for Flower sends and fetches each part by itself.

    words             every record, in Flower's own serialisation, with the arrays' bytes left out
    bytes-0, -1, ...  those bytes, one array after the other, in parts that a hub's edge lets through

What goes to many has its bytes apart, so that a model is stored at the hub once, whatever else each site is
told. What goes to one has the first of them beside the words: a part less. A round of three sites is some
fifty requests instead of a hundred and ten; a SuperLink serves about eighty a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import record_value_dict_to_proto
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoConfigRecord
from flwr.proto.recorddict_pb2 import ConfigRecordValue as ProtoConfigRecordValue
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER

from common.errors import RefusedUpdate

PART_BYTES = 7 << 20
"""The edge lets 8 MiB through."""

_LENGTH_BYTES = 10
"""Most that one length takes."""

_OF_BYTES = ProtoConfigRecordValue.DESCRIPTOR.fields_by_name["bytes"].number
_WORDS, _RECORDS, _LENGTHS, _BYTES = "words", "records", "lengths", "bytes"


class _Part(ConfigRecord):
    """A record of bytes that is packed once and copied once.

    Flower packs each part for every message that it is in and again to send it, and copies it six times.
    """

    def deflate(self) -> bytes:
        if "_packed" not in self.__dict__:
            body = [piece for key, value in self.items() for piece in _item(key, value)]
            head = ("ConfigRecord", "", str(sum(map(len, body))))
            self.__dict__["_packed"] = b"".join(
                (HEAD_VALUE_DIVIDER.join(head).encode(), HEAD_BODY_DIVIDER, *body)
            )
        packed: bytes = self.__dict__["_packed"]
        return packed


_Part.__qualname__ = ConfigRecord.__qualname__  # the name under which it travels


def _item(key: str, value: ConfigRecordValues) -> list[bytes]:
    """One entry as protobuf writes it in a ConfigRecord, in pieces that are to be joined."""
    if not isinstance(value, bytes):
        protos = record_value_dict_to_proto(
            ConfigRecord({key: value}), [bool, int, float, str, bytes], ProtoConfigRecordValue
        )
        return [
            ProtoConfigRecord(items=[ProtoConfigRecord.Item(key=key, value=protos[key])]).SerializeToString()
        ]
    name = _ahead(1, len(key.encode())) + key.encode()
    of_bytes = _ahead(_OF_BYTES, len(value))
    of_value = _ahead(2, len(of_bytes) + len(value))
    return [
        _ahead(1, len(name) + len(of_value) + len(of_bytes) + len(value)),
        name,
        of_value,
        of_bytes,
        value,
    ]


def _ahead(field: int, length: int) -> bytes:
    """What protobuf writes ahead of so many bytes: the field's number, then the length, 7 bits a byte."""
    out = bytearray([field << 3 | 2])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    return bytes([*out, length])


def seal(content: RecordDict) -> RecordDict:
    """The content of a message to one receiver, made ready to travel; `unseal` gives it back."""
    records, lengths, data = _taken_apart(content)
    room = max(PART_BYTES - len(records) - _LENGTH_BYTES * len(lengths), 0)
    words = _Part({_RECORDS: records, _LENGTHS: lengths, _BYTES: data[:room]})
    return RecordDict({_WORDS: words, **_parts(data[room:])})


def seal_for_many(contents: Sequence[RecordDict]) -> list[RecordDict]:
    """The contents of messages that hold the same arrays, made ready to travel; these are packed once."""
    known: dict[tuple[int, ...], dict[str, ConfigRecord]] = {}
    sealed = []
    for content in contents:
        records, lengths, data = _taken_apart(content)
        same = tuple(id(array.data) for record in content.array_records.values() for array in record.values())
        if same not in known:
            known[same] = _parts(data)
        words = ConfigRecord({_RECORDS: records, _LENGTHS: lengths})
        sealed.append(RecordDict({_WORDS: words, **known[same]}))
    return sealed


def unseal(sealed: RecordDict) -> RecordDict:
    """The content that was sealed; what is in it is still to be judged.

    Raises:
        RefusedUpdate: code `malformed`: this is no sealed content, or a part of it is missing or too much.
    """
    try:
        words: dict[str, Any] = dict(sealed.config_records[_WORDS])
        others = [sealed.config_records[f"{_BYTES}-{number}"][_BYTES] for number in range(len(sealed) - 1)]
        pieces: list[Any] = [words.get(_BYTES, b""), *others]
        content = recorddict_from_proto(ProtoRecordDict.FromString(words[_RECORDS]))
        _fill(content, words[_LENGTHS], b"".join(pieces))
    except Exception as error:  # whatever a parser says of bytes that somebody else made
        raise RefusedUpdate("the message is no sealed content", code="malformed") from error
    return content


def _taken_apart(content: RecordDict) -> tuple[bytes, list[int], bytes]:
    """The records without their arrays' bytes, how long each array is, and the bytes."""
    words, arrays = RecordDict(), list[Array]()
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays += record.values()
            words[key] = ArrayRecord({name: replace(array, data=b"") for name, array in record.items()})
        else:
            words[key] = record
    records = recorddict_to_proto(words).SerializeToString(deterministic=True)
    return records, [len(array.data) for array in arrays], b"".join(array.data for array in arrays)


def _parts(data: bytes) -> dict[str, ConfigRecord]:
    starts = range(0, len(data), PART_BYTES)
    return {f"{_BYTES}-{n}": _Part({_BYTES: data[at : at + PART_BYTES]}) for n, at in enumerate(starts)}


def _fill(content: RecordDict, lengths: list[int], data: bytes) -> None:
    """Give each array its bytes.

    Raises:
        ValueError: there are more or fewer than the arrays hold.
    """
    arrays = [array for record in content.array_records.values() for array in record.values()]
    if sum(lengths) != len(data) or min(lengths, default=0) < 0:
        raise ValueError("the arrays' bytes are of another length")
    start = 0
    for array, length in zip(arrays, lengths, strict=True):
        array.data = data[start : start + length]  # no copy where one array is all there is
        start += length
