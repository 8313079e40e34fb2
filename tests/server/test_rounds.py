"""Rounds with sites that answer in every wrong way: stub sites without training, on the local grid."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common import wire
from common.checkpoint import load
from common.errors import QuorumError
from common.instruction import Instruction
from common.plan import Plan
from common.releases import verify
from server import app as hub
from server.exchange import ask
from server.registry import show
from server.roster import Roster, meet
from server.rounds import GlobalModel, covered_seconds, run_round
from server.run import Event, Listener, Run, create, opened
from simulation.grid import LocalGrid
from tests.stub_sites import (
    LAYOUT,
    PATIENTS,
    SITES,
    StubSites,
    delta_of,
    node_configs,
    plan_of,
    stub_grid,
)

BAD = "adult-b"
DIGEST = "0" * 64


@contextmanager
def opened_run(tmp_path: Path, plan: Plan) -> Iterator[Run]:
    create(tmp_path / "run", plan, resume=True)
    with opened(tmp_path / "run") as run:
        yield run


def words_of(run: Run) -> Instruction:
    return Instruction(run.identity, run.plan.as_toml(), 0, DIGEST, False)


def first_model() -> GlobalModel:
    draw = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=draw) for name, shape, _ in LAYOUT.entries}
    return GlobalModel({**tensors, "frozen": torch.ones(2)}, LAYOUT, {})


def play(grid: LocalGrid, tmp_path: Path, plan: Plan, *, rounds: int = 1) -> GlobalModel:
    """So many rounds from `first_model`; everybody has said hello before."""
    with opened_run(tmp_path, plan) as run:
        roster = Roster()
        meet(grid, run, words_of(run), roster, deadline_s=30)
        model = first_model()
        for _ in range(rounds):
            wake_up(grid, run, roster)
            model = run_round(grid, run, roster, model, words_of(run))
    return model


def wake_up(grid: LocalGrid, run: Run, roster: Roster) -> None:
    """Wait until workers that were started in place of dead ones have loaded their app."""
    question = RecordDict({wire.INSTRUCTION: words_of(run).record()})
    questions = dict.fromkeys(roster.nodes, question)
    assert len(list(ask(grid, roster.nodes, questions, wire.HELLO, deadline_s=60))) == len(SITES)


def records(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "run" / "rounds").glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]


def summary(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flowers_fedavg(model: GlobalModel, sites: Iterable[str], *, round_number: int) -> dict[str, Tensor]:
    """What Flower's own strategy makes of the same replies."""
    replies = []
    for site in sites:
        flat = model.flat + delta_of(site, round_number, LAYOUT.size)
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "arrays": ArrayRecord(wire.unflatten(flat, LAYOUT)),
            "metrics": MetricRecord({"num-examples": PATIENTS[site]}),
        }
        question = Message(RecordDict(), 2, "train")
        replies.append(Message(RecordDict(content), reply_to=question))
    merged, _ = FedAvg(weighted_by_key="num-examples").aggregate_train(round_number, replies)
    assert merged is not None
    return dict(merged.to_torch_state_dict())


class TestFold:
    def test_two_rounds_equal_flowers_fedavg(self, tmp_path: Path) -> None:
        with stub_grid() as grid:
            found = play(grid, tmp_path, plan_of(), rounds=2)
            expected = first_model()
            for number in (1, 2):
                tensors = flowers_fedavg(expected, SITES, round_number=number)
                expected = GlobalModel({**expected.tensors, **tensors}, LAYOUT, {}, number)

        assert found.round_number == 2
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=1e-6)
        assert torch.equal(found.tensors["frozen"], torch.ones(2))

    def test_without_the_bad_site_it_is_fedavg_of_the_others(self, tmp_path: Path) -> None:
        with stub_grid(StubSites({BAD: "sends NaN"})) as grid:
            found = play(grid, tmp_path, plan_of())
            expected = flowers_fedavg(first_model(), ("adult-a", "ssa"), round_number=1)

        for name, tensor in expected.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=1e-6)

    def test_equal_weights_are_those_of_the_plan(self, tmp_path: Path) -> None:
        with stub_grid() as grid:
            found = play(grid, tmp_path, plan_of(aggregation__weighting="equal"))
        mean = np.mean([delta_of(site, 1, LAYOUT.size) for site in SITES], axis=0)

        np.testing.assert_allclose(found.flat, first_model().flat + mean, atol=1e-6)

    @pytest.mark.parametrize("order", list(itertools.permutations(SITES)))
    def test_the_order_of_answers_changes_nothing(self, tmp_path: Path, order: tuple[str, ...]) -> None:
        """Some replies are hidden from the first looks, so that sites answer in `order`."""
        answered: list[str] = []
        with stub_grid() as grid, Delayed(dict(zip(order, (0, 1, 2), strict=True))) as delayed:
            straight = play(grid, tmp_path / "straight", plan_of())
            found = play(delayed, tmp_path / "delayed", plan_of())
            answered = [e["site"] for e in events(tmp_path / "delayed") if e["event"] == "site answered"]

        assert answered == list(order)
        assert same(found.tensors, straight.tensors)

    def test_workers_give_the_same_as_no_workers(self, tmp_path: Path) -> None:
        with stub_grid() as here, stub_grid(workers=2) as there:
            one = play(here, tmp_path / "here", plan_of(), rounds=2)
            other = play(there, tmp_path / "there", plan_of(), rounds=2)

        assert same(one.tensors, other.tensors)


class Delayed(LocalGrid):
    """Hides each site's round reply from so many looks."""

    def __init__(self, looks: Mapping[str, int]) -> None:
        super().__init__(node_configs(), StubSites())
        self._looks = looks
        self._hidden: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = list(messages)
        identities = list(super().push_messages(kept))
        for identity, message in zip(identities, kept, strict=True):
            if message.metadata.message_type == wire.ROUND:
                name = self._configs[message.metadata.dst_node_id]["name"]
                self._hidden[identity] = self._looks[name]
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (identity,) = message_ids
        if self._hidden.get(identity, 0) > 0:
            self._hidden[identity] -= 1
            return []
        return super().pull_messages([identity])


REFUSED = {
    "sends NaN": ("refused", "not-finite"),
    "sends Inf": ("refused", "not-finite"),
    "wrong shape": ("refused", "shape"),
    "missing name": ("refused", "names"),
    "weight 1e9": ("refused", "weight"),
    "old round": ("refused", "round"),
    "refuses": ("refused", "plan"),
    "sends nothing": ("refused", "malformed"),
    "talks nonsense": ("refused", "malformed"),
    "raises": ("lost", "flower-2"),
}


class TestBadReplies:
    @pytest.mark.parametrize("behaviour", REFUSED)
    def test_a_bad_site_is_named_and_the_round_goes_on(self, tmp_path: Path, behaviour: str) -> None:
        with stub_grid(StubSites({BAD: behaviour})) as grid:
            play(grid, tmp_path, plan_of())
        (record,) = records(tmp_path)
        outcomes = {site: (each["outcome"], each["reason"]) for site, each in record["sites"].items()}

        assert outcomes == {
            "adult-a": ("folded", None),
            BAD: REFUSED[behaviour],
            "ssa": ("folded", None),
        }
        assert record["folded"] == ["adult-a", "ssa"]
        assert record["subset"] is True
        assert "CANARY" not in (tmp_path / "run" / "events.jsonl").read_text()
        named = [e["event"] for e in events(tmp_path) if e.get("site") == BAD and "round" in e]
        assert named in (["update refused"], ["site silent"])

    @pytest.mark.parametrize(
        ("behaviour", "expected"), [("never answers", ("late", "deadline")), ("dies", ("lost", "flower-5"))]
    )
    def test_a_silent_worker_is_named_and_comes_back(
        self, tmp_path: Path, behaviour: str, expected: tuple[str, str]
    ) -> None:
        plan = plan_of(rounds__deadline_s=2.0)
        with stub_grid(StubSites({BAD: behaviour}, rounds=(1,)), workers=2) as grid:
            play(grid, tmp_path, plan, rounds=2)
        first, second = records(tmp_path)

        assert (first["sites"][BAD]["outcome"], first["sites"][BAD]["reason"]) == expected
        assert first["folded"] == ["adult-a", "ssa"]
        assert second["folded"] == list(SITES)
        assert second["subset"] is False

    def test_a_site_that_outlasts_the_deadline_is_late_also_without_workers(self, tmp_path: Path) -> None:
        """Sites run one after the other: the slow one is last, so that the others are in time."""
        plan = plan_of(rounds__deadline_s=0.5)
        with stub_grid(StubSites({"ssa": "is slow"}, rounds=(1,))) as grid:
            play(grid, tmp_path, plan, rounds=2)
        first, second = records(tmp_path)

        assert first["sites"]["ssa"]["outcome"] == "late"
        assert first["wall_s"] < 5
        assert second["folded"] == list(SITES)

    def test_numbers_beyond_belief_cost_nothing(self, tmp_path: Path) -> None:
        """Times and scores of 1e308 would make sums infinite and the overhead negative."""
        with stub_grid(StubSites({BAD: "lies about numbers", "ssa": "lies about numbers"})) as grid:
            play(grid, tmp_path, plan_of())
        (record,) = records(tmp_path)

        assert record["folded"] == list(SITES)
        assert record["validation_dice"] == 0.5
        assert 0 <= record["overhead_s"] <= record["wall_s"]

    def test_an_update_out_of_proportion_is_refused_by_norm(self, tmp_path: Path) -> None:
        """Only a factor that the honest updates themselves exceed shows it here: the longest goes."""
        norms = {site: float(np.linalg.norm(delta_of(site, 1, LAYOUT.size))) for site in SITES}
        longest = max(norms, key=lambda site: norms[site])
        factor = (norms[longest] / float(np.median(list(norms.values())))) ** 0.5
        with stub_grid() as grid:
            play(grid, tmp_path, plan_of(aggregation__norm_factor=factor))
        (record,) = records(tmp_path)

        assert record["sites"][longest]["reason"] == "norm"
        assert record["folded"] == [site for site in SITES if site != longest]

    def test_nothing_stays_in_the_spool(self, tmp_path: Path) -> None:
        with stub_grid(StubSites({BAD: "sends NaN"})) as grid:
            play(grid, tmp_path, plan_of())

        assert list((tmp_path / "run" / "spool").iterdir()) == []


class TestQuorum:
    def test_a_missed_quorum_names_everybody_and_closes_nothing(self, tmp_path: Path) -> None:
        sites = StubSites({BAD: "sends NaN", "ssa": "refuses"})
        with (
            stub_grid(sites) as grid,
            pytest.raises(QuorumError, match=r"round 1: 1 usable .* quorum is 2") as caught,
        ):
            play(grid, tmp_path, plan_of())

        assert "adult-b refused (not-finite)" in str(caught.value)
        assert "ssa refused (plan)" in str(caught.value)
        assert not list((tmp_path / "run").glob("checkpoints/round-0001*"))
        assert events(tmp_path)[-1]["event"] == "quorum missed"

    def test_a_failed_run_says_so_and_can_be_resumed(self, tmp_path: Path) -> None:
        """Round 2 fails; resumed with honest sites it ends as a run that never failed."""
        with pytest.raises(QuorumError):
            carry_out(tmp_path, StubSites({BAD: "raises", "ssa": "raises"}, rounds=(2,)))
        failed = summary(tmp_path)
        carry_out(tmp_path, StubSites())
        carry_out(tmp_path / "straight", StubSites())

        assert (failed["status"], len(failed["rounds"])) == ("failed", 1)
        assert summary(tmp_path)["status"] == "completed"
        assert same(final_tensors(tmp_path), final_tensors(tmp_path / "straight"))
        assert any(e["event"] == "run failed" and e["error"] == "QuorumError" for e in events(tmp_path))

    def test_a_run_killed_while_it_was_released_is_released_anew(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites())
        (release,) = (tmp_path / "run" / "releases").iterdir()
        before = load(release / "model.safetensors").tensors
        (release / "lineage.json").unlink()
        release.rename(release.with_name(f".{release.name}.tmp"))
        carry_out(tmp_path, StubSites())

        assert list((tmp_path / "run" / "releases").iterdir()) == [release]
        verify(show(tmp_path / "run", release.name))
        assert same(load(release / "model.safetensors").tensors, before)

    def test_too_few_sites_at_the_start(self, tmp_path: Path) -> None:
        """Two of three do not even say who they are: nothing is waited for."""
        sites = StubSites({BAD: "raises", "ssa": "refuses"}, kinds=(wire.HELLO,))
        began = time.monotonic()
        with pytest.raises(QuorumError, match="missing: adult-b, ssa"):
            carry_out(tmp_path, sites)

        assert time.monotonic() - began < 20
        assert summary(tmp_path)["status"] == "failed"

    def test_a_site_that_cannot_take_the_first_model_is_left_out(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites({BAD: "refuses"}, kinds=(wire.RECEIVE,)))

        assert [record["folded"] for record in records(tmp_path)] == [["adult-a", "ssa"]] * 2
        assert summary(tmp_path)["rounds"][0]["sites"][BAD]["reason"] == "absent"
        assert summary(tmp_path)["subset_rounds"] == [1, 2]

    def test_too_few_take_the_first_model(self, tmp_path: Path) -> None:
        sites = StubSites({BAD: "raises", "ssa": "refuses"}, kinds=(wire.RECEIVE,))
        with pytest.raises(QuorumError, match="took the first model"):
            carry_out(tmp_path, sites)


class TestJoining:
    def test_a_latecomer_is_met_before_the_next_round(self, tmp_path: Path) -> None:
        configs = node_configs()
        late_node, late_config = configs.popitem()

        def let_in(event: Event) -> None:
            if event["event"] == "round closed":
                configs[late_node] = late_config

        with heard_by(let_in):
            carry_out(tmp_path, StubSites(), configs=configs, plan=plan_of(evaluation__local_only=True))
        first, second = records(tmp_path)
        site = summary(tmp_path)["sites"]["ssa"]

        assert first["sites"]["ssa"] == {
            "outcome": "lost",
            "reason": "absent",
            "train_s": None,
            "bytes_up": 0,
            "bytes_down": 0,
        }
        assert (first["folded"], first["subset"]) == (["adult-a", "adult-b"], True)
        assert (second["folded"], second["subset"]) == (list(SITES), False)
        assert summary(tmp_path)["subset_rounds"] == [1]
        assert {"before", "federated", "adapted", "local_only"} <= site.keys()

    def test_a_node_that_is_none_of_the_plans_sites_stays_out(self, tmp_path: Path) -> None:
        """Two nodes say the same name: the first is taken, the second is a stranger."""
        configs = {**node_configs(), 9: {"name": "ssa"}}
        carry_out(tmp_path, StubSites(), configs=configs)

        unusable = [e for e in events(tmp_path) if e["event"] == "site unusable"]
        assert [(e["site"], e["code"]) for e in unusable] == [("ssa", "unknown-site")]
        assert records(tmp_path)[0]["folded"] == list(SITES)

    def test_a_site_without_a_final_answer_is_named_and_stays_out(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites({BAD: "sends nothing"}, kinds=(wire.ADAPT,)))
        sites = summary(tmp_path)["sites"]

        assert summary(tmp_path)["status"] == "completed"
        assert "adapted" not in sites[BAD]
        assert "adapted" in sites["ssa"]
        silent = [(e["stage"], e["site"]) for e in events(tmp_path) if e["event"] == "site silent"]
        assert silent == [("adapted", BAD)]


class TestAsking:
    def test_a_message_that_the_transport_did_not_take_is_lost(self) -> None:
        """Flower's grids give no id, or None, for a message that they could not send."""

        class Refusing(LocalGrid):
            def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
                (message,) = messages
                return [] if message.metadata.dst_node_id == 2 else super().push_messages([message])

        questions = {site: RecordDict({wire.INSTRUCTION: ConfigRecord({})}) for site in ("adult-a", "ssa")}
        with Refusing(node_configs(), StubSites()) as grid:
            answers = list(ask(grid, {"adult-a": 2, "ssa": 4}, questions, "query.none", deadline_s=5))

        assert [(a.site, a.outcome, a.code) for a in answers] == [
            ("adult-a", "lost", "not-sent"),
            ("ssa", "lost", "flower-2"),
        ]

    def test_nobody_is_asked(self) -> None:
        with stub_grid() as grid:
            assert list(ask(grid, {}, {}, wire.HELLO, deadline_s=5)) == []


class TestOverhead:
    def test_an_idle_round_costs_little(self, tmp_path: Path) -> None:
        with stub_grid() as grid:
            play(grid, tmp_path, plan_of(), rounds=3)

        for record in records(tmp_path):
            assert 0 <= record["overhead_s"] <= record["wall_s"]
        assert min(record["overhead_s"] for record in records(tmp_path)) < 0.5

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)).map(lambda pair: (pair[0], sum(pair)))))
    @settings(deadline=None)
    def test_covered_seconds_is_the_measure_of_the_union(self, intervals: list[tuple[int, int]]) -> None:
        """On whole seconds the union can be counted: second s is covered if some interval holds s to s+1."""
        cells = {second for start, stop in intervals for second in range(start, stop)}

        assert covered_seconds(intervals) == len(cells)
        assert covered_seconds(reversed(intervals)) == len(cells)

    @given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e3)).map(lambda p: (p[0], sum(p)))))
    def test_covered_seconds_has_bounds(self, intervals: list[tuple[float, float]]) -> None:
        lengths = [stop - start for start, stop in intervals]

        assert max(lengths, default=0) <= covered_seconds(intervals) + 1e-6
        assert covered_seconds(intervals) <= sum(lengths) + 1e-6


def carry_out(
    tmp_path: Path,
    sites: StubSites,
    *,
    configs: dict[int, dict[str, str]] | None = None,
    plan: Plan | None = None,
) -> None:
    """A whole run of stub sites, as the ServerApp does it, with the real network's parameters."""
    folder = tmp_path / "run"
    create(folder, plan or plan_of(), resume=True)
    context = Context(1, 1, cast(Any, {}), RecordDict(), cast(Any, {}))
    with (
        LocalGrid(node_configs() if configs is None else configs, sites) as grid,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(hub.RUN_VARIABLE, str(folder))
        hub.app(grid, context)


@contextmanager
def heard_by(listen: Listener) -> Iterator[None]:
    hub.listeners.append(listen)
    try:
        yield
    finally:
        hub.listeners.remove(listen)


def final_tensors(tmp_path: Path) -> dict[str, Tensor]:
    return load(tmp_path / "run" / "checkpoints" / "last.safetensors").tensors
