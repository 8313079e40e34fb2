from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.metadata import validate_message_type
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common import wire
from common.codec import CODECS
from common.errors import FedGliaError, RefusedUpdate
from common.wire import Layout, flatten, pack_weights, read_weights, unflatten

STATE = {
    "decoder.weight": torch.arange(12, dtype=torch.float32).reshape(3, 2, 2) / 7,
    "encoder.bias": torch.tensor([1.5, -2.5], dtype=torch.float16),
    "encoder.scale": torch.tensor(3.25, dtype=torch.bfloat16),
}
LAYOUT = Layout.of(STATE)


def content(*, codec: str = "fp32", weight: int = 4) -> RecordDict:
    packed, _ = CODECS[codec].encode(flatten(STATE, LAYOUT))
    return pack_weights(packed, LAYOUT, round_number=3, weight=weight)


def test_layout_does_not_depend_on_the_order_of_the_state_dict() -> None:
    backwards = dict(reversed(STATE.items()))

    assert Layout.of(backwards) == LAYOUT
    assert Layout.of(backwards).digest == LAYOUT.digest
    assert flatten(backwards, LAYOUT).tobytes() == flatten(STATE, LAYOUT).tobytes()


def test_layout_counts_values_and_bytes() -> None:
    assert LAYOUT.size == 12 + 2 + 1
    assert LAYOUT.nbytes == 12 * 4 + 2 * 2 + 1 * 2


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "x": torch.zeros(1)},
        {**STATE, "encoder.bias": torch.zeros(2)},
        {**STATE, "encoder.bias": torch.zeros(1, 2, dtype=torch.float16)},
    ],
)
def test_another_name_shape_or_type_is_another_digest(other: dict[str, Tensor]) -> None:
    assert Layout.of(other).digest != LAYOUT.digest


def test_flatten_follows_the_names() -> None:
    flat = flatten(STATE, LAYOUT)

    assert flat[:12].tolist() == pytest.approx([value / 7 for value in range(12)])
    assert flat[12:].tolist() == [1.5, -2.5, 3.25]


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(deadline=None)
def test_flatten_and_unflatten_are_inverse(shapes: list[list[int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {f"t{index}": torch.randn(shape, generator=generator) for index, shape in enumerate(shapes)}
    layout = Layout.of(state)

    again = unflatten(flatten(state, layout), layout)

    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert again[name].shape == tensor.shape
        assert torch.equal(again[name], tensor)


def test_unflatten_gives_each_tensor_its_own_memory_and_type() -> None:
    flat = flatten(STATE, LAYOUT)
    flat.setflags(write=False)
    state = unflatten(flat, LAYOUT)
    state["decoder.weight"].zero_()

    assert flat[1] == np.float32(1 / 7)
    assert [tensor.dtype for tensor in state.values()] == [torch.float32, torch.float16, torch.bfloat16]
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64])
def test_only_floats_that_float32_holds_travel(dtype: torch.dtype) -> None:
    with pytest.raises(FedGliaError, match=r"'steps' is torch\.\w+; only float32"):
        Layout.of({"steps": torch.zeros(2, dtype=dtype)})


def test_flatten_names_what_does_not_fit() -> None:
    with pytest.raises(FedGliaError, match=r"no 'encoder\.bias'"):
        flatten({"decoder.weight": STATE["decoder.weight"]}, LAYOUT)
    with pytest.raises(FedGliaError, match=r"'decoder\.weight' is torch\.float32"):
        flatten({**STATE, "decoder.weight": torch.zeros(2, 6)}, LAYOUT)
    with pytest.raises(FedGliaError, match=r"needs float32 \(15,\)"):
        unflatten(np.zeros(14, dtype=np.float32), LAYOUT)


def test_digest_is_of_the_values_and_not_of_their_memory() -> None:
    flat = np.arange(6, dtype=np.float32)

    assert wire.digest(flat) == wire.digest(np.arange(12, dtype=np.float32)[::2] / np.float32(2))
    assert wire.digest(flat) == wire.digest(flat.astype(">f4"))
    assert wire.digest(flat) != wire.digest(flat[::-1])


@pytest.mark.parametrize("codec", list(CODECS))
def test_weights_survive_the_message(codec: str) -> None:
    payload = read_weights(content(codec=codec), LAYOUT)

    assert payload.flat == pytest.approx(flatten(STATE, LAYOUT), abs=12 / 7 / 127)
    assert (payload.round_number, payload.weight, payload.codec) == (3, 4, codec)
    assert payload.nbytes == CODECS[codec].nbytes(LAYOUT.size)
    assert payload.layout == LAYOUT


def test_a_payload_is_two_small_objects_and_one_buffer() -> None:
    message = content()

    assert list(message) == [wire.TABLE, wire.WEIGHTS]
    assert len(message[wire.WEIGHTS]) == 1


def test_weights_survive_flower_serialisation() -> None:
    message = content()
    array = next(iter(message.array_records[wire.WEIGHTS].values()))
    table = message.config_records[wire.TABLE]
    table = ConfigRecord.inflate(table.deflate())
    array = Array.inflate(array.deflate(), array.children)
    again = RecordDict({wire.TABLE: table, wire.WEIGHTS: ArrayRecord({"flat": array})})

    assert read_weights(again, LAYOUT).flat.tobytes() == flatten(STATE, LAYOUT).tobytes()


def test_flower_itself_cannot_open_the_buffer() -> None:
    array = content().array_records[wire.WEIGHTS]["flat"]

    with pytest.raises(TypeError, match=r"fedglia\.flat"):
        array.numpy()


def change_table(key: str, value: object) -> Callable[[RecordDict], None]:
    def change(message: RecordDict) -> None:
        if value is None:
            del message.config_records[wire.TABLE][key]
        else:
            message.config_records[wire.TABLE][key] = value  # type: ignore[assignment]

    return change


def change_array(**fields: object) -> Callable[[RecordDict], None]:
    def change(message: RecordDict) -> None:
        array = message.array_records[wire.WEIGHTS]["flat"]
        for key, value in fields.items():
            setattr(array, key, value)

    return change


def drop(key: str) -> Callable[[RecordDict], None]:
    def change(message: RecordDict) -> None:
        del message[key]

    return change


NAMES, SHAPES, DTYPES = LAYOUT.columns()

HOSTILE = {
    "no table": ("malformed", drop(wire.TABLE)),
    "no weights": ("malformed", drop(wire.WEIGHTS)),
    "old schema": ("schema", change_table("schema", 0)),
    "missing name": ("names", change_table("names", NAMES[:2])),
    "extra name": ("names", change_table("names", [*NAMES, "zzz"])),
    "renamed": ("names", change_table("names", ["decoder.weight", "encoder.bias", "/home/p/patient-7"])),
    "names are no list": ("names", change_table("names", "decoder.weight")),
    "numbers for names": ("names", change_table("names", [1, 2, 3])),
    "no names": ("names", change_table("names", None)),
    "shape": ("shape", change_table("shapes", ["3x4", *SHAPES[1:]])),
    "huge shape": ("shape", change_table("shapes", ["99999999999x9", *SHAPES[1:]])),
    "short shapes": ("shape", change_table("shapes", SHAPES[:1])),
    "dtype": ("dtype", change_table("dtypes", ["float64", *DTYPES[1:]])),
    "negative round": ("round", change_table("round", -1)),
    "text for round": ("round", change_table("round", "3")),
    "negative weight": ("weight", change_table("weight", -50)),
    "NaN weight": ("weight", change_table("weight", math.nan)),
    "true for weight": ("weight", change_table("weight", True)),
    "no weight": ("weight", change_table("weight", None)),
    "unknown codec": ("codec", change_table("codec", "pickle")),
    "number for codec": ("malformed", change_table("codec", 7)),
    "another codec": ("size", change_table("codec", "fp16")),
    "short buffer": ("size", change_array(data=b"\0" * 56, shape=(56,))),
    "long buffer": ("size", change_array(data=b"\0" * 64, shape=(64,))),
    "lying length": ("size", change_array(shape=(10**11,))),
    "numpy file": ("dtype", change_array(stype="numpy.ndarray")),
    "float buffer": ("dtype", change_array(dtype="float32")),
    "NaN": ("not-finite", change_array(data=np.full(15, np.nan, "<f4").tobytes())),
    "Inf": ("not-finite", change_array(data=np.full(15, -np.inf, "<f4").tobytes())),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_payload_is_refused_with_a_code_and_without_its_text(name: str) -> None:
    code, change = HOSTILE[name]
    message = copy.deepcopy(content())
    change(message)

    with pytest.raises(RefusedUpdate) as caught:
        read_weights(message, LAYOUT)
    assert caught.value.code == code
    assert "patient" not in str(caught.value)


def test_a_second_buffer_is_refused() -> None:
    message = content()
    message.array_records[wire.WEIGHTS]["more"] = Array(np.zeros(3))

    with pytest.raises(RefusedUpdate, match="single buffer"):
        read_weights(message, LAYOUT)


def test_nothing_to_send_is_an_error() -> None:
    packed, _ = CODECS["fp32"].encode(np.empty(0, dtype=np.float32))

    with pytest.raises(FedGliaError, match="layout is empty"):
        pack_weights(packed, Layout(()), round_number=1)


def metrics(text: str) -> RecordDict:
    return RecordDict({wire.METRICS: ConfigRecord({"schema": 1, "json": text})})


numbers = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.text() | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
@settings(deadline=None)
def test_metrics_survive(values: dict[str, object]) -> None:
    assert wire.read_metrics(RecordDict({wire.METRICS: wire.pack_metrics(values)})) == values


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", torch.zeros(1)])
def test_metrics_refuse_what_json_does_not_know(value: object) -> None:
    with pytest.raises(FedGliaError, match="metrics cannot be sent"):
        wire.pack_metrics({"dice": {"ET": value}})


def test_metrics_have_a_ceiling() -> None:
    with pytest.raises(FedGliaError, match="at most"):
        wire.pack_metrics({"x": "y" * wire.MAX_JSON_BYTES})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        '{"a": -1e999}',
        '{"a": 1' + "0" * 30 + "}",
        '{"a": 1' + "0" * 5000 + "}",
        '{"a":' * 20 + "1" + "}" * 20,
        "[" * 100_000,
        '{"a": 1',
        "\x00",
    ],
)
def test_hostile_metrics_are_refused(text: str) -> None:
    with pytest.raises(RefusedUpdate) as caught:
        wire.read_metrics(metrics(text))
    assert caught.value.code == "malformed"


def test_metrics_from_elsewhere() -> None:
    with pytest.raises(RefusedUpdate, match="no record 'metrics'"):
        wire.read_metrics(RecordDict())
    with pytest.raises(RefusedUpdate, match="longer than"):
        wire.read_metrics(metrics(json.dumps({"x": "y" * wire.MAX_JSON_BYTES})))
    with pytest.raises(RefusedUpdate, match="schema 1"):
        wire.read_metrics(RecordDict({"metrics": ConfigRecord({"schema": 2, "json": "{}"})}))
    with pytest.raises(RefusedUpdate, match="not a text"):
        wire.read_metrics(RecordDict({"metrics": ConfigRecord({"schema": 1, "json": b"{}"})}))


def test_a_refusal_is_a_code_and_an_id() -> None:
    reply = wire.pack_refusal("plan", correlation="0a1b2c3d")

    assert wire.read_refusal(reply) == "plan"
    assert wire.read_correlation(reply) == "0a1b2c3d"
    assert wire.read_refusal(content()) is None
    assert wire.read_correlation(content()) is None


@pytest.mark.parametrize(
    ("code", "correlation"),
    [("/data/patient-7.nii.gz", ""), ("No such file", ""), ("", ""), ("x" * 33, ""), ("plan", "patient-7")],
)
def test_no_words_leave_as_a_refusal(code: str, correlation: str) -> None:
    with pytest.raises(FedGliaError, match="nothing else"):
        wire.pack_refusal(code, correlation=correlation)


def test_words_that_come_as_a_refusal_are_not_shown() -> None:
    reply = RecordDict({wire.REFUSAL: ConfigRecord({"code": "[31m patient Müller", "id": 3})})

    assert wire.read_refusal(reply) == "malformed"
    assert wire.read_correlation(reply) == "malformed"
    assert wire.read_refusal(RecordDict({wire.REFUSAL: ArrayRecord()})) == "malformed"


@pytest.mark.parametrize(
    "kind", [wire.HELLO, wire.RECEIVE, wire.ROUND, wire.ADAPT, wire.ALONE, wire.EVALUATE]
)
def test_flower_accepts_the_message_names(kind: str) -> None:
    category, action = kind.split(".")
    app = ClientApp()

    @getattr(app, category)(action)  # type: ignore[untyped-decorator]
    def answer(message: Message) -> Message:
        return message

    assert validate_message_type(kind)
    assert kind in app._registered_funcs
