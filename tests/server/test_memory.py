"""The hub's memory and time for a round do not grow with the number of sites: measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PARAMETERS = 2_000_000
MODEL_MIB = PARAMETERS * 4 / 2**20

ROUND = """
import json, sys, tempfile, threading, time
from pathlib import Path
import numpy as np, torch
from common.codec import CODECS
from common.wire import Layout, pack_weights
from server.aggregation import fold
from server.gate import Expectation, Spool, admit, judge

sites, parameters, rule = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
layout = Layout.of({f"layer{i}.weight": torch.zeros(parameters // 50) for i in range(50)})
delta = np.random.default_rng(0).normal(scale=1e-3, size=parameters).astype(np.float32)
message = pack_weights(CODECS["fp32"].encode(delta)[0], layout, round_number=1, weight=5)
expected = Expectation(layout, 1, 10)

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def close_round(spool):
    seconds, began = {}, time.perf_counter()
    def lap(name):
        nonlocal began
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0) + now - began
        began = now
    for site in range(sites):
        update, norm = admit(message, expected, site=f"s{site}", answered=())
        lap("check")
        spool.add(update.site, update.delta, weight=update.weight, norm=norm)
        lap("spool")
    waiting = [spool.open(site) for site in spool.sites()]
    judge({update.site: update.norm for update in waiting})
    merged = fold(rule, waiting, [update.weight for update in waiting])
    lap("fold")
    return seconds, merged

peak = 0.0
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, resident_mib())

with tempfile.TemporaryDirectory() as folder:
    spool = Spool(Path(folder))
    before = resident_mib()
    threading.Thread(target=watch, daemon=True).start()
    _, merged = close_round(spool)
    done.set()
    assert np.allclose(merged, delta)
    spool.clear()
    seconds, _ = close_round(spool)
    print(json.dumps({"grown_mib": peak - before, **seconds}))
"""


def measure(sites: int, rule: str) -> dict[str, float]:
    command = [sys.executable, "-c", ROUND, str(sites), str(PARAMETERS), rule]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(result.stdout)
    return told


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


def test_fifty_sites_take_the_memory_of_two() -> None:
    fifty, two = measure(50, "mean")["grown_mib"], measure(2, "mean")["grown_mib"]

    assert fifty < 3 * MODEL_MIB
    assert fifty < two + MODEL_MIB


def test_robust_folds_take_no_more() -> None:
    assert measure(50, "trimmed-mean")["grown_mib"] < 3 * MODEL_MIB
