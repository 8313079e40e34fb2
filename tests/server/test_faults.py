"""One site of five answers with something wrong: the round goes on without it, and names it.

What cannot be told from an honest update, as one of the right length in a wrong direction, is not here:
the gate does not claim to see it.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common import wire
from common.codec import CODECS
from common.errors import RefusedUpdate
from common.wire import Layout, pack_weights
from server.aggregation import FOLDS, Optimiser, fold, step
from server.gate import Expectation, Spool, admit, judge

SITES = ("adult-a", "adult-b", "adult-c", "kigali", "ssa")
PATIENTS = {"adult-a": 20, "adult-b": 11, "adult-c": 7, "kigali": 4, "ssa": 3}
LAYOUT = Layout.of({"encoder.weight": torch.zeros(16, 8), "head.bias": torch.zeros(5)})
NAMES, SHAPES, DTYPES = LAYOUT.columns()
ROUND = 6

Mutation = Callable[[RecordDict, np.random.Generator], None]


def reply(delta: np.ndarray, *, weight: int, codec: str = "fp32") -> RecordDict:
    packed, _ = CODECS[codec].encode(delta.astype(np.float32))
    return pack_weights(packed, LAYOUT, round_number=ROUND, weight=weight)


def honest(site: str, rng: np.random.Generator) -> np.ndarray:
    """An update of the length that unlike sites send: a common direction, own noise, own scale."""
    common = np.linspace(-1, 1, LAYOUT.size)
    own = rng.normal(size=LAYOUT.size)
    scale = 0.01 * math.exp(rng.normal(scale=0.5))
    return np.asarray(scale * (common + own), dtype=np.float32)


def values(message: RecordDict) -> np.ndarray:
    return np.frombuffer(message.array_records[wire.WEIGHTS]["flat"].data, dtype="<f4").copy()


def put(message: RecordDict, data: bytes, **fields: object) -> None:
    array = message.array_records[wire.WEIGHTS]["flat"]
    array.data, array.shape = data, (len(data),)
    for key, value in fields.items():
        setattr(array, key, value)


def set_value(value: float) -> Mutation:
    def mutate(message: RecordDict, rng: np.random.Generator) -> None:
        flat = values(message)
        flat[rng.integers(flat.size)] = value
        put(message, flat.tobytes())

    return mutate


def scale(factor: float) -> Mutation:
    return lambda message, rng: put(message, (values(message) * np.float32(factor)).tobytes())


def table(key: str, value: object) -> Mutation:
    return lambda message, rng: message.config_records[wire.TABLE].update({key: value})  # type: ignore[dict-item]


def resize(by: int) -> Mutation:
    return lambda message, rng: put(
        message, values(message).tobytes()[: by if by < 0 else None] + bytes(max(by, 0))
    )


def lie_about_size(message: RecordDict, rng: np.random.Generator) -> None:
    message.array_records[wire.WEIGHTS]["flat"].shape = (160 * 10**9,)


def numpy_file(message: RecordDict, rng: np.random.Generator) -> None:
    message[wire.WEIGHTS] = ArrayRecord({"flat": Array(values(message))})


def random_bytes(message: RecordDict, rng: np.random.Generator) -> None:
    # Exponents of all ones: each word is NaN or Inf.
    words = rng.integers(0, 2**32, size=LAYOUT.size, dtype=np.uint32) | np.uint32(0x7F800000)
    put(message, words.tobytes())


def no_weights(message: RecordDict, rng: np.random.Generator) -> None:
    del message[wire.WEIGHTS]


MUTATIONS: dict[str, tuple[str, Mutation]] = {
    "one NaN": ("not-finite", set_value(math.nan)),
    "one Inf": ("not-finite", set_value(math.inf)),
    "one -Inf": ("not-finite", set_value(-math.inf)),
    "noise for floats": ("not-finite", random_bytes),
    "a thousand times as long": ("norm", scale(1e3)),
    "beyond every bound": ("norm", scale(1e30)),
    "a name missing": ("names", table("names", NAMES[:1])),
    "a name too many": ("names", table("names", [*NAMES, "backdoor"])),
    "another name": ("names", table("names", [NAMES[0], "tail.bias"])),
    "another shape": ("shape", table("shapes", ["8x16", SHAPES[1]])),
    "another type": ("dtype", table("dtypes", ["float64", "float64"])),
    "a value too few": ("size", resize(-4)),
    "a byte too many": ("size", resize(1)),
    "160 GB declared": ("size", lie_about_size),
    "a NumPy file": ("dtype", numpy_file),
    "a weight of 1e9": ("weight", table("weight", 10**9)),
    "a weight of -50": ("weight", table("weight", -50)),
    "a weight of 0": ("weight", table("weight", 0)),
    "a weight of NaN": ("weight", table("weight", math.nan)),
    "an old round": ("round", table("round", ROUND - 1)),
    "another codec": ("size", table("codec", "int8")),
    "no weights": ("malformed", no_weights),
}


def close_round(
    replies: dict[str, RecordDict], rule: str, model: np.ndarray
) -> tuple[np.ndarray, dict[str, tuple[str, str]]]:
    """A round as the hub closes it: the next model, and site -> (code, words) of who was refused."""
    refused: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        for site, message in replies.items():
            expected = Expectation(LAYOUT, ROUND, PATIENTS[site])
            try:
                update, norm = admit(message, expected, site=site, answered=spool.sites())
                spool.add(site, update.delta, weight=update.weight, norm=norm)
            except RefusedUpdate as refusal:
                refused[site] = refusal.code, str(refusal)
        waiting = {site: spool.open(site) for site in SITES if site in spool.sites()}
        for site, why in judge({site: update.norm for site, update in waiting.items()}).items():
            refused[site] = "norm", f"site {site}: {why}"
        good = [update for site, update in waiting.items() if site not in refused]
        merged = fold(rule, good, [update.weight for update in good])
    return step(model, merged, {}, optimiser=Optimiser(), round_number=ROUND)[0], refused


@pytest.mark.parametrize("rule", sorted(FOLDS))
@pytest.mark.parametrize("mutation", MUTATIONS)
@given(seed=st.integers(0, 2**32 - 1), offender=st.sampled_from(SITES))
@settings(deadline=None, max_examples=5)
def test_a_bad_reply_costs_only_itself(mutation: str, rule: str, seed: int, offender: str) -> None:
    rng = np.random.default_rng(seed)
    code, mutate = MUTATIONS[mutation]
    model = rng.normal(size=LAYOUT.size).astype(np.float32)
    replies = {site: reply(honest(site, rng), weight=PATIENTS[site]) for site in SITES}
    without = {site: message for site, message in replies.items() if site != offender}
    bad = copy.deepcopy(replies[offender])
    mutate(bad, rng)

    new, refused = close_round({**replies, offender: bad}, rule, model)

    assert np.isfinite(new).all()
    assert list(refused) == [offender]
    assert refused[offender][0] == code
    assert refused[offender][1].startswith(f"site {offender}: ")
    assert new.tobytes() == close_round(without, rule, model)[0].tobytes()


def test_there_are_mutations_enough() -> None:
    assert len(MUTATIONS) >= 14


@pytest.mark.parametrize("rule", sorted(FOLDS))
def test_an_answer_given_twice_counts_once(rule: str, rng: np.random.Generator) -> None:
    replies = {site: reply(honest(site, rng), weight=PATIENTS[site]) for site in SITES}
    spooled: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        update, norm = admit(replies["ssa"], Expectation(LAYOUT, ROUND, 3), site="ssa")
        spooled["ssa"] = spool.add("ssa", update.delta, weight=update.weight, norm=norm).weight
        with pytest.raises(RefusedUpdate) as caught:
            admit(replies["ssa"], Expectation(LAYOUT, ROUND, 3), site="ssa", answered=spool.sites())

    assert caught.value.code == "duplicate"
    assert spooled == {"ssa": 3}


@pytest.mark.parametrize("codec", list(CODECS))
def test_honest_sites_are_all_folded(codec: str, rng: np.random.Generator) -> None:
    refusals = 0
    for _ in range(100):
        replies = {site: reply(honest(site, rng), weight=PATIENTS[site], codec=codec) for site in SITES}
        refusals += len(close_round(replies, "mean", np.zeros(LAYOUT.size, np.float32))[1])

    assert refusals == 0
