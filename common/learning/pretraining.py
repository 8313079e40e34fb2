"""The first global model: a network trained on phantom cases alone.

`tissue` is healthy anatomy, whose encoder and decoder an adaptation to another task inherits; `glioma` is a
first glioma model that has seen no patient. Cases stream by (see `phantoms`), so memory does not grow with
the number of steps. An unfinished run leaves a draft beside the model file and goes on from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint import Checkpoint, load, save
from common.data.cases import MODALITIES, STRUCTURES
from common.data.sampling import Batch, draw_batch
from common.data.transforms import PreparedCase
from common.errors import CheckpointError, InputError
from common.learning.augmentation import Augmentation, augment
from common.learning.finetuning import trainable_names
from common.learning.loop import Settings, resolve_precision, train
from common.learning.phantoms import Pool, Stream, open_pool
from common.models.network import build_for
from common.models.unet import UNet, classes_for
from common.seeds import derive, generator

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How a task is pretrained.

    Attributes:
        steps: where nobody says otherwise.
        patch: edge in voxels.
        batch_size: patches a step.
        tumour_share: of patches centred on a structure.
        spacing_mm: at which the model is best used; inside the stream's range.
        average: weights kept are a running mean over about 1 / (1 - average) steps.
    """

    steps: int
    stream: Stream
    settings: Settings
    augmentation: Augmentation
    spacing_mm: float
    patch: int = 48
    batch_size: int = 2
    tumour_share: float = 0.4
    average: float = 0.998


_SETTINGS = Settings(optimiser="adamw", learning_rate=6e-3, weight_decay=1e-2, warmup_steps=50)

RECIPES: Mapping[str, Recipe] = {
    "tissue": Recipe(
        steps=1500,
        stream=Stream(healthy=True, spacing_mm=(2.0, 3.2)),
        settings=_SETTINGS,
        augmentation=Augmentation(missing=0.1),
        spacing_mm=3.0,
        tumour_share=0.0,
    ),
    "glioma": Recipe(
        steps=8000,
        stream=Stream(spacing_mm=(2.0, 3.2)),
        settings=_SETTINGS,
        augmentation=Augmentation(gain=0.2, shift=0.2, gamma=0.3, noise=0.2, coarse=0.2, missing=0.08),
        spacing_mm=2.5,
    ),
}
"""Task -> recipe."""


def pretrain(
    *,
    task: str,
    out: Path,
    preset: str = "nano",
    steps: int | None = None,
    seed: int = 1,
    threads: int = 1,
    checkpoint_every: int = 500,
    workers: int = 1,
    say: Say = lambda line: None,
) -> Path:
    """Train a model for `task` on phantoms and write it to `out` in half precision.

    Args:
        task: a key of `RECIPES`.
        out: the model file; the draft of an unfinished run lies beside it.
        preset: the network.
        steps: None for the recipe's own number.
        seed: fixes weights, cases and patches.
        threads: of this process; part of what fixes the result.
        checkpoint_every: steps between drafts.
        workers: processes that make cases, without influence on the result; 0 makes them in this one, where
            NumPy's own threads may change the last bits.
        say: told what is going on, a line at a time.

    Raises:
        InputError: an unknown task or preset.
        CheckpointError: the draft beside `out` is of a run with other settings.
        RunError: training diverged, or a file cannot be written.
    """
    recipe = find_recipe(task)
    recipe = replace(recipe, steps=steps or recipe.steps)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = _facts(recipe, task=task, preset=preset, seed=seed, threads=threads, device=device)
    model = build_for(preset, task, seed=derive(seed, "weights"))
    model.to(device)
    draft = out.with_name(f"{out.stem}.unfinished.safetensors")
    state = _resume(draft, model, facts, say=say)
    with _threads(threads), open_pool(recipe.stream, seed=derive(seed, task), workers=workers) as pool:
        while state.step < recipe.steps:
            state = _advance(model, pool, recipe, state, seed=seed, steps=checkpoint_every, say=say)
            save(draft, _packed(model, state), {**facts, "step": state.step, "seconds": state.seconds})
    _finish(out, draft, state, facts)
    say(f"{out.name}: {recipe.steps} steps in {state.seconds:.0f} s")
    return out


def find_recipe(task: str) -> Recipe:
    """The recipe of `task`; InputError, naming the table, where there is none."""
    if task not in RECIPES:
        raise InputError(f"there is no pretraining task '{task}'; choose one of {', '.join(RECIPES)}")
    return RECIPES[task]


@dataclass(frozen=True)
class _State:
    """A run between two drafts: what is kept beside the model's weights."""

    step: int
    seconds: float
    average: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]


def _advance(
    model: UNet, pool: Pool, recipe: Recipe, state: _State, *, seed: int, steps: int, say: Say
) -> _State:
    names = trainable_names(model, "all", new_head=True)
    average = {name: value.clone() for name, value in state.average.items()}
    began = time.perf_counter()

    def on_step(step: int, loss: float) -> None:
        _move(average, model, share=max(1 - recipe.average, 1 / (step + 2)))
        if (step + 1) % 100 == 0:
            pace = (time.perf_counter() - began) / (step + 1 - state.step)
            left = pace * (recipe.steps - step - 1)
            say(f"step {step + 1} of {recipe.steps}, loss {loss:.3f}, about {left:.0f} s left")

    trained = train(
        model,
        lambda step: _draw(pool(step), recipe, seed=seed, step=step),
        recipe.settings,
        total_steps=recipe.steps,
        names=names,
        first_step=state.step,
        steps=min(steps, recipe.steps - state.step),
        optimiser_state=state.optimiser,
        on_step=on_step,
    )
    done = state.step + len(trained.losses)
    return _State(done, state.seconds + trained.seconds, average, trained.optimiser_state)


def _draw(cases: Sequence[PreparedCase], recipe: Recipe, *, seed: int, step: int) -> Batch:
    rng = generator(seed, "batch", step)
    batch = draw_batch(
        cases,
        patch=(recipe.patch,) * 3,
        size=recipe.batch_size,
        rng=rng,
        tumour_share=recipe.tumour_share,
    )
    return augment(batch, recipe.augmentation, rng)


def _finish(out: Path, draft: Path, state: _State, facts: Mapping[str, object]) -> None:
    save(out, state.average, {**facts, "seconds": round(state.seconds, 1)}, storage="float16")
    draft.unlink(missing_ok=True)


def _move(average: dict[str, Tensor], model: UNet, *, share: float) -> None:
    """Move `average` towards the model's weights by `share` of the way."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            average[name].lerp_(value, share)


def _facts(
    recipe: Recipe, *, task: str, preset: str, seed: int, threads: int, device: torch.device
) -> dict[str, object]:
    return {
        "format": 1,
        "task": task,
        "preset": preset,
        "in_channels": len(MODALITIES),
        "modalities": list(MODALITIES),
        "classes": classes_for(preset, STRUCTURES[task]),
        "structures": list(STRUCTURES[task]),
        "spacing_mm": recipe.spacing_mm,
        "steps": recipe.steps,
        "seed": seed,
        "threads": threads,
        "device": device.type,
        "precision": resolve_precision(recipe.settings.precision, device),
        "trained_on": "phantoms alone, no patient",
        "recipe": _plain(asdict(recipe)),
    }


def _plain(value: object) -> object:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _packed(model: UNet, state: _State) -> dict[str, Tensor]:
    groups = {"model": model.state_dict(), "average": state.average, "optimiser": state.optimiser}
    return {f"{group}:{name}": value for group, values in groups.items() for name, value in values.items()}


def _resume(draft: Path, model: UNet, facts: Mapping[str, object], *, say: Say) -> _State:
    if not draft.exists():
        return _State(0, 0.0, {name: value.clone() for name, value in model.state_dict().items()}, {})
    checkpoint = load(draft)
    differing = [key for key, value in facts.items() if checkpoint.provenance.get(key) != value]
    if differing:
        raise CheckpointError(
            f"{draft.name}: an unfinished run with another {differing[0]}; delete it, or repeat its settings"
        )
    model.load_state_dict(_group(checkpoint, "model"))
    device = next(model.parameters()).device
    average = {name: value.to(device) for name, value in _group(checkpoint, "average").items()}
    step, seconds = int(checkpoint.provenance["step"]), float(checkpoint.provenance["seconds"])
    say(f"going on at step {step} of {facts['steps']}")
    return _State(step, seconds, average, _group(checkpoint, "optimiser"))


def _group(checkpoint: Checkpoint, group: str) -> dict[str, Tensor]:
    prefix = f"{group}:"
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
