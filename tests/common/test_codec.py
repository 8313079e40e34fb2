from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.codec import BLOCK, CODECS, Packed, codec, norm_of
from common.errors import FedGliaError, RefusedUpdate

vectors = hnp.arrays(
    np.float32,
    st.integers(0, 3 * BLOCK),
    elements=st.floats(-60000, 60000, width=32, allow_nan=False, allow_infinity=False),
    fill=st.just(np.float32(0.25)),
)


@given(vectors)
@settings(deadline=None)
def test_fp32_returns_the_same_bits(flat: np.ndarray) -> None:
    packed, residual = CODECS["fp32"].encode(flat)

    assert CODECS["fp32"].decode(packed, flat.size).tobytes() == flat.tobytes()
    assert residual is None


@given(vectors)
@settings(deadline=None)
def test_fp16_error_is_half_a_unit_in_the_last_place(flat: np.ndarray) -> None:
    packed, _ = CODECS["fp16"].encode(flat)
    error = np.abs(CODECS["fp16"].decode(packed, flat.size) - flat)

    # 11 significant bits: relative 2**-11; below the normal range half a subnormal step, 2**-25.
    assert np.all(error <= np.maximum(np.abs(flat) * 2.0**-11, 2.0**-25))


@given(vectors)
@settings(deadline=None)
def test_int8_error_is_half_a_level_of_its_block(flat: np.ndarray) -> None:
    packed, _ = CODECS["int8"].encode(flat)
    error = np.abs(CODECS["int8"].decode(packed, flat.size) - flat)

    for start in range(0, flat.size, BLOCK):
        largest = np.abs(flat[start : start + BLOCK]).max()
        assert error[start : start + BLOCK].max() <= largest / 127 / 2 * 1.0001 + 1e-42


def test_int8_levels_by_hand() -> None:
    packed, residual = CODECS["int8"].encode(np.array([127.0, -127.0, 1.4, -0.6, 0.0], dtype=np.float32))

    # The largest magnitude is 127, so one level is exactly 1.
    assert packed.scales.tolist() == [1.0]
    assert np.frombuffer(packed.data, np.int8).tolist() == [127, -127, 1, -1, 0]
    assert residual is not None
    assert residual.tolist() == pytest.approx([0, 0, 0.4, 0.4, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["fp16", "int8"])
@given(vectors, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_packed_and_residual_together_are_the_update(name: str, flat: np.ndarray, seed: int) -> None:
    carried = np.random.default_rng(seed).normal(size=flat.size).astype(np.float32)
    packed, residual = CODECS[name].encode(flat, carried)

    assert residual is not None
    restored = CODECS[name].decode(packed, flat.size) + residual
    assert restored == pytest.approx(flat + carried, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_error_feedback_loses_nothing_over_many_rounds(name: str, rng: np.random.Generator) -> None:
    # The same small update each round: without feedback the rounding error grows with the rounds.
    update = (rng.normal(size=5000) * np.exp(rng.normal(size=5000))).astype(np.float32)
    sent = np.zeros(5000)
    residual = None
    for _ in range(200):
        packed, residual = CODECS[name].encode(update, residual)
        sent += CODECS[name].decode(packed, update.size)

    assert residual is not None
    largest = np.abs(update.reshape(-1, 1000)).max()
    assert np.abs(sent - 200.0 * update).max() <= largest / 127 + 1e-3


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1])
def test_payload_size_is_known_beforehand_and_splits_back(name: str, size: int) -> None:
    flat = np.linspace(-1, 1, size, dtype=np.float32)
    packed, _ = CODECS[name].encode(flat)
    buffer = packed.tobytes()

    assert len(buffer) == packed.nbytes == CODECS[name].nbytes(size)
    again = CODECS[name].decode(CODECS[name].split(buffer, size), size)
    assert again.tobytes() == CODECS[name].decode(packed, size).tobytes()


def test_int8_is_a_quarter_of_full_precision() -> None:
    share = CODECS["int8"].nbytes(2_000_000) / CODECS["fp32"].nbytes(2_000_000)

    assert share == pytest.approx(0.251, abs=1e-3)


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_encode_refuses_what_is_not_finite(name: str, value: float) -> None:
    with pytest.raises(FedGliaError, match="NaN, Inf") as caught:
        CODECS[name].encode(np.array([0, value], dtype=np.float32))

    assert caught.value.code == "not-finite"


def test_fp16_refuses_what_would_become_infinite() -> None:
    with pytest.raises(FedGliaError, match="65504"):
        CODECS["fp16"].encode(np.array([65520.0], dtype=np.float32))


def test_int8_holds_the_extremes_of_float32() -> None:
    flat = np.array([1.7e38, -1.7e38, 0.0], dtype=np.float32)
    packed, _ = CODECS["int8"].encode(flat)
    assert CODECS["int8"].decode(packed, 3) == pytest.approx(flat, rel=1e-6)

    tiny, residual = CODECS["int8"].encode(np.full(3, 1e-45, dtype=np.float32))
    assert CODECS["int8"].decode(tiny, 3).tolist() == [0, 0, 0]
    assert residual is not None
    assert residual.tolist() == np.full(3, 1e-45, dtype=np.float32).tolist()


@pytest.mark.parametrize("residual", [np.zeros(2, np.float32), np.zeros(4, np.float32)])
def test_encode_refuses_a_residual_of_another_length(residual: np.ndarray) -> None:
    with pytest.raises(FedGliaError, match="delete the residual"):
        CODECS["int8"].encode(np.zeros(3, dtype=np.float32), residual)


def test_encode_refuses_other_types() -> None:
    with pytest.raises(FedGliaError, match="float32 vector"):
        CODECS["fp32"].encode(np.zeros(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(CODECS))
def test_decode_refuses_a_wrong_length(name: str) -> None:
    packed, _ = CODECS[name].encode(np.ones(BLOCK, dtype=np.float32))

    with pytest.raises(RefusedUpdate) as caught:
        CODECS[name].decode(packed, BLOCK + 1)
    assert caught.value.code == "size"
    with pytest.raises(RefusedUpdate) as caught:
        CODECS[name].split(packed.tobytes() + b"\0", BLOCK)
    assert caught.value.code == "size"


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e37])
def test_decode_refuses_hostile_scales(scale: float) -> None:
    with pytest.raises(RefusedUpdate) as caught:
        CODECS["int8"].decode(Packed("int8", b"\x7f", np.array([scale], dtype=np.float32)), 1)

    assert caught.value.code == "not-finite"


def test_decode_refuses_infinities_packed_by_another_hand() -> None:
    data = np.array([np.inf], dtype="<f2").tobytes()

    with pytest.raises(RefusedUpdate) as caught:
        CODECS["fp16"].decode(Packed("fp16", data, np.empty(0, np.float32)), 1)
    assert caught.value.code == "not-finite"


def test_codecs_are_not_mixed_up() -> None:
    packed, _ = CODECS["fp32"].encode(np.ones(2, dtype=np.float32))

    with pytest.raises(RefusedUpdate, match="packed as fp32, read as fp16"):
        CODECS["fp16"].decode(packed, 2)
    with pytest.raises(RefusedUpdate, match="known are fp32, fp16, int8"):
        codec("zip")


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 200_000])
def test_norm_is_the_euclidean_norm(size: int, rng: np.random.Generator) -> None:
    flat = rng.normal(size=size).astype(np.float32)

    assert norm_of(flat) == pytest.approx(float(np.linalg.norm(flat.astype(np.float64))), rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_norm_shows_one_bad_value_among_many(value: float) -> None:
    flat = np.ones(100_000, dtype=np.float32)
    flat[77_777] = value

    assert not math.isfinite(norm_of(flat))
    assert math.isfinite(norm_of(np.full(100_000, 3.4e38, dtype=np.float32)))
