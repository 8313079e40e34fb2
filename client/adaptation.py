"""What a site does with a model: adapt it to its own scans, judge it on them, keep the better one.

Everything drawn at random hangs on the plan's seed, the site's name and the step's number alone, so a
round that is asked for twice gives the same update twice, on any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from client.site import Site
from common.data.cases import STRUCTURES, Case
from common.data.sampling import Batch, draw_batch
from common.data.splits import Split
from common.data.transforms import PreparedCase
from common.data.volume import write_volume
from common.learning.alignment import site_term
from common.learning.augmentation import Augmentation, augment
from common.learning.evaluation import judge_case
from common.learning.inference import predict
from common.learning.loop import Settings, Trained, proximal, train
from common.metrics import dice
from common.models.unet import UNet
from common.plan import Plan
from common.seeds import generator

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A site at work on a plan: the cases on one side, the settings on the other."""

    site: Site
    plan: Plan

    @cached_property
    def split(self) -> Split:
        """Which patients train, which choose, which judge."""
        return self.site.split(self.plan)

    @cached_property
    def training_cases(self) -> list[PreparedCase]:
        """Prepared cases of the training patients."""
        return self.site.prepared(self.plan, self.split.train)

    @cached_property
    def validation_cases(self) -> list[PreparedCase]:
        """Prepared cases of the patients by whom the site chooses; may be empty."""
        return self.site.prepared(self.plan, self.split.val)

    @property
    def weight(self) -> int:
        """Training patients: the site's weight in the fold."""
        return len({case.patient for case in self.split.train})

    def settings(self) -> Settings:
        """The plan's way of training, in the loop's words."""
        wanted = self.plan.adaptation
        return Settings(
            loss=wanted.loss,
            optimiser=wanted.optimiser,
            learning_rate=wanted.learning_rate,
            schedule=wanted.schedule,
            precision=wanted.precision,
        )

    def draw(self, stream: str, step: int) -> Batch:
        """The batch of one step; `stream` separates the rounds from what comes after them."""
        wanted = self.plan.adaptation
        names = ("batch", self.site.name, stream, step)
        batch = draw_batch(
            self.training_cases,
            patch=wanted.patch_sides,
            size=wanted.batch_size,
            rng=generator(self.plan.seed, *names),
        )
        if not wanted.augment:
            return batch
        return augment(batch, Augmentation(), generator(self.plan.seed, "augment", *names))


def describe(site: Site, plan: Plan) -> Numbers:
    """What a site tells about itself before the first round: counts and facts, no names."""
    split = site.split(plan)
    cohort = site.cohort
    return {
        "site": site.name,
        "field_strength_t": cohort.field_strength_t,
        "phantom": cohort.phantom,
        "degraded": site.degrade,
        "cases": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "patients": {
            "train": len({c.patient for c in split.train}),
            "val": len({c.patient for c in split.val}),
            "test": len({c.patient for c in split.test}),
        },
        "notes": list(split.notes),
    }


def train_round(
    bench: Bench,
    model: UNet,
    *,
    names: Sequence[str],
    round_number: int,
    optimiser_state: Mapping[str, Tensor],
    domain: int | None = None,
    on_domain_loss: Callable[[float], None] | None = None,
) -> Trained:
    """One round's local steps on `names` of `model`, in place.

    Args:
        bench: the site and the plan.
        model: as it was received; with a `domain`, its discriminator included.
        names: what trains; with a `domain`, the discriminator's parameters too.
        round_number: from 1.
        optimiser_state: of the round before.
        domain: number of the site's domain, None where nothing is aligned.
        on_domain_loss: see `common.learning.alignment.site_term`.
    """
    wanted, aligned = bench.plan.adaptation, bench.plan.alignment
    penalty = proximal(model, names, mu=wanted.proximal_mu) if wanted.proximal_mu > 0 else None
    first_step = (round_number - 1) * wanted.local_steps
    alignment = None
    if domain is not None:
        alignment = site_term(
            model,
            domain=domain,
            method=aligned.method,
            progress=(round_number - 1) / bench.plan.rounds.count,
            first_step=first_step,
            discriminator_steps=aligned.discriminator_steps,
            weight=aligned.weight,
            on_loss=on_domain_loss,
        )
    return train(
        model,
        lambda step: bench.draw("rounds", step),
        bench.settings(),
        total_steps=bench.plan.total_steps,
        names=names,
        first_step=first_step,
        steps=wanted.local_steps,
        optimiser_state=optimiser_state,
        penalty=penalty,
        alignment=alignment,
    )


def train_after_rounds(bench: Bench, model: UNet, *, names: Sequence[str]) -> Trained:
    """The site's own fine-tuning of a finished global model, in place, on a schedule of its own."""
    return train(
        model,
        lambda step: bench.draw("adapt", step),
        replace(bench.settings(), learning_rate=bench.plan.adaptation.adapt_learning_rate),
        total_steps=max(bench.plan.adaptation.adapt_steps, 1),
        steps=bench.plan.adaptation.adapt_steps,
        names=names,
    )


def adapt(bench: Bench, model: UNet, *, names: Sequence[str]) -> Numbers:
    """Fine-tune the global model here, and keep whichever of the two the validation cases prefer.

    The scores are the fine-tuned model's; `model` and the predictions on disk are the kept one's.
    """
    before_adapting = {name: value.detach().clone() for name, value in model.state_dict().items()}
    choice = {"federated": validate(bench, model)}
    trained = train_after_rounds(bench, model, names=names)
    choice["adapted"] = validate(bench, model)
    kept = _better(choice, first="federated", second="adapted")
    scores = judge(bench, model, keep_predictions=kept == "adapted")
    if kept == "federated":
        model.load_state_dict(before_adapting)
        judge(bench, model, keep_predictions=True)
    return {"scores": scores, "validation": choice, "kept": kept, "train_s": trained.seconds}


def train_alone(bench: Bench, model: UNet, *, names: Sequence[str]) -> Numbers:
    """From the same start, the same steps and the same choice, without the others."""
    first = train(
        model,
        lambda step: bench.draw("rounds", step),
        bench.settings(),
        total_steps=bench.plan.total_steps,
        names=names,
    )
    after_rounds = {name: value.detach().clone() for name, value in model.state_dict().items()}
    choice = {"after-rounds": validate(bench, model)}
    second = train_after_rounds(bench, model, names=names)
    choice["after-adapting"] = validate(bench, model)
    kept = _better(choice, first="after-rounds", second="after-adapting")
    if kept == "after-rounds":
        model.load_state_dict(after_rounds)
    return {
        "scores": judge(bench, model),
        "validation": choice,
        "kept": kept,
        "train_s": first.seconds + second.seconds,
    }


def validate(bench: Bench, model: UNet) -> float | None:
    """Mean Dice over structures and validation cases, on the working grid; None without such cases."""
    if not bench.validation_cases:
        return None
    codes = range(1, len(STRUCTURES[bench.plan.task.kind]) + 1)
    values = []
    for case in bench.validation_cases:
        assert case.label is not None
        found = predict(model, case, overlap=bench.plan.evaluation.overlap, precision="fp32").argmax(axis=0)
        values += [dice(found == code, case.label == code) for code in codes]
    return float(np.mean(values))


def judge(bench: Bench, model: UNet, *, keep_predictions: bool = False) -> Numbers:
    """Dice and HD95 for each region on the test cases, in each scan's own grid, with the rule for empties.

    Returns:
        `dice` and `hd95_mm`: region -> mean over cases, and `mean` over the structures; `empty`: region ->
        cases where the rule for empty regions gave the value; `cases`: the same, case by case (numbered),
        with `assd_mm`, `masd_mm`, `nsd` and, for glioma, `lesion_dice` and `lesion_hd95_mm`, to six decimals.
        All of them empty where every test patient withdrew.
    """
    if not bench.split.test:
        return {"cases": [], "dice": {}, "hd95_mm": {}, "empty": {}}
    each = [_judge_case(bench, model, case, keep_prediction=keep_predictions) for case in bench.split.test]
    structures = STRUCTURES[bench.plan.task.kind]
    numbers: Numbers = {"cases": each}
    for metric in ("dice", "hd95_mm"):
        means = {
            region: float(np.mean([case[metric][region] for case in each])) for region in each[0][metric]
        }
        numbers[metric] = {**means, "mean": float(np.mean([means[name] for name in structures]))}
    numbers["empty"] = {
        region: sum(case["rule"][region] != "measured" for case in each) for region in each[0]["rule"]
    }
    return numbers


def _judge_case(bench: Bench, model: UNet, case: Case, *, keep_prediction: bool) -> Numbers:
    wanted = bench.plan.evaluation
    judged = judge_case(
        model,
        bench.site.prepared(bench.plan, (case,))[0],
        case=case,
        cohort=bench.site.cohort,
        task=bench.plan.task.kind,
        overlap=wanted.overlap,
        flips=wanted.flips,
    )
    if keep_prediction:
        folder = bench.site.folder / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(folder / f"{case.name}.nii.gz", judged.prediction)
    numbers: Numbers = {
        "dice": {region: score.dice for region, score in judged.regions.items()},
        "hd95_mm": {region: score.hd95_mm for region, score in judged.regions.items()},
        "assd_mm": {region: round(score.assd_mm, 6) for region, score in judged.regions.items()},
        "masd_mm": {region: round(score.masd_mm, 6) for region, score in judged.regions.items()},
        "nsd": {region: round(score.nsd, 6) for region, score in judged.regions.items()},
        "rule": {region: score.rule for region, score in judged.regions.items()},
    }
    if judged.lesions:
        numbers["lesion_dice"] = {name: round(score.dice, 6) for name, score in judged.lesions.items()}
        numbers["lesion_hd95_mm"] = {name: round(score.hd95_mm, 6) for name, score in judged.lesions.items()}
    return numbers


def current(model: UNet, names: Sequence[str]) -> dict[str, Tensor]:
    """The named parameters as they are now, on the CPU."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().clone() for name in names}


def _better(choice: Mapping[str, float | None], *, first: str, second: str) -> str:
    """The second where validation prefers it, else the first (also where nothing can be validated)."""
    one, other = choice[first], choice[second]
    return second if one is not None and other is not None and other > one else first
