"""Sites that answer at once without training, and sites that misbehave in every way that a test names.

Lies beside the tests and not in one of them: worker processes import it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common import instruction, wire
from common.codec import CODECS
from common.plan import Plan, parse
from common.seeds import generator
from common.wire import Layout
from simulation.grid import HUB_NODE, LocalGrid

PATIENTS = {"adult-a": 7, "adult-b": 4, "ssa": 2}
FIELD_STRENGTHS_T = {"adult-a": 3.0, "adult-b": 3.0, "ssa": 1.5}
SITES = tuple(PATIENTS)
LAYOUT = Layout.of({"encoder.weight": torch.zeros(6, 5), "head.bias": torch.zeros(3)})
DICE = 0.5


def plan_of(**changes: object) -> Plan:
    """A plan for the three stub sites; `changes` are dotted keys with `__` for the dot."""
    data: dict[str, Any] = {
        "schema": 1,
        "name": "stub",
        "model": {"start": "scratch"},
        "rounds": {"count": 2, "quorum": 2, "deadline_s": 30.0},
        "sites": {name: {} for name in SITES},
    }
    return parse(data, origin="stub").override({key.replace("__", "."): v for key, v in changes.items()})


def delta_of(site: str, round_number: int, size: int) -> np.ndarray:
    """The update that an honest stub site sends."""
    draw = generator(7, site, round_number).normal(0, 1e-2, size)
    return np.asarray(draw, dtype=np.float32)


@dataclass(frozen=True)
class StubSites:
    """Gives the app of sites that answer at once; `behaviours` names those that do otherwise.

    Attributes:
        behaviours: site -> a row of `BEHAVIOURS`.
        rounds: the rounds in which they misbehave; empty: in all.
        kinds: the message kinds at which they misbehave.
    """

    behaviours: Mapping[str, str] = field(default_factory=dict)
    rounds: tuple[int, ...] = ()
    kinds: tuple[str, ...] = (wire.ROUND,)

    def __call__(self) -> ClientApp:
        app = ClientApp()
        for kind, answer in _HONEST.items():
            category, action = kind.split(".")
            getattr(app, category)(action)(self._handler(kind, answer))
        return app

    def _handler(self, kind: str, answer: _Answer) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            site = str(context.node_config["name"])
            content = answer(site, message.content)
            content[wire.TIMES] = wire.pack_metrics({"busy_s": 0.0})
            if self._misbehaves(site, kind, message.content):
                BEHAVIOURS[self.behaviours[site]](content)
            return Message(content, reply_to=message)

        return handle

    def _misbehaves(self, site: str, kind: str, content: RecordDict) -> bool:
        number = instruction.read(content).round_number
        return site in self.behaviours and kind in self.kinds and (not self.rounds or number in self.rounds)


def node_configs(sites: tuple[str, ...] = SITES) -> dict[int, dict[str, str]]:
    return {HUB_NODE + 1 + number: {"name": name} for number, name in enumerate(sites)}


def stub_grid(sites: StubSites | None = None, *, workers: int = 0) -> LocalGrid:
    return LocalGrid(node_configs(), sites or StubSites(), workers=workers)


def _hello(site: str, content: RecordDict) -> RecordDict:
    counts = {"train": PATIENTS[site], "val": 1, "test": 1}
    facts = {
        "site": site,
        "patients": counts,
        "cases": counts,
        "knows_start": False,
        "field_strength_t": FIELD_STRENGTHS_T[site],
    }
    return RecordDict({wire.METRICS: wire.pack_metrics(facts)})


def _receive(site: str, content: RecordDict) -> RecordDict:
    return RecordDict({wire.METRICS: wire.pack_metrics({})})


def _round(site: str, content: RecordDict) -> RecordDict:
    words, layout = instruction.read(content), layout_in(content)
    wire.read_weights(content, layout)
    packed, _ = CODECS["fp32"].encode(delta_of(site, words.round_number, layout.size))
    reply = wire.pack_weights(packed, layout, round_number=words.round_number, weight=PATIENTS[site])
    reply[wire.METRICS] = wire.pack_metrics({"loss": 1.0, "train_s": 0.0, "validation_dice": DICE})
    return reply


def _judged(site: str, content: RecordDict) -> RecordDict:
    numbers = {"scores": {"dice": {"mean": DICE}}, "validation": DICE}
    return RecordDict({wire.METRICS: wire.pack_metrics(numbers)})


def _adapted(site: str, content: RecordDict) -> RecordDict:
    numbers = {
        "scores": {"dice": {"mean": DICE}},
        "validation": {"federated": DICE, "adapted": DICE},
        "kept": "adapted",
        "train_s": 0.0,
    }
    return RecordDict({wire.METRICS: wire.pack_metrics(numbers)})


def layout_in(content: RecordDict) -> Layout:
    """The layout that a message's own table describes; only a stub believes it."""
    table = content.config_records[wire.TABLE]
    columns: tuple[Any, ...] = (table["names"], table["shapes"], table["dtypes"])
    return Layout(
        tuple(
            (name, tuple(int(edge) for edge in shape.split("x")), dtype)
            for name, shape, dtype in zip(*columns, strict=True)
        )
    )


_Answer = Callable[[str, RecordDict], RecordDict]
_HONEST: Mapping[str, _Answer] = {
    wire.HELLO: _hello,
    wire.RECEIVE: _receive,
    wire.ROUND: _round,
    wire.EVALUATE: _judged,
    wire.ADAPT: _adapted,
    wire.ALONE: _adapted,
}


def _set_value(value: float) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        array = content.array_records[wire.WEIGHTS]["flat"]
        flat = np.frombuffer(array.data, dtype="<f4").copy()
        flat[3] = value
        array.data = flat.tobytes()

    return change


def _set_table(key: str, change: Callable[[Any], Any]) -> Callable[[RecordDict], None]:
    def apply(content: RecordDict) -> None:
        table = content.config_records[wire.TABLE]
        table[key] = change(table[key])

    return apply


def _refuse(content: RecordDict) -> None:
    content.clear()
    content[wire.REFUSAL] = wire.pack_refusal("plan", correlation="abc123")[wire.REFUSAL]


def _raise(content: RecordDict) -> None:
    raise ValueError("MRN-CANARY /secret/path")


def _lie(content: RecordDict) -> None:
    huge = {"loss": 1e308, "train_s": 1e308, "validation_dice": 1e308}
    content[wire.METRICS] = wire.pack_metrics(huge)
    content[wire.TIMES] = wire.pack_metrics({"busy_s": 1e308})


def _set_field_strength(value: object) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        facts = {**wire.read_metrics(content), "field_strength_t": value}
        content[wire.METRICS] = wire.pack_metrics(facts)

    return change


def _talk_nonsense(content: RecordDict) -> None:
    content[wire.METRICS] = ConfigRecord({"schema": 1, "json": "[1, NaN"})


BEHAVIOURS: Mapping[str, Callable[[RecordDict], None]] = {
    "sends NaN": _set_value(math.nan),
    "sends Inf": _set_value(math.inf),
    "wrong shape": _set_table("shapes", lambda shapes: [*shapes[:-1], "99"]),
    "missing name": _set_table("names", lambda names: names[:-1]),
    "weight 1e9": _set_table("weight", lambda weight: 10**9),
    "old round": _set_table("round", lambda number: number - 1),
    "refuses": _refuse,
    "raises": _raise,
    "sends nothing": RecordDict.clear,
    "talks nonsense": _talk_nonsense,
    "lies about numbers": _lie,
    "declares no field strength": _set_field_strength(None),
    "declares 1.5 T": _set_field_strength(1.5),
    "declares 3 T": _set_field_strength(3.0),
    "declares 7 T": _set_field_strength(7),
    "is slow": lambda content: time.sleep(1.0),
    "never answers": lambda content: time.sleep(3600),
    "dies": lambda content: os._exit(9),
}
