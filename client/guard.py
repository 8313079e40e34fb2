"""What may run at this site: the one way from a message of the hub to `client.app`, and back.

A message is looked at before anything of it runs: the bundle that came with it, whether it is an order that
this hospital allows (`client.orders`), what its run has cost so far. What comes back is sifted and recorded
before it leaves. Whatever is wrong, the hub is told a code and an id; the words stay here, and one line in
audit.jsonl says that it was refused.

site.toml is read anew for each message, so an approval, its revocation or a withdrawal holds from the next
message on; so is every line of both records, and while one is not whole nothing runs. `answer` never raises:
a site whose disk is full, or whose site.toml cannot be read, refuses.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import audit, egress, records, refusal, repeats, withdrawal
from client.keeping import sweep_daily
from client.orders import Order, check, read
from client.policy import Policy
from client.site import Site, open_site
from client.spending import Tab, reserve, spent
from common import instruction, wire
from common.errors import FedGliaError, RefusedUpdate
from common.flower import bundle, bundle_sha256
from common.instruction import Instruction

_REFUSED_BEFORE_TRAINING = frozenset(
    {"no-start", "expired", "schema", "malformed", "names", "shape", "dtype", "codec", "size", "data", "site"}
)

log = logging.getLogger(__name__)


def answer(
    site: Site | Path,
    message: Message,
    context: Context,
    app: ClientApp,
    *,
    bundle: tuple[bytes, str] | None = None,
) -> Message:
    """Carry a message out if this hospital allows it; whatever happens, a reply that may leave comes back.

    Args:
        site: the site, or its folder where site.toml may be unreadable.
        message: as Flower delivered it.
        context: given to the app with this site's folder in it, and nothing else of the hub's.
        app: `client.app.app`.
        bundle: content and claimed hash of what came with the run; None only where nothing came.
    """
    folder = site if isinstance(site, Path) else site.folder
    words: Instruction | None = None
    try:
        withdrawal.finish(folder)
        opened = open_site(folder)
        if bundle is not None:
            _check_bundle(*bundle)
        policy = opened.policy or Policy()
        words = read(message)
        order = check(opened, policy, message, words)
        records.check(folder)
        _limit_gpu(policy)
        training = order.kind == wire.ROUND
        tab = reserve(
            order.account,
            policy,
            order.cost,
            plan=order.words.plan.sha256,
            start=order.words.start,
            round_number=order.words.round_number if training else None,
        )
    except Exception as error:
        return refuse(folder, message, error, words=words)
    try:
        return _carry_out(folder, policy, order, message, context, app, tab)
    except Exception as error:
        with suppress(Exception):  # on a full disk the reservation stays, which is more than was used
            tab.settle(steps=order.cost.steps, bytes_up=0)
        return refuse(folder, message, error, by="site", words=words)


def refuse(
    site: Site | Path,
    message: Message,
    error: Exception,
    *,
    by: str = "guard",
    words: Instruction | None = None,
) -> Message:
    """The reply that refuses a message; notes it in audit.jsonl, egress.jsonl and site.log. Never raises.

    Where the disk takes no line the refusal leaves all the same: it holds a code and an id, nothing else.
    Of many equal ones only some are noted, with their number (`client.repeats`).

    Args:
        site: the site, or its folder.
        message: what is refused.
        error: why; its words stay here.
        by: who refuses: `guard` before anything ran, `site` while it ran, `worker` around both.
        words: the message's instruction, if it was read; a plan that was not read is not read now.
    """
    folder = site if isinstance(site, Path) else site.folder
    told = _told(folder, message, words)
    repeat = repeats.count(folder, refusal.pack(error, "0").code, told["run"])
    if not repeat.noted:
        return Message(refusal.pack(error, repeat.correlation).content, reply_to=message)
    refused = refusal.refuse(folder, error, correlation=repeat.correlation)
    told |= {"times": repeat.times} if repeat.times > repeats.EACH else {}
    own = by != "site" and isinstance(error, FedGliaError)
    _note(folder, refused, {**told, "by": by, "words": audit.words(str(error)) if own else "see site.log"})
    _record_refusal(folder, {**told, **egress.describe(refused.content)})
    return Message(refused.content, reply_to=message)


def _check_bundle(content: bytes, claimed_hash: str) -> None:
    if content != bundle() or claimed_hash != bundle_sha256():
        raise RefusedUpdate(
            f"a bundle of {len(content)} bytes, said to be {audit.plain(claimed_hash)}, is not the one of "
            "this version, which holds settings and no code; nothing of it was unpacked. Hub and site may "
            "be of different versions: `fedglia site check`",
            code="bundle",
        )


def _limit_gpu(policy: Policy) -> None:
    """Hide GPUs from this process, or bound what it takes of one.

    Raises:
        RefusedUpdate: code `gpu`: the process had opened a GPU before the policy forbade it.
    """
    if policy.gpu == "forbid":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if torch.cuda.is_available():
            raise RefusedUpdate("gpu is forbidden, and in use: restart the site", code="gpu")
    elif policy.gpu_memory_share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(policy.gpu_memory_share)


def _carry_out(
    folder: Path,
    policy: Policy,
    order: Order,
    message: Message,
    context: Context,
    app: ClientApp,
    tab: Tab,
) -> Message:
    context.node_config = {"site-dir": str(folder)}
    reply = app(message, context)
    withdrawal.finish(folder)
    sweep_daily(folder, policy)
    if not reply.has_content():
        raise FedGliaError("the app answered with an error of Flower's own", code="internal")
    sifted = egress.sift(reply.content, order.kind, frozenset(policy.metrics))
    facts = egress.describe(sifted.content)
    code = wire.read_refusal(sifted.content)
    steps = 0 if code in _REFUSED_BEFORE_TRAINING else order.cost.steps
    tab.settle(steps=steps, bytes_up=facts["bytes"])
    told = _told(folder, message, order.words)
    egress.record(folder, {**told, **facts, "withheld": list(sifted.withheld)})
    if code is not None:
        refused = refusal.Refusal(code, str(facts["id"]), sifted.content)
        _note(folder, refused, {**told, "by": "site", "words": "see site.log"})
    return Message(sifted.content, reply_to=message)


def _told(folder: Path, message: Message, words: Instruction | None) -> dict[str, Any]:
    """What a message says of itself, for the records; None where it cannot be read.

    The plan is parsed by whoever has a deadline for it, never here: its hash is known, or the run's account
    has it, or it stays unknown.
    """
    facts: dict[str, Any] = {"type": audit.plain(message.metadata.message_type)}
    facts |= {"run": None, "round": None, "plan": None}
    with suppress(Exception):
        words = words or instruction.read(message.content)
        facts |= {"run": words.run, "round": words.round_number}
        if "plan" in vars(words):
            facts["plan"] = words.plan.sha256
        elif sums := spent(folder / "state" / words.run):
            facts["plan"] = sums.plan
    return facts


def _note(folder: Path, refused: refusal.Refusal, facts: Mapping[str, object]) -> None:
    line = {"code": refused.code, "id": refused.correlation, **facts}
    try:
        audit.note(folder, "refused", line)
    except Exception as unwritable:
        log.error("%s. It would have said: %s", unwritable, line)


def _record_refusal(folder: Path, facts: Mapping[str, object]) -> None:
    try:
        egress.record(folder, facts)
    except Exception as unwritable:
        log.error("%s. It would have said: %s", unwritable, facts)
