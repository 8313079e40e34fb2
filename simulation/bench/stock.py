"""Flower's own FedAvg with idle sites, as its documentation would have them deployed: for comparison."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

PYPROJECT = """\
[project]
name = "stock"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedglia"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "simulation.bench.stock:server_app"
clientapp = "simulation.bench.stock:client_app"

[tool.flwr.app.config]
times = ""
rounds = 4
sites = 3
parameters = 2000000
"""

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Answer at once with other numbers than came."""
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    moved = {name: value + 1e-3 for name, value in arrays.to_torch_state_dict().items()}
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 10})})
    return Message(content, reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when each round was merged."""

    ended: list[float]

    def aggregate_train(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def] # noqa: ANN201
        """Merge as FedAvg does."""
        merged = super().aggregate_train(*args, **kwargs)  # type: ignore[arg-type]
        self.ended.append(time.time())
        return merged


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write when each ended."""
    config = context.run_config
    sites = int(config["sites"])
    size = int(config["parameters"]) // 6
    arrays = ArrayRecord({f"layer{number}": torch.zeros(size) for number in range(6)})
    strategy = Timed(
        fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=sites, min_train_nodes=sites
    )
    strategy.ended = []
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]))
    Path(str(config["times"])).write_text(json.dumps(strategy.ended))
