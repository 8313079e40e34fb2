"""Worker processes that stay warm and end with the process that started them.

They are forked from a clean process that has imported everything once, so that none inherits a lock, a
thread or an open file of the hub.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

Serve = Callable[[Any], object]
LoadServe = Callable[[], Serve]


@dataclass(frozen=True)
class Worker:
    """A process that answers each object sent into `pipe` with one object."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection

    @property
    def ended(self) -> bool:
        """Of a worker that owes no answer: whether its process is gone."""
        return self.pipe.poll() or not self.process.is_alive()


def context(*modules: str) -> ForkServerContext:
    """How processes are made; `modules` are imported once for all, if no process was made before."""
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload(list(modules))
    return method


def start_worker(load: LoadServe, *, module: str) -> Worker:
    """Start a worker.

    Args:
        load: called once in the worker; what it gives is called with each object that is sent.
        module: what to import before, once for all workers.
    """
    method = context(module)
    mine, theirs = method.Pipe()
    process = method.Process(target=_live, args=(theirs, load), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def end_worker(worker: Worker) -> None:
    """End a worker, whatever it is doing."""
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()
    worker.process.close()


def end_with_parent() -> None:
    """Make this worker process end when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _live(pipe: Connection, load: LoadServe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    serve = load()
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(serve(question))
