"""Domains of an aligned run: who is of which, how the discriminator is merged, and who is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common import wire
from common.checkpoint import load
from common.errors import InputError, QuorumError
from common.learning.finetuning import trainable_names
from common.models.network import build
from common.plan import Plan
from common.wire import Layout
from server.aggregation import Section, domain_weights, fold
from server.domains import domain_of, first_discriminator, table_of
from server.run import Event
from tests.server.test_rounds import carry_out, events, final_tensors, heard_by, records, summary
from tests.stub_sites import SITES, StubSites, delta_of, node_configs, plan_of


def aligned(**changes: object) -> Plan:
    return plan_of(alignment__method="dann", **changes)


def discriminator(tmp_path: Path, round_number: int) -> dict[str, Tensor]:
    file = tmp_path / "run" / "checkpoints" / f"round-{round_number:04d}.server.safetensors"
    return {name: v for name, v in load(file).tensors.items() if name.startswith("discriminator.")}


def flat_of(tensors: dict[str, Tensor]) -> np.ndarray:
    return wire.flatten(tensors, Layout.of(tensors))


def model_size(plan: Plan) -> int:
    network = build(plan, seed=0)
    state = network.state_dict()
    return Layout.of({name: state[name] for name in trainable_names(network, "all", new_head=True)}).size


def sent(plan: Plan, site: str, round_number: int) -> np.ndarray:
    """What a stub site adds to the discriminator in a round."""
    start = model_size(plan)
    size = flat_of(first_discriminator(plan, domains=2)).size
    return delta_of(site, round_number, start + size)[start:]


class TestDomainOf:
    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({"field_strength_t": 3.0}, "3 T"),
            ({"field_strength_t": 3}, "3 T"),
            ({"field_strength_t": 0.055, "degraded": None}, "0.055 T"),
            ({"field_strength_t": 3.0, "degraded": "ssa-1.5T"}, "3 T as ssa-1.5T"),
            ({"field_strength_t": None}, None),
            ({}, None),
            ({"field_strength_t": "3"}, None),
            ({"field_strength_t": True}, None),
            ({"field_strength_t": -3.0}, None),
            ({"field_strength_t": 1e300}, None),
            ({"field_strength_t": 3.0, "degraded": "../../etc"}, None),
            ({"field_strength_t": 3.0, "degraded": 1}, None),
        ],
        ids=str,
    )
    def test_by_field_strength(self, facts: dict[str, Any], expected: str | None) -> None:
        assert domain_of(aligned(), "ssa", facts) == expected

    def test_by_site(self) -> None:
        assert domain_of(aligned(alignment__domains="site"), "ssa", {}) == "ssa"


class TestTable:
    def test_field_strengths_are_numbered_from_low_to_high(self) -> None:
        found = {"a": "3 T", "b": "1.5 T", "c": "0.055 T", "d": "3 T", "e": "3 T as ultra-low", "f": None}
        assert table_of(aligned(), found) == ("0.055 T", "1.5 T", "3 T", "3 T as ultra-low")

    def test_by_site_all_of_the_plan_count(self) -> None:
        plan = aligned(alignment__domains="site")
        assert table_of(plan, {"ssa": "ssa"}) == SITES

    def test_fewer_than_two_are_refused_by_naming_who_says_what(self) -> None:
        with pytest.raises(InputError) as caught:
            table_of(aligned(), {"adult-a": "3 T", "adult-b": "3 T", "ssa": None})
        assert str(caught.value).startswith(
            "alignment 'dann' needs two domains or more, and by field strength there is "
            "3 T (adult-a, adult-b); ssa: no field_strength_t in cohort.toml."
        )

    def test_the_first_discriminator_hangs_on_the_seed_alone(self) -> None:
        one, again = (first_discriminator(aligned(), domains=2) for _ in range(2))
        other = first_discriminator(aligned(seed=2), domains=2)

        assert flat_of(one).tobytes() == flat_of(again).tobytes()
        assert flat_of(one).tobytes() != flat_of(other).tobytes()
        assert len(first_discriminator(aligned(), domains=3)["discriminator.layers.2.bias"]) == 3


class TestWeights:
    def test_two_sites_of_one_domain_and_one_of_the_other(self) -> None:
        assert domain_weights([0, 0, 1]) == [1, 1, 2]

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    def test_each_domain_weighs_the_same(self, domains: list[int]) -> None:
        weights = domain_weights(domains)
        sums = {
            number: sum(w for w, other in zip(weights, domains, strict=True) if other == number)
            for number in domains
        }

        assert min(weights) >= 1
        assert len(set(sums.values())) == 1

    def test_a_section_folds_as_a_copy_of_it_would(self) -> None:
        updates = [delta_of(site, 1, 400_000) for site in SITES]
        parts = [Section(update, 1_000, 399_000) for update in updates]

        for rule in ("mean", "median"):
            expected = fold(rule, [update[1_000:399_000] for update in updates], [3, 1, 2])
            assert fold(rule, parts, [3, 1, 2]).tobytes() == expected.tobytes()


class TestRun:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"aggregation__fold": "median", "aggregation__server_optimiser": "adam"},
            {"aggregation__weighting": "equal", "aggregation__server_optimiser": "momentum"},
        ],
        ids=str,
    )
    def test_the_discriminator_is_the_mean_of_the_domains_means_whatever_the_model_is(
        self, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        plan = aligned(**changes)
        carry_out(tmp_path, StubSites(), plan=plan)
        expected = flat_of(first_discriminator(plan, domains=2)).astype(np.float64)
        for number in (1, 2):
            adults = (sent(plan, "adult-a", number) + sent(plan, "adult-b", number).astype(np.float64)) / 2
            expected += (adults + sent(plan, "ssa", number)) / 2
            np.testing.assert_allclose(flat_of(discriminator(tmp_path, number)), expected, atol=1e-6)

    def test_the_model_is_the_one_that_the_same_updates_give_without_alignment(self, tmp_path: Path) -> None:
        """The discriminator lies behind it in the buffer and moves nothing of it."""
        carry_out(tmp_path / "aligned", StubSites(), plan=aligned())
        model = final_tensors(tmp_path / "aligned")
        size, layout = model_size(aligned()), Layout.of(model)
        start = load(tmp_path / "aligned" / "run" / "checkpoints" / "round-0000.safetensors").tensors
        expected = wire.flatten(start, layout).astype(np.float64)
        for number in (1, 2):
            for site, patients in (("adult-a", 7), ("adult-b", 4), ("ssa", 2)):
                whole = size + flat_of(first_discriminator(aligned(), domains=2)).size
                expected += patients / 13 * delta_of(site, number, whole)[:size]

        np.testing.assert_allclose(wire.flatten(model, layout), expected, atol=1e-6)

    def test_domains_are_kept_and_told(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites(), plan=aligned())
        kept = json.loads((tmp_path / "run" / "domains.json").read_text())

        assert kept == {"schema": 1, "by": "field-strength", "domains": ["1.5 T", "3 T"]}
        assert [e["domains"] for e in events(tmp_path) if e["event"] == "domains fixed"] == [["1.5 T", "3 T"]]

    def test_the_discriminator_is_in_no_checkpoint_and_no_release(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites(), plan=aligned())
        run = tmp_path / "run"
        models = [path for path in run.rglob("*.safetensors") if ".server." not in path.name]

        assert {path.name for path in models} >= {"last.safetensors", "best.safetensors", "model.safetensors"}
        for path in models:
            assert not [name for name in load(path).tensors if "discriminator" in name], path.name

    def test_a_resumed_run_ends_as_one_that_was_never_stopped(self, tmp_path: Path) -> None:
        plan = aligned(aggregation__server_optimiser="yogi")
        with pytest.raises(QuorumError):
            carry_out(tmp_path, StubSites({"adult-b": "raises", "ssa": "raises"}, rounds=(2,)), plan=plan)
        carry_out(tmp_path, StubSites(), plan=plan)
        carry_out(tmp_path / "straight", StubSites(), plan=plan)
        one, other = (discriminator(folder, 2) for folder in (tmp_path, tmp_path / "straight"))

        assert flat_of(one).tobytes() == flat_of(other).tobytes()
        for name, tensor in final_tensors(tmp_path).items():
            assert torch.equal(tensor, final_tensors(tmp_path / "straight")[name])

    def test_a_round_that_hears_of_one_domain_leaves_the_discriminator_as_it_was(
        self, tmp_path: Path
    ) -> None:
        carry_out(tmp_path, StubSites({"ssa": "refuses"}, rounds=(1,)), plan=aligned())
        first = flat_of(first_discriminator(aligned(), domains=2))

        assert flat_of(discriminator(tmp_path, 1)).tobytes() == first.tobytes()
        assert flat_of(discriminator(tmp_path, 2)).tobytes() != first.tobytes()

    def test_by_site_each_is_a_domain(self, tmp_path: Path) -> None:
        plan = aligned(alignment__domains="site")
        carry_out(tmp_path, StubSites({"ssa": "declares no field strength"}, kinds=(wire.HELLO,)), plan=plan)

        assert len(discriminator(tmp_path, 1)["discriminator.layers.2.bias"]) == 3
        assert records(tmp_path)[0]["folded"] == list(SITES)

    def test_without_alignment_there_is_no_domain(self, tmp_path: Path) -> None:
        carry_out(tmp_path, StubSites())

        assert not (tmp_path / "run" / "domains.json").exists()
        assert not list((tmp_path / "run").rglob("*.server.safetensors"))


class TestLeftOut:
    def test_a_site_that_does_not_say_its_field_strength_is_named(self, tmp_path: Path) -> None:
        silent = StubSites({"adult-b": "declares no field strength"}, kinds=(wire.HELLO,))
        carry_out(tmp_path, silent, plan=aligned())
        left = [e for e in events(tmp_path) if e["event"] == "site unusable"]

        assert {(e["site"], e["code"]) for e in left} == {("adult-b", "no-domain")}
        assert [record["folded"] for record in records(tmp_path)] == [["adult-a", "ssa"]] * 2
        assert summary(tmp_path)["rounds"][0]["sites"]["adult-b"]["reason"] == "absent"

    @pytest.mark.parametrize(("behaviour", "left"), [("declares 7 T", ["ssa"]), ("declares 3 T", [])])
    def test_a_latecomer_is_of_a_domain_that_the_run_knows_or_is_left_out(
        self, tmp_path: Path, behaviour: str, left: list[str]
    ) -> None:
        """The table is that of adult-a at 3 T and adult-b, which here declares 1.5 T."""
        configs = node_configs()
        late_node, late_config = configs.popitem()

        def let_in(event: Event) -> None:
            if event["event"] == "round closed":
                configs[late_node] = late_config

        sites = StubSites({"ssa": behaviour, "adult-b": "declares 1.5 T"}, kinds=(wire.HELLO,))
        with heard_by(let_in):
            carry_out(tmp_path, sites, configs=configs, plan=aligned())
        unusable = [e for e in events(tmp_path) if e["event"] == "site unusable"]

        assert [e["site"] for e in unusable] == left
        assert all(e["code"] == "unknown-domain" for e in unusable)
        assert records(tmp_path)[1]["folded"] == [site for site in SITES if site not in left]

    def test_one_domain_is_refused_before_any_training(self, tmp_path: Path) -> None:
        sites = StubSites({"ssa": "declares 3 T"}, kinds=(wire.HELLO,))
        with pytest.raises(
            InputError, match=r"needs two domains or more.*3 T \(adult-a, adult-b, ssa\)"
        ) as error:
            carry_out(tmp_path, sites, plan=aligned())

        assert error.value.exit_status == 2
        assert summary(tmp_path)["status"] == "failed"
        assert {"first model received", "stage opened", "round opened"}.isdisjoint(
            e["event"] for e in events(tmp_path)
        )
        assert not (tmp_path / "run" / "domains.json").exists()

    def test_too_few_sites_of_a_known_domain_miss_the_quorum(self, tmp_path: Path) -> None:
        carry_out(tmp_path / "first", StubSites(), plan=aligned())
        run = tmp_path / "run"
        shutil.copytree(tmp_path / "first" / "run", run)
        sites = StubSites(
            {"ssa": "declares 7 T", "adult-b": "declares no field strength"}, kinds=(wire.HELLO,)
        )
        with pytest.raises(QuorumError, match=r"1 site\(s\) are of a domain of this run \(1.5 T, 3 T\)"):
            carry_out(tmp_path, sites, plan=aligned())
