"""A site's worker that trains nothing: `python -m simulation.bench.idle_site SITE`.

It is the real worker behind the real guard; only the app is another. It notes when each message came and
went, for the table of what a round is made of.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import guard
from client.site import open_site
from client.worker import work
from common import instruction, wire
from common.codec import CODECS
from common.files import append_line
from common.learning.finetuning import trainable_names
from common.models.network import build
from common.plan import Plan
from common.tasks import Task, TaskSource

PATIENTS = {"train": 10, "val": 2, "test": 3}
SCORES = {"scores": {"dice": {"mean": 0.5}, "hd95_mm": {"mean": 5.0}, "cases": []}, "validation": 0.5}
TIMES_FILE = "times.jsonl"


def layout_of(plan: Plan) -> wire.Layout:
    """What travels in a round of a plan without alignment."""
    model = build(plan, seed=0)
    parameters = dict(model.named_parameters())
    names = trainable_names(model, plan.adaptation.trains, new_head=True)
    return wire.Layout.of({name: parameters[name].detach() for name in names})


def idle_app(folder: Path, plan: Plan) -> ClientApp:
    """Answers at once: an update of small random numbers."""
    app = ClientApp()
    layout = layout_of(plan)
    update = np.random.default_rng(1).normal(0, 1e-3, layout.size).astype(np.float32)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        facts = {"site": folder.name, "patients": PATIENTS, "cases": PATIENTS, "knows_start": True}
        return _reply(message, RecordDict({wire.METRICS: wire.pack_metrics(facts)}))

    @app.train("round")
    def train_round(message: Message, context: Context) -> Message:
        came = time.time()
        words = instruction.read(message.content)
        wire.read_weights(message.content, layout)
        packed, _ = CODECS["fp32"].encode(update)
        reply = wire.pack_weights(packed, layout, round_number=words.round_number, weight=PATIENTS["train"])
        reply[wire.METRICS] = wire.pack_metrics({"loss": 0.0})
        append_line(folder / TIMES_FILE, {"round": words.round_number, "came": came, "went": time.time()})
        return _reply(message, reply)

    @app.evaluate("model")
    def evaluate(message: Message, context: Context) -> Message:
        return _reply(message, RecordDict({wire.METRICS: wire.pack_metrics(SCORES)}))

    @app.train("adapt")
    def adapt(message: Message, context: Context) -> Message:
        numbers = {**SCORES, "validation": {}, "kept": "federated", "train_s": 0.0}
        return _reply(message, RecordDict({wire.METRICS: wire.pack_metrics(numbers)}))

    return app


def _reply(message: Message, content: RecordDict) -> Message:
    content[wire.TIMES] = wire.pack_metrics({"busy_s": 0.0})
    return Message(content, reply_to=message)


def main(folder: Path, plan: Plan) -> None:
    """Serve the site in `folder`, idly."""
    app = idle_app(folder, plan)

    def answer(task: Task) -> Message:
        came_with = (task.bundle, task.bundle_hash)
        return guard.answer(folder, task.message, task.context, app, bundle=came_with)

    def refuse(task: Task, code: str) -> Message:
        return _reply(task.message, wire.pack_refusal(code, correlation="0" * 12))

    source = TaskSource(f"127.0.0.1:{open_site(folder).runtime_port}", (folder / "secret").read_bytes())
    work(source, answer, refuse=refuse)


if __name__ == "__main__":
    from common.plan import load

    main(Path(sys.argv[1]).absolute(), load(sys.argv[2]))
