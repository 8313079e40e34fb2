"""What is sealed is what is unsealed, in few parts; and nothing else is unsealed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from common import envelope, wire
from common.codec import CODECS
from common.envelope import seal, seal_for_many, unseal
from common.errors import RefusedUpdate
from common.wire import Layout
from simulation.grid import HUB_NODE, assume_identity

EDGE_BYTES = 8 << 20


def arrays(*contents: bytes) -> ArrayRecord:
    return ArrayRecord(
        {f"a{i}": Array("uint8", (len(data),), "raw", data) for i, data in enumerate(contents)}
    )


def told(content: RecordDict) -> dict[str, object]:
    """All of a content, as plain values in its order."""
    return {
        key: {name: vars(value) if isinstance(value, Array) else value for name, value in record.items()}
        for key, record in content.items()
    }


def parts_of(content: RecordDict) -> dict[str, bytes]:
    """What Flower sends for a message, each by itself: identity -> bytes."""
    assume_identity(HUB_NODE)
    message = Message(content, dst_node_id=1, message_type="train")
    return {key: part.deflate() for key, part in get_all_nested_objects(message).items()}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "PART_BYTES", 4)


@given(
    contents=st.lists(st.binary(max_size=20), max_size=4),
    words=st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.binary(max_size=8) | st.booleans()),
    numbers=st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1)),
)
def test_what_is_sealed_comes_out(
    contents: list[bytes], words: dict[str, str | bytes | bool], numbers: dict[str, int]
) -> None:
    content = RecordDict({"m": MetricRecord(numbers), "w": arrays(*contents), "c": ConfigRecord(words)})  # type: ignore[arg-type]
    before = told(content)
    assert told(unseal(seal(content))) == before
    assert told(content) == before, "what is sealed stays as it was"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("contents", [(), (b"",), (b"abcd",), (b"abcde", b"", b"fghi"), (b"x" * 17, b"y")])
def test_arrays_may_lie_across_parts(contents: tuple[bytes, ...]) -> None:
    sealed = seal(RecordDict({"w": arrays(*contents)}))
    assert len(sealed) == 1 + -(-len(b"".join(contents)) // 4)
    assert told(unseal(sealed)) == told(RecordDict({"w": arrays(*contents)}))


def test_a_round_travels_in_few_parts_that_pass_the_edge() -> None:
    layout = Layout((("w", (2_000_000,), "float32"),))
    packed, _ = CODECS["fp32"].encode(np.zeros(layout.size, dtype=np.float32))
    content = wire.pack_weights(packed, layout, round_number=1)
    content[wire.METRICS] = content[wire.TIMES] = wire.pack_metrics({})
    parts = parts_of(seal(content))
    assert len(parts) == 4, "message, records, words with bytes, bytes"
    assert len(parts) < len(parts_of(content))
    assert max(map(len, parts.values())) < EDGE_BYTES - 1024


def test_long_words_leave_less_room_for_bytes_beside_them() -> None:
    content = RecordDict({"w": arrays(b"x" * (9 << 20)), "c": ConfigRecord({"words": "y" * (3 << 20)})})
    parts = parts_of(seal(content))
    assert max(map(len, parts.values())) < EDGE_BYTES - 1024
    assert told(unseal(seal(content))) == told(content)


def test_a_model_that_goes_to_many_is_the_same_part_for_all() -> None:
    model, other = arrays(b"model"), arrays(b"other")
    contents = [
        RecordDict({"w": model, "c": ConfigRecord({"to": "adult-a"})}),
        RecordDict({"w": model, "c": ConfigRecord({"to": "ssa"})}),
        RecordDict({"w": other, "c": ConfigRecord({"to": "adult-b"})}),
    ]
    before = [told(content) for content in contents]
    sealed = seal_for_many(contents)
    assert sealed[0]["bytes-0"] is sealed[1]["bytes-0"], "packed once"
    first, second, third = (set(parts_of(each)) for each in sealed)
    assert len(first & second) == 1
    assert not first & third
    assert [told(unseal(each)) for each in sealed] == before


@given(
    values=st.dictionaries(
        st.text(min_size=1, max_size=200),
        st.binary(max_size=40_000) | st.lists(st.integers(0, 2**62), max_size=3),
    )
)
def test_a_part_travels_as_flowers_own_record(values: dict[str, bytes | list[int]]) -> None:
    part = envelope._Part(dict(values))
    assert part.deflate() == ConfigRecord(dict(values)).deflate()
    assert part.deflate() is part.deflate(), "packed once"


def change(key: str, field: str, value: object) -> Callable[[RecordDict], None]:
    return lambda sealed: sealed.config_records[key].update({field: value})  # type: ignore[dict-item]


DAMAGE: dict[str, Callable[[RecordDict], object]] = {
    "a piece twice": change("words", "bytes", b"abcd"),
    "no words": lambda sealed: sealed.pop("words"),
    "a part is missing": lambda sealed: sealed.pop("bytes-0"),
    "a part in the middle is missing": lambda sealed: sealed.update({"bytes-3": sealed.pop("bytes-1")}),
    "something more": lambda sealed: sealed.update({"more": ConfigRecord({})}),
    "a part is no record of words": lambda sealed: sealed.update({"bytes-0": MetricRecord({"bytes": 1})}),
    "a part holds text": change("bytes-0", "bytes", "abcd"),
    "bytes are missing": change("bytes-1", "bytes", b""),
    "bytes are too many": change("bytes-1", "bytes", b"e" * 4),
    "records are no records": change("words", "records", b"\xff\xff"),
    "records are text": change("words", "records", "x"),
    "lengths are missing": lambda sealed: sealed.config_records["words"].pop("lengths"),
    "lengths are one number": change("words", "lengths", 5),
    "lengths are of another sum": change("words", "lengths", [6]),
    "a length is negative": change("words", "lengths", [6, -1]),
    "more lengths than arrays": change("words", "lengths", [5, 0]),
    "lengths are texts": change("words", "lengths", ["5"]),
}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_malformed(damage: Callable[[RecordDict], object]) -> None:
    (sealed,) = seal_for_many([RecordDict({"w": arrays(b"abcde")})])
    damage(sealed)
    with pytest.raises(RefusedUpdate) as refused:
        unseal(sealed)
    assert refused.value.code == "malformed"


def test_a_content_that_was_never_sealed_is_malformed() -> None:
    for content in (RecordDict(), RecordDict({"metrics": wire.pack_metrics({})})):
        with pytest.raises(RefusedUpdate):
            unseal(content)
