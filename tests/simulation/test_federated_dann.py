"""Federated DANN against pooled DANN, step for step; and whole runs: what stays, and what a kill changes."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.adaptation import Bench, train_round
from client.site import Site
from common.checkpoint import load
from common.data.sampling import Batch
from common.errors import InputError, SiteError
from common.learning.alignment import STRENGTH, attach, pooled_term
from common.learning.finetuning import trainable_names
from common.learning.loop import Settings, train
from common.models.network import build
from common.models.unet import UNet
from common.plan import Plan, parse
from server.aggregation import Flat, Optimiser, Section, domain_weights, fold, step
from server.run import Event
from simulation.federation import Federation, check, simulate
from tests.simulation.conftest import Play, tiny_plan
from tests.simulation.processes import left_of_group, needs_proc

METHODS = tuple(STRENGTH)
Wide = NDArray[np.float64]
SIDES = (16, 16, 32)


def one_step_plan(method: str, *, sites: int = 2, trains: str = "all") -> Plan:
    """The second of two rounds of one step, so that the strength is that of half-way."""
    data = {
        "schema": 1,
        "name": "one-step",
        "adaptation": {"trains": trains, "local_steps": 1, "patch": 32, "loss": "paper", "optimiser": "sgd"},
        "alignment": {"method": method, "weight": 0.5},
        "rounds": {"count": 2, "quorum": 1},
        "aggregation": {"weighting": "equal"},
        "sites": {f"site-{number}": {} for number in range(sites)},
    }
    return parse(data, origin="test")


def patches(site: int) -> Batch:
    """Two float64 patches of a site, brighter from site to site in one channel of four."""
    draw = torch.Generator().manual_seed(site)
    image = torch.randn(2, 4, *SIDES, dtype=torch.float64, generator=draw)
    image[:, 0, :8] += site
    return Batch(image, torch.randint(0, 4, (2, *SIDES), generator=draw))


@dataclass(frozen=True)
class OneBatch(Bench):
    """A site that always draws the same patches, and does not cut gradients: cut, they no longer add up."""

    drawn: Batch

    def draw(self, stream: str, step: int) -> Batch:
        return self.drawn

    def settings(self) -> Settings:
        return replace(super().settings(), clip_norm=None, learning_rate=0.1)


def start(plan: Plan) -> tuple[UNet, tuple[str, ...], tuple[str, ...]]:
    """A float64 network, what of it trains, and its discriminator's names."""
    model = build(plan, seed=3).double()
    names = trainable_names(model, plan.adaptation.trains, new_head=True)
    return model, names, attach(model, domains=2, seed=4)


def flat(model: UNet, names: Sequence[str]) -> Wide:
    parameters = dict(model.named_parameters())
    return np.concatenate([parameters[name].detach().numpy().reshape(-1) for name in names])


def federated_step(plan: Plan, domains: Sequence[int]) -> tuple[Wide, Wide, Wide]:
    """What each site's round makes, folded as the hub does it: start, next model, next discriminator."""
    model, names, added = start(plan)
    before = flat(model, (*names, *added))
    updates = []
    for site, domain in enumerate(domains):
        bench = OneBatch(Site(f"site-{site}", Path(), Path()), plan, patches(site))
        own = copy.deepcopy(model)
        train_round(bench, own, names=(*names, *added), round_number=2, optimiser_state={}, domain=domain)
        # The fold takes float64 as it is; only what crosses the wire is float32.
        updates.append(cast(Flat, flat(own, (*names, *added)) - before))
    size = len(flat(model, names))
    merged = fold("mean", [Section(update, 0, size) for update in updates], [1] * len(updates))
    moved, _ = step(cast(Flat, before[:size]), merged, {}, optimiser=Optimiser(), round_number=2)
    parts = [Section(update, size, len(before)) for update in updates]
    told = before[size:] + fold("mean", parts, domain_weights(domains))
    return before, cast(Wide, moved), told


def pooled_step(plan: Plan, domains: Sequence[int]) -> tuple[Wide, Wide]:
    """The same step on all patches in one place: next model, next discriminator."""
    model, names, added = start(plan)
    drawn = [patches(site) for site in range(len(domains))]
    together = Batch(
        torch.cat([batch.image for batch in drawn]),
        torch.cat([batch.label for batch in drawn]),
        torch.tensor(domains).repeat_interleave(2),
    )
    wanted = plan.alignment
    bench = OneBatch(Site("all", Path(), Path()), plan, together)
    train(
        model,
        lambda step: together,
        bench.settings(),
        total_steps=plan.total_steps,
        first_step=1,
        steps=1,
        names=(*names, *added),
        alignment=pooled_term(
            model, method=wanted.method, total_steps=plan.total_steps, weight=wanted.weight
        ),
    )
    return flat(model, names), flat(model, added)


class TestOneStep:
    @pytest.mark.parametrize(
        ("method", "trains"), [*((method, "all") for method in METHODS), ("dann", "frozen-decoder")]
    )
    def test_two_sites_of_two_domains_make_the_pooled_step(self, method: str, trains: str) -> None:
        """Encoder, decoder, head and discriminator; asked for is 1e-6."""
        plan = one_step_plan(method, trains=trains)
        before, model, discriminator = federated_step(plan, [0, 1])
        expected, told = pooled_step(plan, [0, 1])

        np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(discriminator, told, rtol=0, atol=1e-12)
        assert np.abs(model - before[: len(model)]).max() > 1e-3
        assert np.abs(discriminator - before[len(model) :]).max() > 1e-3

    def test_the_methods_differ_in_the_encoder_alone(self) -> None:
        """So that the equality above is not one of steps in which the adversary does nothing."""
        model, names, _ = start(one_step_plan("dann"))
        encoder = np.concatenate(
            [
                np.full(dict(model.named_parameters())[name].numel(), name.startswith("encoder"))
                for name in names
            ]
        )
        steps = {method: federated_step(one_step_plan(method), [0, 1]) for method in METHODS}
        moved = {method: found[1] - steps["dann-detached"][1] for method, found in steps.items()}

        assert np.abs(moved["dann"][encoder]).max() > 1e-4
        assert np.abs(moved["dann"][~encoder]).max() == 0
        # strength 2 / (1 + exp(-5)) - 1 half-way, and -1 without the reversal
        np.testing.assert_allclose(
            moved["dann"], -0.98661429815 * moved["dann-no-reversal"], rtol=0, atol=1e-11
        )
        for method in METHODS:
            np.testing.assert_array_equal(steps[method][2], steps["dann"][2])

    def test_of_two_sites_of_one_domain_and_one_of_the_other_each_domain_is_heard_alike(self) -> None:
        plan = one_step_plan("dann", sites=3)
        _, _, discriminator = federated_step(plan, [0, 0, 1])
        _, told = pooled_step(plan, [0, 0, 1])

        np.testing.assert_allclose(discriminator, told, rtol=0, atol=1e-12)


def tensors(run: Path, name: str) -> dict[str, Tensor]:
    return load(run / "checkpoints" / f"{name}.safetensors").tensors


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def ends_alike(one: Path, other: Path) -> bool:
    """The model and the discriminator of the last of two rounds."""
    return all(same(tensors(one, name), tensors(other, name)) for name in ("last", "round-0002.server"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def aligned(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aligned run that was never interrupted; tests must not change it."""
    return play(tmp_path_factory.mktemp("aligned") / "run", alignment__method="dann")


class TestRun:
    def test_the_second_round_is_aligned_and_the_first_is_not_yet(
        self, aligned: Path, finished: Path
    ) -> None:
        """At the start the strength is 0, so the encoder goes where it would without a discriminator."""
        gap = [
            max(
                float((tensors(aligned, name)[key] - value).abs().max())
                for key, value in tensors(finished, name).items()
            )
            for name in ("round-0001", "round-0002")
        ]

        assert 100 * gap[0] < gap[1]

    def test_it_says_how_well_the_discriminator_knows_the_sites(self, aligned: Path) -> None:
        summary = json.loads((aligned / "summary.json").read_text())
        losses = [
            account["domain_loss"] for record in summary["rounds"] for account in record["sites"].values()
        ]

        assert summary["status"] == "completed"
        assert len(losses) == 4
        assert all(0.3 < loss < 1.2 for loss in losses)  # ln 2 = 0.69 for one that knows nothing

    def test_the_discriminator_stays_with_the_hub(self, aligned: Path) -> None:
        files = [path for path in aligned.rglob("*.safetensors") if "sites" not in path.parts]
        kept = list((aligned / "sites").glob("*/models/*.safetensors"))
        holding = {p.name for p in files if any("discriminator" in name for name in load(p).tensors)}

        assert holding == {"round-0001.server.safetensors", "round-0002.server.safetensors"}
        assert len(kept) == 4  # the first model and the kept one, of two sites
        assert not [p for p in kept if any("discriminator" in name for name in load(p).tensors)]

    def test_it_learns_and_its_moments_stay_at_the_sites(self, aligned: Path) -> None:
        first, second = (tensors(aligned, f"round-000{number}.server") for number in (1, 2))
        state = load(next((aligned / "sites" / "ssa" / "state").rglob("*.safetensors"))).tensors

        assert (
            first.keys()
            == second.keys()
            == {f"discriminator.layers.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
        )
        assert not any(torch.equal(first[name], second[name]) for name in first)
        assert "discriminator.layers.0.weight/exp_avg" in state

    def test_stopped_in_the_middle_it_goes_on_as_if_nothing_was(
        self, play: Play, aligned: Path, tmp_path: Path
    ) -> None:
        def interrupt(event: Event) -> None:
            if event["event"] == "site answered" and event.get("round") == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "run", listen=interrupt, alignment__method="dann")
        play(tmp_path / "run", alignment__method="dann")

        assert ends_alike(tmp_path / "run", aligned)

    def test_two_workers_change_nothing(self, play: Play, aligned: Path, tmp_path: Path) -> None:
        play(tmp_path / "run", workers=2, alignment__method="dann")

        assert ends_alike(tmp_path / "run", aligned)

    @pytest.mark.parametrize(
        "changes",
        [
            {"alignment__method": "dann-no-reversal", "aggregation__codec": "int8"},
            {"alignment__domains": "site", "adaptation__trains": "frozen-decoder"},
        ],
        ids=["no reversal and int8", "by site, decoder frozen"],
    )
    def test_variants_run(self, play: Play, tmp_path: Path, changes: dict[str, object]) -> None:
        run = play(tmp_path / "run", **{"alignment__method": "dann", **changes, "adaptation__adapt_steps": 0})

        assert json.loads((run / "summary.json").read_text())["status"] == "completed"
        assert all(torch.isfinite(tensor).all() for tensor in tensors(run, "last").values())


class TestRefusals:
    def refusal(self, tmp_path: Path, error: type[InputError], **changes: Any) -> str:  # noqa: ANN401
        plan = changes.pop("plan", tiny_plan(alignment__method="dann"))
        with pytest.raises(error) as caught:
            check(Federation(plan, tmp_path / "run", **changes))
        assert caught.value.exit_status == 2
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    def test_phantoms_of_one_field_strength(self, tmp_path: Path) -> None:
        sites = {"a": {"phantom": "adult-a", "cases": 2}, "b": {"phantom": "adult-b", "cases": 2}}
        words = self.refusal(tmp_path, InputError, plan=tiny_plan(alignment__method="dann", sites=sites))

        assert words.startswith(
            "alignment 'dann' needs two domains or more, and by field strength there is 3 T (a, b)"
        )

    def test_folders_of_one_field_strength(self, tmp_path: Path, tiny_cohorts: dict[str, Path]) -> None:
        folders = {"adult-a": tiny_cohorts["adult-a"], "ssa": tiny_cohorts["adult-a"]}

        assert "there is 3 T (adult-a, ssa)" in self.refusal(tmp_path, InputError, folders=folders)
        check(Federation(tiny_plan(), tmp_path / "run", folders=folders))

    def test_a_degraded_site_is_a_domain_of_its_own(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        folders = {"adult-a": tiny_cohorts["adult-a"], "ssa": tiny_cohorts["adult-a"]}
        plan = tiny_plan(alignment__method="dann")

        check(Federation(plan, tmp_path / "run", folders=folders, degrade={"ssa": "ssa-1.5T"}))

    def test_a_folder_that_does_not_declare_its_field_strength(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        sites = {name: {"phantom": None} for name in ("a", "b", "c")}
        data = tiny_plan(alignment__method="dann").as_dict() | {"sites": {name: {} for name in sites}}
        silent = tmp_path / "silent"
        shutil.copytree(tiny_cohorts["ssa"], silent)
        (silent / "cohort.toml").write_text("phantom = true\n")
        folders = {"a": tiny_cohorts["adult-a"], "b": tiny_cohorts["ssa"], "c": silent}
        words = self.refusal(tmp_path, SiteError, plan=parse(data, origin="test"), folders=folders)

        assert words.startswith("site 'c': its cohort.toml declares no field_strength_t")
        assert words.endswith("declare it, or set alignment.domains to 'site'")


@pytest.mark.slow
@needs_proc
def test_killed_at_several_moments_it_ends_with_the_same_tensors(tmp_path: Path) -> None:
    """The command itself, on phantoms that it makes, killed with all its processes."""
    plan = tmp_path / "tiny.toml"
    sites = {"adult-a": {"phantom": "adult-a", "cases": 3}, "ssa": {"phantom": "ssa", "cases": 2}}
    plan.write_text(tiny_plan(alignment__method="dann", sites=sites).as_toml())

    def started(run: Path) -> subprocess.Popen[bytes]:
        words = ["simulate", str(plan), "--out", str(run), "--resume"]
        return subprocess.Popen(
            [sys.executable, "-c", "from common.cli import main; main()", *words],
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill_once(run: Path, sign: str) -> None:
        process, end = started(run), time.monotonic() + 120
        while not (list(run.glob(sign)) or process.poll() is not None) and time.monotonic() < end:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert left_of_group(process.pid) == []

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert started(straight).wait() == 0
    for sign in (
        "domains.json",
        "spool/*",
        "rounds/round-0001.json",
        "checkpoints/round-0001.*",
        "releases/*",
    ):
        kill_once(killed, sign)
    assert started(killed).wait() == 0

    assert ends_alike(killed, straight)


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_flowers_own_engine_ends_with_the_same_tensors(
    tmp_path: Path, tiny_cohorts: dict[str, Path], aligned: Path
) -> None:
    plan = tiny_plan(alignment__method="dann")
    federation = Federation(plan, tmp_path / "run", folders=tiny_cohorts, engine="flower")
    check(federation)
    simulate(federation, resume=False, listen=lambda event: None)

    assert ends_alike(federation.run_folder, aligned)


def test_the_card_of_a_release_says_that_domains_were_aligned(aligned: Path) -> None:
    (card,) = aligned.glob("releases/*/model-card.md")
    assert "Domains were aligned: dann by field-strength." in card.read_text()
