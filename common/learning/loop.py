"""The one training loop: pretraining, centralised baselines and sites all call `train`.

What a step does depends on the model, the batch that `draw` gives for that step and the optimiser state,
and on nothing else: a run split at any step and continued equals the unsplit run, bit for bit, on the
same machine type with the same number of threads and the same precision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from common.errors import InputError, RunError
from common.learning.losses import Loss, find_loss
from common.models.domain import is_discriminators

if TYPE_CHECKING:
    from common.data.sampling import Batch
    from common.models.unet import UNet

Draw = Callable[[int], "Batch"]
Penalty = Callable[[], Tensor]
Term = Callable[[Sequence[Tensor], "Batch", int], Tensor]
"""Encoder features (finest first), batch and step -> what is added to the loss; see `alignment`."""
Precision = Literal["fp32", "bf16"]
POWER = 0.75
"""Exponent of the source paper's learning-rate decay."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        loss: a key of `common.learning.losses.LOSSES`.
        optimiser: adam, adamw or sgd (with momentum 0.9).
        learning_rate: at the end of the warm-up.
        weight_decay: 0 or more.
        schedule: `polynomial` (1 - step/total)^0.75, or `constant`.
        warmup_steps: the learning rate rises linearly over so many first steps.
        clip_norm: longest gradient allowed, None for no limit.
        precision: fp32, bf16, or auto (bf16 where the processor computes in it). It changes the result.
    """

    loss: str = "cross-entropy-dice"
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "polynomial"
    warmup_steps: int = 0
    clip_norm: float | None = 1.0
    precision: str = "auto"


@dataclass(frozen=True)
class Trained:
    """What a call of `train` did.

    Attributes:
        losses: one for each step, penalty and alignment included.
        optimiser_state: `<parameter>/<slot>` -> tensor; give it back to go on where this call stopped.
        seconds: spent in steps, drawing included.
        precision: what `auto` came to.
    """

    losses: list[float]
    optimiser_state: dict[str, Tensor]
    seconds: float
    precision: Precision


def train(
    model: nn.Module,
    draw: Draw,
    settings: Settings,
    *,
    total_steps: int,
    names: Sequence[str],
    first_step: int = 0,
    steps: int | None = None,
    optimiser_state: Mapping[str, Tensor] | None = None,
    penalty: Penalty | None = None,
    alignment: Term | None = None,
    loss: Loss | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train `names` of `model` in place, on the device where it is.

    Args:
        model: gives logits at the resolution of its input; with `alignment` it is a `UNet`.
        draw: step -> batch of image (B, C, ...) and label (B, ...); the same step gives the same batch.
        settings: how to train.
        total_steps: length of the learning-rate schedule.
        names: parameters that train; the others are left as they are.
        first_step: where in the schedule this call begins.
        steps: how many steps to make; None: up to `total_steps`.
        optimiser_state: of the call before, None for a fresh one.
        penalty: added to the loss of each step, see `proximal`.
        alignment: added to it too, computed in float32 whatever `precision` says; see
            `common.learning.alignment`.
        loss: in the place of `settings.loss`, for a task whose labels are no codes.
        on_step: called after each step with its index and loss.

    Raises:
        RunError: code `diverged`: the loss is not finite. The model is then as the last good step left it.
        InputError: a setting or a name that does not exist.
    """
    device = next(model.parameters()).device
    precision = resolve_precision(settings.precision, device)
    optimiser = build_optimiser(model, settings, names)
    sigmoid = getattr(model, "activation", "") == "sigmoid"
    loss = loss or find_loss(settings.loss, "sigmoid" if sigmoid else "softmax")
    load_state(optimiser, names, optimiser_state or {})
    last_step = total_steps if steps is None else first_step + steps
    losses: list[float] = []
    model.train()
    started = time.perf_counter()
    for step in range(first_step, last_step):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, step, total_steps=total_steps)
        batch = _moved(draw(step), device)
        value = _objective(model, batch, step, loss=loss, alignment=alignment, precision=precision)
        if penalty is not None:
            value = value + penalty()
        losses.append(_step(value, optimiser, step=step, clip_norm=settings.clip_norm))
        if on_step is not None:
            on_step(step, losses[-1])
    seconds = time.perf_counter() - started
    return Trained(losses, dump_state(optimiser, names), seconds, precision)


def learning_rate(settings: Settings, step: int, *, total_steps: int) -> float:
    """Learning rate of `step` (from 0): warm-up times decay; past the end it stays at the last step's."""
    warmth = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "constant":
        return settings.learning_rate * warmth
    if settings.schedule != "polynomial":
        raise InputError(f"there is no schedule '{settings.schedule}'; choose polynomial or constant")
    done = min(step, total_steps - 1) / total_steps
    return float(settings.learning_rate * warmth * (1.0 - done) ** POWER)


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """The arithmetic that `wanted` (auto, fp32, bf16) stands for on `device`."""
    if wanted == "fp32":
        return "fp32"
    if wanted == "bf16":
        return "bf16"
    if wanted != "auto":
        raise InputError(f"there is no precision '{wanted}'; choose auto, fp32 or bf16")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if device.type == "cpu" and fast else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a forward pass runs in `precision`; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def proximal(model: nn.Module, names: Sequence[str], *, mu: float) -> Penalty:
    """FedProx (Li et al., MLSys 2020): mu/2 times the squared distance of `names` to their values now.

    A discriminator among the names is left out: it is no part of the model that is held together.
    """
    chosen = {name for name in names if not is_discriminators(name)}
    pairs = [(p, p.detach().clone()) for name, p in model.named_parameters() if name in chosen]

    def penalty() -> Tensor:
        return mu / 2 * torch.stack([(now - start).square().sum() for now, start in pairs]).sum()

    return penalty


def build_optimiser(model: nn.Module, settings: Settings, names: Sequence[str]) -> torch.optim.Optimizer:
    """An optimiser over `names`, in their order; InputError for an unknown optimiser or parameter."""
    parameters = dict(model.named_parameters())
    unknown = [name for name in names if name not in parameters]
    if unknown:
        raise InputError(f"the network has no parameter '{unknown[0]}': the names are of another preset")
    chosen = [parameters[name] for name in names]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(chosen, lr=rate, weight_decay=decay)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(chosen, lr=rate, weight_decay=decay)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(chosen, lr=rate, weight_decay=decay, momentum=0.9)
    raise InputError(f"there is no optimiser '{settings.optimiser}'; choose adam, adamw or sgd")


def dump_state(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter>/<slot>` -> tensor on the CPU."""
    parameters = optimiser.param_groups[0]["params"]
    return {
        f"{name}/{slot}": value.detach().cpu().clone()
        for name, parameter in zip(names, parameters, strict=True)
        for slot, value in optimiser.state[parameter].items()
        if isinstance(value, Tensor)
    }


def load_state(optimiser: torch.optim.Optimizer, names: Sequence[str], state: Mapping[str, Tensor]) -> None:
    """Give `optimiser` the state that `dump_state` made; parameters that it does not mention start afresh."""
    for name, parameter in zip(names, optimiser.param_groups[0]["params"], strict=True):
        slots = {key.rpartition("/")[2]: value for key, value in state.items() if key.startswith(f"{name}/")}
        for slot, value in slots.items():
            # Adam counts steps in a CPU tensor, whatever the device of its moments.
            target = value.clone() if slot == "step" else value.clone().to(parameter.device)
            optimiser.state[parameter][slot] = target


def _objective(
    model: nn.Module, batch: Batch, step: int, *, loss: Loss, alignment: Term | None, precision: Precision
) -> Tensor:
    if alignment is None:
        with autocast(batch.image.device, precision):
            logits = model(batch.image)
        return loss(logits, batch.label)
    network = cast("UNet", model)
    with autocast(batch.image.device, precision):
        features = network.encode(batch.image)
        logits = network.decode(features, batch.image)
    return loss(logits, batch.label) + alignment(features, batch, step)


def _moved(batch: Batch, device: torch.device) -> Batch:
    domain = None if batch.domain is None else batch.domain.to(device)
    return replace(batch, image=batch.image.to(device), label=batch.label.to(device), domain=domain)


def _step(value: Tensor, optimiser: torch.optim.Optimizer, *, step: int, clip_norm: float | None) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise RunError(
            f"the loss became {number} at step {step}: lower the learning rate, or train with precision fp32",
            code="diverged",
        )
    optimiser.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], clip_norm)
    optimiser.step()
    return number
