"""A centralised approach in one fold: train on pooled cases, judge on every site's test patients.

Batches take as many patches from source as from target sites where both are trained on, so that aligned
and plain approaches see the same batches. The last model is judged, none is chosen by validation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from client.adaptation import Bench, validate
from client.site import Site
from common.checkpoint import load, save
from common.data.sampling import Batch, draw_batch
from common.data.transforms import PreparedCase
from common.learning.alignment import attach, pooled_term, without_discriminator
from common.learning.augmentation import Augmentation, augment
from common.learning.finetuning import trainable_names
from common.learning.loop import Settings, train
from common.models.network import build_from
from common.models.unet import UNet
from common.plan import Plan
from common.seeds import derive, generator
from server.start import starting_model
from simulation.study.jobs import Outcome, Workplace
from simulation.study.shelf import Shelf
from simulation.study.site_transfer.judging import judge_sites, separability
from simulation.study.site_transfer.settings import Approach, SiteTransfer, job_name, site_of
from simulation.study.spec import Data
from simulation.study.stretches import DRAFT, Progress, train_in_stretches

MODEL = "model.safetensors"


@dataclass(frozen=True)
class _Trial:
    """One approach in one fold."""

    study: SiteTransfer
    data: Data
    name: str
    fold: int
    place: Workplace

    @property
    def approach(self) -> Approach:
        return self.study.approaches[self.name]

    @cached_property
    def plan(self) -> Plan:
        return self.study.plan_for(self.data, fold=max(self.fold, 0))

    @property
    def steps(self) -> int:
        return self.study.steps_of(self.approach.steps)

    @cached_property
    def domains(self) -> list[Sequence[PreparedCase]]:
        """Training cases by role, in the order of `approach.on`: source is domain 0, target 1."""
        return [
            Shelf(
                [(site, case) for site in self.sites(role) for case in site.split(self.plan).train],
                self.plan,
            )
            for role in sorted(self.approach.on)
        ]

    def sites(self, role: str) -> list[Site]:
        return [site_of(self.place.out, source) for source in self.data.role(role)]

    def draw(self, step: int) -> Batch:
        """The batch of one step; it depends on the seed, the fold and the step, not on the approach."""
        wanted = self.plan.adaptation
        stream = ("pooled", self.fold, "+".join(sorted(self.approach.on)), step)
        share = wanted.batch_size // len(self.domains)
        parts = [
            draw_batch(
                cases, patch=wanted.patch_sides, size=share, rng=generator(self.study.seed, *stream, number)
            )
            for number, cases in enumerate(self.domains)
        ]
        batch = Batch(
            torch.cat([part.image for part in parts]),
            torch.cat([part.label for part in parts]),
            torch.arange(len(parts)).repeat_interleave(share),
        )
        return (
            augment(batch, Augmentation(), generator(self.study.seed, *stream, "augment"))
            if wanted.augment
            else batch
        )


def carry_out(place: Workplace, *, study: SiteTransfer, data: Data, name: str, fold: int) -> Outcome:
    """Train, judge, look at the encoder's domains; leaves model.safetensors and pictures.npz.

    Args:
        place: the job's.
        study: what is compared.
        data: on which cohorts.
        name: the approach.
        fold: 0-based; -1 for an approach that trains on no target patient and is judged on all of them.
    """
    trial = _Trial(study, data, name, fold, place)
    began = time.monotonic()
    model, new_head = _first_model(trial)
    names = trainable_names(model, trial.approach.trains, new_head=new_head)
    if trial.approach.alignment != "none":
        seed = derive(study.seed, "discriminator", fold)
        names = (*names, *attach(model, domains=len(trial.domains), seed=seed))
    stretch = -(-trial.steps // study.curve_points)
    progress = _train(trial, model, names, stretch=stretch)
    facts = {"kind": "study model", "approach": name, "fold": fold, **_describe(trial.plan)}
    save(place.folder / MODEL, without_discriminator(model.state_dict()), facts)
    trained_s = time.monotonic() - began
    rows = judge_sites(place, model, study=study, data=data, approach=name, fold=fold)
    outcome = Outcome(
        rows,
        {
            "curve": [
                [min(stretch * (number + 1), trial.steps), value]
                for number, value in enumerate(progress.watched)
            ],
            "loss": progress.loss,
            "separability": separability(place, model, study=study, data=data, fold=fold),
            "steps": trial.steps,
            "seconds": trained_s,
        },
    )
    (place.folder / DRAFT).unlink(missing_ok=True)
    return outcome


def _describe(plan: Plan) -> dict[str, Any]:
    return {"preset": plan.model.preset, "task": plan.task.kind, "spacing_mm": plan.task.spacing_mm}


def _first_model(trial: _Trial) -> tuple[UNet, bool]:
    """The model that the approach starts from, and whether its head is new to the task."""
    if trial.approach.start == "first":
        start = starting_model(trial.plan)
        return build_from(trial.plan, start.tensors), start.new_head
    file = trial.place.of(job_name(trial.approach.start, -1)) / MODEL
    return build_from(trial.plan, load(file).tensors), False


def _train(trial: _Trial, model: UNet, names: Sequence[str], *, stretch: int) -> Progress:
    """All steps; what is watched is validation Dice at the target sites."""
    term = None
    if trial.approach.alignment != "none":
        term = pooled_term(
            model, method=trial.approach.alignment, total_steps=trial.steps, weight=trial.study.weight
        )
    benches = [Bench(site, trial.plan) for site in trial.sites("target")]
    return train_in_stretches(
        trial.place.folder / DRAFT,
        model,
        partial(
            train,
            model,
            trial.draw,
            _settings(trial),
            total_steps=trial.steps,
            names=names,
            alignment=term,
        ),
        lambda: _validation(benches, model),
        steps=trial.steps,
        stretch=stretch,
    )


def _settings(trial: _Trial) -> Settings:
    wanted = trial.plan.adaptation
    further = trial.approach.start != "first"
    return Settings(
        loss=wanted.loss,
        optimiser=wanted.optimiser,
        learning_rate=wanted.adapt_learning_rate if further else wanted.learning_rate,
        schedule=wanted.schedule,
        precision=wanted.precision,
    )


def _validation(benches: Sequence[Bench], model: UNet) -> float | None:
    """Mean over the target sites of their validation Dice; None without validation patients."""
    values = [validate(bench, model) for bench in benches]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
