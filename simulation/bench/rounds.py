"""What the round engine costs beside the training.

No site trains here; what is timed is packing, the trip through the grid, the gate, the spool, the fold
and the checkpoint, for a model of two million parameters. Ratios hold better than seconds on a busy machine.
"""

from __future__ import annotations

import gc
import logging
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from common import instruction, wire
from common.codec import CODECS
from common.instruction import Instruction
from common.plan import Plan, parse
from server.roster import Roster, meet
from server.rounds import GlobalModel, run_round
from server.run import create, opened
from simulation.grid import HUB_NODE, LocalGrid

PARAMETERS = 2_000_000
ROUNDS = 5
PATIENTS = {"train": 10, "val": 2, "test": 3}

LAYOUT = wire.Layout.of({"weights": torch.zeros(PARAMETERS)})


def load_idle_app() -> ClientApp:
    """Sites that answer at once: an update of small random numbers, no training."""
    app = ClientApp()
    update = np.random.default_rng(1).normal(0, 1e-3, PARAMETERS).astype(np.float32)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        facts = {"site": str(context.node_config["name"]), "patients": PATIENTS}
        return Message(RecordDict({wire.METRICS: wire.pack_metrics(facts)}), reply_to=message)

    @app.train("round")
    def train_round(message: Message, context: Context) -> Message:
        words = instruction.read(message.content)
        wire.read_weights(message.content, LAYOUT)
        packed, _ = CODECS["fp32"].encode(update)
        reply = wire.pack_weights(packed, LAYOUT, round_number=words.round_number, weight=PATIENTS["train"])
        reply[wire.METRICS] = wire.pack_metrics({"loss": 0.0})
        reply[wire.TIMES] = wire.pack_metrics({"busy_s": 0.0})
        return Message(reply, reply_to=message)

    return app


def idle_rounds(sites: int) -> tuple[float, float]:
    """Median seconds of a round without training, and growth of the process's peak memory in MiB."""
    names = [f"site-{number:02d}" for number in range(sites)]
    plan = _plan(names)
    gc.collect()
    peak_before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        create(run_folder, plan, resume=False)
        configs = {HUB_NODE + 1 + number: {"name": name} for number, name in enumerate(names)}
        with LocalGrid(configs, load_idle_app) as grid, opened(run_folder) as run:
            words = Instruction(run.identity, plan.as_toml(), 0, "0" * 64, False)
            roster = Roster()
            meet(grid, run, words, roster, deadline_s=30)
            model = GlobalModel({"weights": torch.zeros(PARAMETERS)}, LAYOUT, {})
            for _ in range(ROUNDS):
                model = run_round(grid, run, roster, model, words)
            walls = [record["overhead_s"] for record in run.records()]
    return statistics.median(walls), _peak_mib() - peak_before


def flower_rounds(sites: int) -> float:
    """Median seconds of Flower's own FedAvg over the same in-process grid, all replies held in memory."""
    configs = {HUB_NODE + 1 + number: {"name": str(number)} for number in range(sites)}
    times: list[float] = []
    with LocalGrid(configs, load_flower_app) as grid:
        from flwr.app import ArrayRecord

        arrays = ArrayRecord({"weights": torch.zeros(PARAMETERS)})
        strategy = FedAvg(fraction_train=1.0, min_available_nodes=sites, fraction_evaluate=0.0)
        for number in range(1, ROUNDS + 1):
            began = time.perf_counter()
            messages = strategy.configure_train(number, arrays, cast(Any, _flower_config()), grid)
            merged, _ = strategy.aggregate_train(number, grid.send_and_receive(messages, timeout=60))
            assert merged is not None
            arrays = merged
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def load_flower_app() -> ClientApp:
    """The same idle site in Flower's own words."""
    from flwr.app import ArrayRecord, MetricRecord

    app = ClientApp()
    reply = ArrayRecord({"weights": torch.full((PARAMETERS,), 1e-3)})

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": reply, "metrics": metrics}), reply_to=message)

    return app


def _flower_config() -> object:
    from flwr.app import ConfigRecord

    return ConfigRecord()


def _plan(names: list[str]) -> Plan:
    sites: dict[str, dict[str, object]] = {name: {} for name in names}
    rounds = {"count": ROUNDS, "quorum": len(names), "deadline_s": 60.0}
    return parse({"name": "idle", "sites": sites, "rounds": rounds}, origin="the benchmark's plan")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report() -> None:
    """Print what a round costs beside training, for few and for many sites, beside Flower's own FedAvg."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    click.echo(f"{PARAMETERS:,} parameters, {ROUNDS} rounds, in process, no training; medians")
    click.echo(f"{'sites':>6}{'round':>12}{'peak memory':>16}{'Flower FedAvg':>18}{'ratio':>8}")
    for sites in (2, 50):
        seconds, grown = idle_rounds(sites)
        theirs = flower_rounds(sites)
        click.echo(
            f"{sites:>6}{seconds:>10.3f} s{grown:>+12.0f} MiB{theirs:>16.3f} s{seconds / theirs:>8.2f}"
        )
    click.echo("Flower's figure leaves out what ours includes: gate, spool on disk, checkpoint, events.")
