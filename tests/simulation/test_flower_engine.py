"""What Flower's own engine is told in this process; runs in it are in `test_engines`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from simulation import flower_engine


@pytest.fixture(autouse=True)
def _as_in_the_foreground() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopped = threading.Event()
    with flower_engine._told_of_ctrl_c(stopped):
        signal.raise_signal(signal.SIGINT)
    assert not stopped.is_set()


def test_a_ctrl_c_whose_exception_is_swallowed_is_known_all_the_same() -> None:
    stopped, before = threading.Event(), signal.getsignal(signal.SIGINT)
    with flower_engine._told_of_ctrl_c(stopped), suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stopped.is_set()
    assert signal.getsignal(signal.SIGINT) is before
