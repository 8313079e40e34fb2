"""A deployed site in a folder, the messages that a hub would send it, and an app that leaves a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import tomli_w
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import chain, guard
from client.approval import approve
from client.site import Site, open_site
from common import wire
from common.codec import CODECS
from common.instruction import Instruction
from common.plan import Plan, parse
from common.wire import Layout
from simulation.grid import HUB_NODE, RUN_ID, assume_identity

NODE = HUB_NODE + 1
RUN = "ab" * 16
START = "cd" * 32
TINY = {"w": torch.ones(3)}
KINDS = (wire.HELLO, wire.RECEIVE, wire.ROUND, wire.EVALUATE, wire.ADAPT, wire.ALONE)

Bundle = tuple[bytes, str]
Reply = Callable[[Message, Context], Message]


def plan_of(**changes: object) -> Plan:
    data: dict[str, Any] = {
        "schema": 1,
        "name": "guarded",
        "task": {"spacing_mm": 4.0},
        "model": {"start": "scratch"},
        "adaptation": {"local_steps": 2, "adapt_steps": 3, "patch": 16},
        "rounds": {"count": 3, "quorum": 2, "deadline_s": 60.0},
        "sites": {"ssa": {}, "adult-a": {}, "adult-b": {}},
    }
    return parse(data, origin="guarded").override({key.replace("__", "."): v for key, v in changes.items()})


@dataclass(frozen=True)
class Hospital:
    """A site folder, and the plan that it approved."""

    folder: Path
    plan: Plan

    @property
    def site(self) -> Site:
        return open_site(self.folder)

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    @property
    def words(self) -> Instruction:
        return Instruction(RUN, self.plan.as_toml(), 0, START, new_head=True)

    def message(
        self,
        kind: str = wire.ROUND,
        *,
        content: RecordDict | None = None,
        ttl: float = 60.0,
        **words: object,
    ) -> Message:
        """A message of the hub; `words` change its instruction."""
        told = replace(self.words, **{"round_number": int(kind == wire.ROUND), **cast(Any, words)})
        assume_identity(HUB_NODE)
        message = Message(content or content_of(kind, told), NODE, kind, ttl=ttl)
        message.metadata.__dict__["_message_id"] = "question"
        assume_identity(NODE)
        return message

    def ask(
        self, message: Message, app: ClientApp | None = None, *, bundle: Bundle | None = None
    ) -> RecordDict:
        """What comes back through the guard."""
        config = {"site-dir": "/somewhere/else"}
        context = Context(RUN_ID, NODE, cast(Any, config), RecordDict(), cast(Any, {}))
        reply = guard.answer(self.folder, message, context, app or tracing_app(), bundle=bundle)
        assert reply.metadata.reply_to_message_id == "question"
        return reply.content

    def code(
        self, message: Message, app: ClientApp | None = None, *, bundle: Bundle | None = None
    ) -> str | None:
        return wire.read_refusal(self.ask(message, app, bundle=bundle))

    def audit(self) -> list[dict[str, Any]]:
        return [line for line in chain.read(self.folder / "audit.jsonl") if line["event"] == "refused"]

    def egress(self) -> list[dict[str, Any]]:
        return list(chain.read(self.folder / "egress.jsonl"))


def hospital(
    folder: Path, *, data: Path | None = None, plan: Plan | None = None, **policy: object
) -> Hospital:
    """A site that is called ssa, allows what `policy` says, and approved the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    words: Mapping[str, Any] = {
        "name": "ssa",
        "data": str(data or folder),
        "withdrawn": [],
        "hub": {"address": "hub.example.org:443", "runtime_port": 20001},
        "policy": policy,
    }
    (folder / "site.toml").write_text(tomli_w.dumps(words))
    wanted = plan or plan_of()
    approve(open_site(folder), wanted)
    return Hospital(folder, wanted)


def content_of(kind: str, words: Instruction) -> RecordDict:
    content = RecordDict({wire.INSTRUCTION: words.record()})
    return content if kind == wire.HELLO else RecordDict({**content, **weights_of(words.round_number)})


def weights_of(round_number: int, *, weight: int = 0, values: float = 1.0) -> RecordDict:
    layout = Layout.of(TINY)
    packed, _ = CODECS["fp32"].encode(np.full(layout.size, values, dtype=np.float32))
    return wire.pack_weights(packed, layout, round_number=round_number, weight=weight)


def tracing_app(reply: Reply | None = None) -> ClientApp:
    """An app that writes a file where it runs; it answers with an update, or as `reply` does."""

    def run(message: Message, context: Context) -> Message:
        (Path(str(context.node_config["site-dir"])) / "canary").write_text("ran")
        return reply(message, context) if reply else replied(message)

    return app_of(run)


def app_of(run: Reply) -> ClientApp:
    app = ClientApp()
    for kind in KINDS:
        category, action = kind.split(".")
        getattr(app, category)(action)(run)
    return app


def replied(message: Message, **metrics: object) -> Message:
    """An update, or metrics alone, as the message asks."""
    training = message.metadata.message_type == wire.ROUND
    content = weights_of(1, weight=2, values=2.0) if training else RecordDict()
    content[wire.METRICS] = wire.pack_metrics({"loss": 0.5, **metrics} if training else metrics)
    content[wire.TIMES] = wire.pack_metrics({"busy_s": 0.1})
    return Message(content, reply_to=message)
