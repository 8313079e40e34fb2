from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data.sampling import Batch
from common.errors import InputError, RunError
from common.learning.finetuning import trainable_names
from common.learning.loop import Settings, Trained, learning_rate, proximal, resolve_precision, train
from common.models.unet import PRESETS, UNet, build_unet


def draw(step: int) -> Batch:
    """A bright ball in noise, at a place that the step decides."""
    generator = torch.Generator().manual_seed(step)
    centre = torch.randint(4, 12, (2, 3), generator=generator)
    axis = torch.arange(16)
    far = sum(
        (axis.reshape([-1 if i == a else 1 for i in range(3)]) - centre[:, a, None, None, None]) ** 2
        for a in range(3)
    )
    label = (torch.as_tensor(far) < 16).long()
    image = label[:, None].float() + 0.3 * torch.randn(2, 1, 16, 16, 16, generator=generator)
    return Batch(image, label)


def fresh() -> UNet:
    return build_unet("nano", in_channels=1, classes=2, seed=1)


def run(model: UNet, settings: Settings, *, total_steps: int = 6, **kwargs: Any) -> Trained:  # noqa: ANN401
    names = kwargs.pop("names", trainable_names(model, "all", new_head=False))
    return train(model, draw, settings, total_steps=total_steps, names=names, **kwargs)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_it_learns_a_ball() -> None:
    trained = run(fresh(), Settings(learning_rate=3e-3), total_steps=30)

    assert len(trained.losses) == 30
    assert trained.losses[-1] < 0.6 * trained.losses[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_a_split_run_equals_the_unsplit_one_bit_for_bit(optimiser: str, precision: str) -> None:
    settings = Settings(optimiser=optimiser, precision=precision, warmup_steps=2, weight_decay=0.01)
    whole, split = fresh(), fresh()
    unsplit = run(whole, settings)
    first = run(split, settings, steps=2)
    second = run(split, settings, first_step=2, optimiser_state=first.optimiser_state)

    assert first.losses + second.losses == unsplit.losses
    assert equal(dict(split.state_dict()), dict(whole.state_dict()))
    assert equal(second.optimiser_state, unsplit.optimiser_state)


@pytest.mark.parametrize("loss", ["paper", "public-code"])
def test_the_published_backbone_trains_with_the_published_losses(loss: str) -> None:
    narrow = replace(PRESETS["ren2024"], widths=(4, 6, 8, 12, 16, 24, 32))
    model = UNet(narrow, in_channels=1, classes=3)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (1, 64, 64, 128), generator=generator)
    batch = Batch(label[:, None].float(), label)
    names = trainable_names(model, "all", new_head=True)
    trained = train(model, lambda step: batch, Settings(loss=loss), total_steps=3, names=names)

    assert trained.losses[2] < trained.losses[0]


def test_only_named_parameters_change() -> None:
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = trainable_names(model, "frozen-decoder", new_head=True)
    run(model, Settings(), steps=2, names=names)

    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(names)


def test_the_polynomial_schedule_by_hand() -> None:
    settings = Settings(learning_rate=1.0, warmup_steps=2)

    # at half of the way (1 - 1/2)^0.75
    assert learning_rate(settings, 0, total_steps=16) == 0.5
    assert learning_rate(settings, 8, total_steps=16) == pytest.approx(0.5**0.75)
    assert learning_rate(settings, 99, total_steps=16) == pytest.approx((1 / 16) ** 0.75)
    assert learning_rate(Settings(learning_rate=2.0, schedule="constant"), 8, total_steps=16) == 2.0


def test_the_proximal_penalty_by_hand() -> None:
    model = torch.nn.Linear(2, 1)
    penalty = proximal(model, ["weight"], mu=3.0)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[1.0, 2.0]]))
        model.bias.add_(7.0)

    assert penalty().item() == pytest.approx(3.0 / 2 * (1 + 4), rel=1e-5)


def test_a_strong_proximal_penalty_holds_the_weights() -> None:
    free, held = fresh(), fresh()
    start = {name: value.clone() for name, value in free.state_dict().items()}
    names = trainable_names(held, "all", new_head=False)
    settings = Settings(optimiser="sgd", learning_rate=1e-2, precision="fp32")
    run(free, settings)
    run(held, settings, penalty=proximal(held, names, mu=10.0))

    def moved(model: UNet) -> float:
        return sum(float((value - start[name]).square().sum()) for name, value in model.state_dict().items())

    assert moved(held) < moved(free)


def test_each_step_is_reported() -> None:
    seen: list[tuple[int, float]] = []
    trained = run(fresh(), Settings(), first_step=3, on_step=lambda step, loss: seen.append((step, loss)))

    assert seen == list(zip([3, 4, 5], trained.losses, strict=True))


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    def broken(step: int) -> Batch:
        batch = draw(step)
        return Batch(batch.image * float("nan"), batch.label)

    model = fresh()
    names = trainable_names(model, "all", new_head=False)
    with pytest.raises(RunError, match="step 0") as caught:
        train(model, broken, Settings(), total_steps=2, names=names)

    assert caught.value.code == "diverged"
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_precision_is_resolved_to_what_is_reported() -> None:
    cpu = torch.device("cpu")

    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
    assert run(fresh(), Settings(precision="bf16"), steps=1).precision == "bf16"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: run(fresh(), Settings(optimiser="lion")), "adam, adamw or sgd"),
        (lambda: run(fresh(), Settings(schedule="cosine")), "polynomial or constant"),
        (lambda: run(fresh(), Settings(precision="fp8")), "auto, fp32 or bf16"),
        (lambda: run(fresh(), Settings(), names=("encoder.nothing",)), "encoder.nothing"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(make: Callable[[], Trained], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
