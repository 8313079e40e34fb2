"""Flower's own simulation engine (Ray): the same two apps, for several GPUs or machines.

The hub runs in a thread there, and each site's message in one of Ray's processes.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from client.app import app as client_app
from common.plan import Plan
from server import app as hub


def run_on_flower(plan: Plan) -> None:
    """Carry a prepared run out; what the hub raises comes out here.

    Ctrl-C stops the hub at its next look for answers; the run can be resumed.
    """
    stopped = threading.Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        with suppress(KeyboardInterrupt):  # this thread's; the one that the user sent is raised below
            hub.main(_until(stopped, grid), context)

    with _quiet(), _told_of_ctrl_c(stopped):
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=len(plan.sites),
            backend_config={"client_resources": _resources(plan)},
        )
    if stopped.is_set():
        raise KeyboardInterrupt


@contextmanager
def _told_of_ctrl_c(stopped: threading.Event) -> Iterator[None]:
    """Set the event at a Ctrl-C, whoever swallows its exception on the way.

    Where it is ignored, as a shell has it for what runs in the background, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        stopped.set()
        before(number, frame)

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _until(stopped: threading.Event, grid: Grid) -> Grid:
    """A grid whose looks for answers end the run once `stopped` is set: a signal reaches no other thread."""
    pull = grid.pull_messages

    def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
        if stopped.is_set():
            raise KeyboardInterrupt
        return pull(message_ids)

    grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]
    return grid


def _resources(plan: Plan) -> dict[str, Any]:
    """What Ray sets aside for each site: without a share of a GPU it would hide all of them."""
    return {"num_cpus": plan.threads, "num_gpus": min(1.0, torch.cuda.device_count() / len(plan.sites))}


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower tells each of its steps; a run has progress of its own."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
