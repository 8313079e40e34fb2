"""What Flower's own engine is told in this process; runs in it are in `test_engines`."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress

from simulation import flower_engine


def test_a_ctrl_c_whose_exception_is_swallowed_is_known_all_the_same() -> None:
    stopped, before = threading.Event(), signal.getsignal(signal.SIGINT)
    with flower_engine._told_of_ctrl_c(stopped), suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stopped.is_set()
    assert signal.getsignal(signal.SIGINT) is before
