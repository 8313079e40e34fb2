"""Domain-adversarial training: where its gradients go, and that the discriminator leaves no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from common.data.sampling import Batch
from common.errors import InputError
from common.learning.alignment import (
    STRENGTH,
    WEIGHT,
    attach,
    pooled_term,
    site_term,
    strength_at,
    without_discriminator,
)
from common.learning.finetuning import trainable_names
from common.learning.loop import Settings, Term, proximal, train
from common.models.domain import DISCRIMINATOR, Discriminator, pooled
from common.models.unet import UNet, build_unet

METHODS = tuple(STRENGTH)


def network(*, domains: int = 2) -> tuple[UNet, tuple[str, ...]]:
    """A small network with a discriminator, and the names of all that trains."""
    model = build_unet("nano", in_channels=1, classes=2, seed=1)
    names = trainable_names(model, "all", new_head=True)
    return model, (*names, *attach(model, domains=domains, seed=2))


def batch(domains: Sequence[int] | None = (0, 1), *, size: int = 2, side: int = 16, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 1, side, side, side, generator=draw)
    label = torch.randint(0, 2, (size, side, side, side), generator=draw)
    return Batch(image, label, None if domains is None else torch.tensor(domains))


def discriminator_of(model: UNet) -> Discriminator:
    found = model.get_submodule(DISCRIMINATOR)
    assert isinstance(found, Discriminator)
    return found


def slopes(model: UNet, term: Term, patches: Batch, *, step: int) -> dict[str, Tensor]:
    """The gradient that a term gives each parameter; a parameter without one is left out."""
    model.zero_grad(set_to_none=True)
    term(model.encode(patches.image), patches, step).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_slopes(model: UNet, patches: Batch, target: Tensor) -> dict[str, Tensor]:
    """The same without any reversal, weight 1: what PyTorch alone gives."""
    model.zero_grad(set_to_none=True)
    seen = pooled(model.encode(patches.image))
    functional.cross_entropy(discriminator_of(model)(seen), target).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class TestStrength:
    def test_it_rises_as_published(self) -> None:
        # 2 / (1 + exp(-10 p)) - 1 = tanh(5 p)
        assert strength_at(0.0) == 0.0
        assert strength_at(0.5) == pytest.approx(math.tanh(2.5))
        assert strength_at(1.0) == pytest.approx(0.99990920426)

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_it_never_falls_and_stays_below_one(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assert 0 <= strength_at(low) <= strength_at(high) < 1

    def test_the_other_methods_do_not_depend_on_progress(self) -> None:
        assert {STRENGTH["dann-no-reversal"](p) for p in (0.0, 0.5, 1.0)} == {-1.0}
        assert {STRENGTH["dann-detached"](p) for p in (0.0, 0.5, 1.0)} == {0.0}


class TestAttaching:
    def test_its_parameters_are_named_and_leave_no_trace(self) -> None:
        model, names = network(domains=3)
        plain = build_unet("nano", in_channels=1, classes=2, seed=1)
        added = [name for name in names if name.startswith("discriminator.")]

        assert added == [f"discriminator.layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]
        assert set(names) == set(model.state_dict())
        assert without_discriminator(model.state_dict()).keys() == plain.state_dict().keys()
        assert discriminator_of(model).layers[2].out_features == 3

    def test_the_networks_answer_is_the_same(self) -> None:
        model, _ = network()
        plain = build_unet("nano", in_channels=1, classes=2, seed=1)

        assert torch.equal(model(batch().image), plain(batch().image))

    def test_it_takes_the_networks_type(self) -> None:
        model = build_unet("nano", in_channels=1, classes=2, seed=1).double()
        attach(model, domains=2, seed=1)

        assert {p.dtype for p in model.parameters()} == {torch.float64}


class TestPooled:
    @pytest.mark.parametrize("method", METHODS)
    def test_the_encoder_gets_the_gradient_exactly_minus_lambda_times(self, method: str) -> None:
        model, _ = network()
        model.double()
        patches = replace(batch(), image=batch().image.double())
        assert patches.domain is not None
        term = pooled_term(model, method=method, total_steps=8)
        found, plain = slopes(model, term, patches, step=2), plain_slopes(model, patches, patches.domain)
        strength = STRENGTH[method](2 / 8)

        assert {name.split(".")[0] for name in found} == {"encoder", "discriminator"}
        for name, slope in found.items():
            factor = WEIGHT if name.startswith("discriminator") else -strength * WEIGHT
            torch.testing.assert_close(slope, factor * plain[name], rtol=1e-9, atol=1e-15)

    def test_each_domain_of_a_batch_counts_as_much_as_any_other(self) -> None:
        """Three patches of one domain and one of the other: the mean of the two domains' means."""
        model, _ = network()
        patches = batch((0, 0, 1, 0), size=4)
        features = model.encode(patches.image)
        term = pooled_term(model, method="dann", total_steps=8, weight=1.0)
        logits = discriminator_of(model)(pooled(features))
        each = torch.log_softmax(logits, dim=1).neg()
        expected = (each[[0, 1, 3], 0].mean() + each[2, 1]) / 2

        torch.testing.assert_close(term(features, patches, 0), expected)


class TestSite:
    def term(self, model: UNet, *, method: str = "dann", first_step: int = 0, steps: int = 1) -> Term:
        return site_term(
            model, domain=1, method=method, progress=0.5, first_step=first_step, discriminator_steps=steps
        )

    @pytest.mark.parametrize("method", METHODS)
    def test_in_its_first_step_it_is_the_pooled_term(self, method: str) -> None:
        """The copy that is frozen and the one that learns are then the same; the loss is counted once."""
        model, _ = network()
        patches = batch((1, 1))
        site, together = self.term(model, method=method), pooled_term(model, method=method, total_steps=2)
        features = model.encode(patches.image)
        here, there = slopes(model, site, patches, step=0), slopes(model, together, patches, step=1)

        torch.testing.assert_close(site(features, patches, 0), together(features, patches, 1))
        assert here.keys() == there.keys()
        for name in here:
            torch.testing.assert_close(here[name], there[name], rtol=1e-5, atol=1e-9)

    def test_the_sites_own_discriminator_learns_in_the_first_steps_of_a_round_alone(self) -> None:
        model, _ = network()
        term = self.term(model, first_step=10, steps=2)
        learns = [
            any(name.startswith("discriminator") for name in slopes(model, term, batch(), step=step))
            for step in range(10, 14)
        ]

        assert learns == [True, True, False, False]

    def test_the_encoder_is_taught_by_the_discriminator_as_it_was_received(self) -> None:
        """What the site's own copy has become does not matter."""
        model, _ = network()
        term = self.term(model)
        before = slopes(model, term, batch(), step=5)
        with torch.no_grad():
            for parameter in discriminator_of(model).parameters():
                parameter.mul_(-3.0)
        after = slopes(model, term, batch(), step=5)

        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_the_sites_own_discriminator_does_not_move_the_encoder(self) -> None:
        model, _ = network()
        with_it = slopes(model, self.term(model, method="dann"), batch(), step=0)
        without = slopes(model, self.term(model, method="dann", steps=0), batch(), step=0)

        assert {name for name in with_it if name not in without} == {
            name for name in with_it if name.startswith("discriminator")
        }
        assert all(torch.equal(with_it[name], without[name]) for name in without)

    def test_trained_alone_the_own_copy_says_its_own_domain_whatever_it_sees(
        self,
    ) -> None:
        """Why the encoder is taught by the one that was received."""
        model, names = network()
        added = [name for name in names if name.startswith("discriminator")]
        received = copy.deepcopy(discriminator_of(model))
        term = self.term(model, steps=200)
        settings = Settings(optimiser="adam", learning_rate=1e-2)
        train(
            model,
            lambda step: batch((1, 1), seed=step % 3),
            settings,
            total_steps=40,
            names=added,
            alignment=term,
        )
        with torch.no_grad():
            elsewhere = pooled(model.encode(batch(seed=99, size=8).image))
            own = torch.softmax(discriminator_of(model)(elsewhere), dim=1)[:, 1]
            fair = torch.softmax(received(elsewhere), dim=1)[:, 1]

        assert own.min() > 0.95
        assert fair.max() < 0.95


class TestTraining:
    def test_the_loop_trains_both_and_keeps_the_moments_of_both(self) -> None:
        model, names = network()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        term = pooled_term(model, method="dann", total_steps=3)
        trained = train(model, lambda step: batch(), Settings(), total_steps=3, names=names, alignment=term)

        assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []
        assert {key.rpartition("/")[0] for key in trained.optimiser_state} == set(names)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_split_run_equals_the_unsplit_one_bit_for_bit(self, precision: str) -> None:
        settings = Settings(precision=precision)
        (whole, names), (split, _) = network(), network()

        def term(model: UNet) -> Term:
            return pooled_term(model, method="dann", total_steps=4)

        def draw(step: int) -> Batch:
            return batch(seed=step)

        train(whole, draw, settings, total_steps=4, names=names, alignment=term(whole))
        first = train(split, draw, settings, total_steps=4, steps=2, names=names, alignment=term(split))
        train(
            split,
            draw,
            settings,
            total_steps=4,
            first_step=2,
            names=names,
            optimiser_state=first.optimiser_state,
            alignment=term(split),
        )

        assert all(torch.equal(value, split.state_dict()[name]) for name, value in whole.state_dict().items())

    def test_the_discriminator_computes_in_float32_where_the_network_does_not(self) -> None:
        model, names = network()
        seen: list[torch.dtype] = []

        def spying(features: Sequence[Tensor], patches: Batch, step: int) -> Tensor:
            value = pooled_term(model, method="dann", total_steps=1)(features, patches, step)
            seen.extend([features[-1].dtype, discriminator_of(model)(pooled(features)).dtype, value.dtype])
            return value

        settings = Settings(precision="bf16")
        train(model, lambda step: batch(), settings, total_steps=1, names=names, alignment=spying)

        assert seen == [torch.bfloat16, torch.float32, torch.float32]

    def test_the_proximal_penalty_does_not_hold_the_discriminator(self) -> None:
        model, names = network()
        penalty = proximal(model, names, mu=2.0)
        with torch.no_grad():
            for parameter in discriminator_of(model).parameters():
                parameter.add_(1.0)

        assert penalty().item() == 0.0

    @pytest.mark.parametrize(
        ("method", "sign"), [("dann", 1), ("dann-detached", 0), ("dann-no-reversal", -1)]
    )
    def test_one_small_step_makes_the_domains_harder_or_easier_to_tell_apart(
        self, method: str, sign: int
    ) -> None:
        """The encoder alone moves, on patches that nobody labelled; the discriminator looks again."""
        model, names = network()
        seen = batch(side=32)  # a bottleneck of one voxel is normalised to its signs, which jump
        patches = replace(seen, label=torch.full_like(seen.label, -1))
        assert patches.domain is not None
        encoder = [name for name in names if name.startswith("encoder")]
        term = pooled_term(model, method=method, total_steps=2)

        def confusion() -> float:
            with torch.no_grad():
                logits = discriminator_of(model)(pooled(model.encode(patches.image)))
            assert patches.domain is not None
            return float(functional.cross_entropy(logits, patches.domain))

        before = confusion()
        settings = Settings(optimiser="sgd", learning_rate=1e-3, schedule="constant")
        train(
            model,
            lambda step: patches,
            settings,
            total_steps=2,
            first_step=1,
            names=encoder,
            alignment=term,
        )
        assert (confusion() > before) - (confusion() < before) == sign


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: attach(m, domains=1, seed=0), "needs two domains or more, and there is 1"),
        (
            lambda m: pooled_term(m, method="adda", total_steps=1),
            "no alignment 'adda'; choose one of dann",
        ),
        (lambda m: pooled_term(m, method="none", total_steps=1), "no alignment 'none'"),
        (
            lambda m: site_term(m, domain=0, method="dann", progress=0, first_step=0),
            "has no discriminator: attach one",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(make: Callable[[UNet], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(build_unet("nano", in_channels=1, classes=2, seed=1))


def test_batches_without_domains_are_refused() -> None:
    model, _ = network()
    term = pooled_term(model, method="dann", total_steps=1)
    with pytest.raises(InputError, match="which domain each patch is of"):
        term(model.encode(batch().image), batch(None), 0)
