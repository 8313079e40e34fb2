"""The site's half of the federation: message in, message out.

One function for each kind of message. Whatever goes wrong in one of them, the hub is told a code and an
id; the words stay here, in the site's own log, under that id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import adaptation
from client.adaptation import Bench
from client.keeping import used
from client.refusal import refuse
from client.site import Site, locate
from client.state import SiteState
from common import instruction, wire
from common.checkpoint import load, save
from common.codec import CODECS
from common.errors import RefusedUpdate
from common.instruction import Instruction
from common.learning.alignment import attach
from common.learning.finetuning import trainable_names
from common.models.network import build, build_from
from common.models.unet import UNet

Handler = Callable[[Site, Instruction, RecordDict], RecordDict]

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who is here, with how many cases, and is the starting model already known?"""
    return _answer(message, context, _hello)


@app.query("receive")
def receive(message: Message, context: Context) -> Message:
    """Take the whole first global model; afterwards only what trains travels."""
    return _answer(message, context, _receive)


@app.train("round")
def train_round(message: Message, context: Context) -> Message:
    """Adapt the global model here for one round and send back the difference."""
    return _answer(message, context, _train_round)


@app.evaluate("model")
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global model on this site's test cases."""
    return _answer(message, context, _evaluate)


@app.train("adapt")
def adapt(message: Message, context: Context) -> Message:
    """Fine-tune the finished global model here; keep the better of the two."""
    return _answer(message, context, _adapt)


@app.train("alone")
def train_alone(message: Message, context: Context) -> Message:
    """Train from the start without the others, for comparison."""
    return _answer(message, context, _alone)


def _hello(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    known = _start_file(site, words.start).is_file()
    facts = {**adaptation.describe(site, words.plan), "knows_start": known}
    return RecordDict({wire.METRICS: wire.pack_metrics(facts)})


def _receive(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    layout = wire.Layout.of(build(words.plan, seed=0).state_dict())
    payload = wire.read_weights(content, layout)
    if wire.digest(payload.flat) != words.start:
        raise RefusedUpdate("the starting model is not the one that the hub named", code="start")
    save(_start_file(site, words.start), wire.unflatten(payload.flat, layout), {"kind": "starting model"})
    return RecordDict({wire.METRICS: wire.pack_metrics({"received": words.start})})


def _train_round(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    bench = Bench(site, words.plan)
    model, names, layout, received = _global_model(site, words, content, discriminator=True)
    state = SiteState(site.folder / "state" / words.run)
    kept = state.before(words.round_number)
    residual = kept.pop("residual", None)
    validation = adaptation.validate(bench, model)
    domain_losses: list[float] = []
    trained = adaptation.train_round(
        bench,
        model,
        names=names,
        round_number=words.round_number,
        optimiser_state=kept,
        domain=words.domain,
        on_domain_loss=domain_losses.append,
    )
    difference = wire.flatten(adaptation.current(model, names), layout) - received
    packed, owed = CODECS[words.plan.aggregation.codec].encode(
        difference, None if residual is None else residual.numpy()
    )
    memory = trained.optimiser_state if words.plan.adaptation.optimiser_state == "keep" else {}
    if owed is not None:
        memory = {**memory, "residual": torch.from_numpy(owed)}
    state.keep(words.round_number, memory)
    reply = wire.pack_weights(packed, layout, round_number=words.round_number, weight=bench.weight)
    reply[wire.METRICS] = wire.pack_metrics(
        {
            "loss": float(np.mean(trained.losses)),
            "validation_dice": validation,
            "train_s": trained.seconds,
            "precision": trained.precision,
            **({"domain_loss": float(np.mean(domain_losses))} if domain_losses else {}),
        }
    )
    return reply


def _evaluate(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    model, *_ = _global_model(site, words, content)
    bench = Bench(site, words.plan)
    scores = adaptation.judge(bench, model)
    numbers = {"scores": scores, "validation": adaptation.validate(bench, model)}
    return RecordDict({wire.METRICS: wire.pack_metrics(numbers)})


def _adapt(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    bench = Bench(site, words.plan)
    model, names, *_ = _global_model(site, words, content)
    numbers = adaptation.adapt(bench, model, names=names)
    facts = {
        "kind": "kept model",
        "kept": numbers["kept"],
        "preset": words.plan.model.preset,
        "task": words.plan.task.kind,
        "spacing_mm": words.plan.task.spacing_mm,
        "plan": {"name": words.plan.name, "sha256": words.plan.sha256},
    }
    save(site.folder / "models" / "kept.safetensors", model.state_dict(), facts)
    return RecordDict({wire.METRICS: wire.pack_metrics(numbers)})


def _alone(site: Site, words: Instruction, content: RecordDict) -> RecordDict:
    model, names, *_ = _global_model(site, words, content)
    numbers = adaptation.train_alone(Bench(site, words.plan), model, names=names)
    return RecordDict({wire.METRICS: wire.pack_metrics(numbers)})


def _global_model(
    site: Site, words: Instruction, content: RecordDict, *, discriminator: bool = False
) -> tuple[UNet, tuple[str, ...], wire.Layout, np.ndarray]:
    """The global model that a message speaks of: the known start with the message's weights laid over it.

    With `discriminator`, and where the plan aligns domains, the message brings one beside the model.
    """
    start = _start_file(site, words.start)
    if not start.is_file():
        raise RefusedUpdate("the starting model was never received here", code="no-start")
    used(start)
    model = build_from(words.plan, load(start).tensors)
    names = trainable_names(model, words.plan.adaptation.trains, new_head=words.new_head)
    layout = wire.Layout.of(adaptation.current(model, names))
    if discriminator and words.plan.alignment.method != "none":
        if words.domain is None:
            raise RefusedUpdate("the plan aligns domains, and the hub names none", code="malformed")
        added = attach(model, domains=words.domains, seed=0)
        layout = layout.followed_by(wire.Layout.of(adaptation.current(model, added)))
        names = (*names, *added)
    payload = wire.read_weights(content, layout)
    model.load_state_dict(wire.unflatten(payload.flat, layout), strict=False)
    return model, names, layout, payload.flat


def _start_file(site: Site, digest: str) -> Path:
    return site.folder / "models" / f"start-{digest[:32]}.safetensors"


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Run a handler; on any failure answer with a code and an id, and log the words here under that id."""
    began = time.perf_counter()
    site: Site | None = None
    try:
        site = locate(context.node_config)
        _check_in_time(message)
        words = instruction.read(message.content)
        torch.set_num_threads(words.plan.threads)
        content = handler(site, words, message.content)
    except Exception as error:  # the border: nothing that was raised here may travel
        content = refuse(site.folder if site else None, error).content
    content[wire.TIMES] = wire.pack_metrics({"busy_s": time.perf_counter() - began})
    return Message(content, reply_to=message)


def _check_in_time(message: Message) -> None:
    """Do not begin what the hub no longer waits for: a slow site would be late in every round after."""
    if time.time() > message.metadata.created_at + message.metadata.ttl:
        raise RefusedUpdate("the message came after its deadline; nothing was done", code="expired")
