from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, FedYogi
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from common.errors import RunError
from server.aggregation import FOLDS, STEPS, Optimiser, fold, step
from server.gate import Spool

SIZE = 3000
WEIGHTS = [5, 1, 12, 3, 9]


def deltas(count: int, *, seed: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(scale=0.02, size=SIZE).astype(np.float32) for _ in range(count)]


@pytest.fixture
def model() -> np.ndarray:
    return np.random.default_rng(1).normal(scale=0.3, size=SIZE).astype(np.float32)


def flower_replies(models: Sequence[np.ndarray], weights: Sequence[int]) -> list[Message]:
    contents = [
        RecordDict({"arrays": ArrayRecord({"w": Array(m)}), "metrics": MetricRecord({"num-examples": w})})
        for m, w in zip(models, weights, strict=True)
    ]
    return [Message(content=content, metadata=metadata()) for content in contents]  # type: ignore[call-overload]


def metadata() -> Metadata:
    return Metadata(1, "m", 2, 1, "r", "", 0.0, 60.0, "train", None, None)


def flower_round(
    strategy: FedAvg, model: np.ndarray, updates: Sequence[np.ndarray], number: int
) -> np.ndarray:
    record = ArrayRecord({"w": Array(model)})
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = strategy.current_arrays or record
    elif hasattr(strategy, "current_arrays"):
        strategy.current_arrays = {"w": model}
    models = [model + update for update in updates]
    arrays, _ = strategy.aggregate_train(number, flower_replies(models, WEIGHTS[: len(models)]))
    assert arrays is not None
    return arrays["w"].numpy()


@pytest.mark.parametrize(
    ("rule", "strategy"),
    [("mean", FedAvg()), ("median", FedMedian()), ("trimmed-mean", FedTrimmedAvg(beta=0.2))],
)
@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5])
def test_folds_equal_flowers(rule: str, strategy: FedAvg, sites: int, model: np.ndarray) -> None:
    updates = deltas(sites)
    ours, _ = step(model, fold(rule, updates, WEIGHTS[:sites]), {}, optimiser=Optimiser(), round_number=1)

    assert ours == pytest.approx(flower_round(strategy, model, updates, 1), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("optimiser", "strategy"),
    [
        (
            Optimiser("momentum", learning_rate=0.7, momentum=0.9),
            FedAvgM(server_learning_rate=0.7, server_momentum=0.9),
        ),
        (
            Optimiser("adam", learning_rate=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3),
            FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3),
        ),
        (
            Optimiser("yogi", learning_rate=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3),
            FedYogi(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_optimisers_equal_flowers_over_rounds(
    optimiser: Optimiser, strategy: FedAvg, model: np.ndarray
) -> None:
    ours, theirs = model, model.astype(np.float64)
    state: dict[str, Tensor] = {}
    for number in range(1, 6):
        updates = deltas(3, seed=number)
        ours, state = step(
            ours, fold("mean", updates, WEIGHTS[:3]), state, optimiser=optimiser, round_number=number
        )
        theirs = flower_round(strategy, theirs, updates, number)

    # Flower is given float64 models: in float32 it would take its delta from two rounded models.
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7)


def test_the_mean_by_hand() -> None:
    updates = [np.array([1, 0], np.float32), np.array([4, -8], np.float32)]

    assert fold("mean", updates, [3, 1]).tolist() == [7 / 4, -2]
    assert fold("median", updates, [3, 1]).tolist() == [2.5, -4]
    five = [np.array([value], np.float32) for value in (9, -100, 1, 2, 6)]
    assert fold("median", five, [1] * 5).tolist() == [2]
    assert fold("trimmed-mean", five, [1] * 5, beta=0.2).tolist() == [3]
    assert fold("trimmed-mean", five, [1] * 5, beta=0).tolist() == [-16.4]


def test_adams_first_step_by_hand() -> None:
    new, state = step(
        np.zeros(1, np.float32),
        np.array([0.5]),
        {},
        optimiser=Optimiser("adam", learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=0.0),
        round_number=1,
    )

    # first = 0.05, second = 0.0025; rate = 0.1 sqrt(1 - 0.99^2) / (1 - 0.9^2) = 0.0742478
    assert state["first"].item() == pytest.approx(0.05)
    assert state["second"].item() == pytest.approx(0.0025)
    assert new[0] == pytest.approx(0.1 * 0.0199**0.5 / 0.19 * 0.05 / 0.05, rel=1e-6)


vectors = hnp.arrays(np.float32, 40, elements=st.floats(-1e6, 1e6, width=32), fill=st.nothing())


@given(vectors, st.lists(st.integers(1, 10_000), min_size=1, max_size=9), st.sampled_from(sorted(FOLDS)))
@settings(deadline=None)
def test_equal_updates_give_that_update(vector: np.ndarray, weights: list[int], rule: str) -> None:
    folded = fold(rule, [vector] * len(weights), weights)

    assert np.array_equal(folded, vector)


@given(
    st.lists(st.tuples(vectors, st.integers(1, 1000)), min_size=1, max_size=6),
    st.randoms(),
    st.sampled_from(sorted(FOLDS)),
)
@settings(deadline=None)
def test_the_order_of_sites_does_not_matter(
    pairs: list[tuple[np.ndarray, int]], random: object, rule: str
) -> None:
    shuffled = pairs[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = fold(rule, [vector for vector, _ in pairs], [weight for _, weight in pairs])
    second = fold(rule, [vector for vector, _ in shuffled], [weight for _, weight in shuffled])

    assert second == pytest.approx(first, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("rule", sorted(FOLDS))
def test_the_order_of_answers_changes_no_bit(rule: str, tmp_path: Path) -> None:
    updates = dict(zip("abcd", deltas(4), strict=True))
    results = set()
    for number, order in enumerate(itertools.permutations(updates)):
        spool = Spool(tmp_path / str(number))
        for site in order:
            spool.add(site, updates[site], weight=ord(site), norm=1.0)
        waiting = [spool.open(site) for site in "abcd"]  # the plan's order
        results.add(fold(rule, waiting, [update.weight for update in waiting]).tobytes())

    assert len(results) == 1


@pytest.mark.parametrize("rule", sorted(FOLDS))
def test_slices_fit_together(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = [np.tile(update, 3) for update in deltas(5)]
    whole = fold(rule, updates, WEIGHTS)
    monkeypatch.setattr("server.aggregation._SLICE", 1000)

    assert fold(rule, updates, WEIGHTS).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_from_kept_state_is_the_step(name: str, model: np.ndarray, tmp_path: Path) -> None:
    optimiser = Optimiser(name)
    first, state = step(model, fold("mean", deltas(2), [1, 1]), {}, optimiser=optimiser, round_number=1)
    before = {key: moment.clone() for key, moment in state.items()}
    going_on = step(
        first, fold("mean", deltas(2, seed=9), [1, 1]), state, optimiser=optimiser, round_number=2
    )
    resumed = step(
        first, fold("mean", deltas(2, seed=9), [1, 1]), before, optimiser=optimiser, round_number=2
    )

    assert resumed[0].tobytes() == going_on[0].tobytes()
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert all(moment.dtype == torch.float32 for moment in state.values())


@pytest.mark.parametrize(
    ("rule", "updates", "weights", "beta", "words"),
    [
        ("krum", deltas(1), [1], 0.2, "known are mean, median, trimmed-mean"),
        ("mean", [], [], 0.2, "0 updates"),
        ("mean", deltas(2), [1], 0.2, "2 updates and 1 weights"),
        ("mean", [np.zeros(2, np.float32), np.zeros(3, np.float32)], [1, 1], 0.2, "differ in length"),
        ("mean", deltas(1), [0], 0.2, "below 1"),
        ("trimmed-mean", deltas(1), [1], 0.5, "not in"),
    ],
)
def test_what_cannot_be_folded(
    rule: str, updates: list[np.ndarray], weights: list[int], beta: float, words: str
) -> None:
    with pytest.raises(RunError, match=words):
        fold(rule, updates, weights, beta=beta)


def test_what_cannot_be_stepped(model: np.ndarray) -> None:
    delta = np.zeros(SIZE)
    with pytest.raises(RunError, match="known are none, momentum, adam, yogi"):
        step(model, delta, {}, optimiser=Optimiser("lamb"), round_number=1)
    with pytest.raises(RunError, match="another model"):
        step(model, delta, {"velocity": torch.zeros(3)}, optimiser=Optimiser("momentum"), round_number=2)
    with pytest.raises(RunError, match="another model"):
        step(model, delta[:5], {}, optimiser=Optimiser(), round_number=2)
