"""What a round costs between real processes: hub, edge and three sites on this machine, nobody trains.

Beside it the same rounds in one process, and stock Flower's with the same number of parameters.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import tomli_w

from common import plan as plans
from common.errors import RunError
from common.files import read_lines
from common.flower import QUIET
from simulation.bench.idle_site import TIMES_FILE, layout_of
from simulation.bench.rounds import PARAMETERS, idle_rounds
from simulation.bench.stock import PYPROJECT
from simulation.rehearsal.federation import ENDED
from simulation.rehearsal.machines import HubMachine, SiteMachine, free_port, wait_for

ROUNDS = 12
STOCK_ROUNDS = 4
SITES = ("a", "b", "c")
MODELS = (("nano", "all"), ("base", "frozen-encoder"))
"""Preset and what trains: the two on either side of the two million parameters that are asked for."""

PARTS = (
    ("hub packs, sends; site polls, fetches, starts its work", "opened", "came"),
    ("site reads, packs", "came", "went"),
    ("site records, sends; hub polls, fetches, gates", "went", "answered"),
    ("hub folds, writes the checkpoint", "answered", "closed"),
)


def plan_of(preset: str, trains: str) -> dict[str, Any]:
    """The rounds that are timed."""
    return {
        "name": "idle",
        "model": {"preset": preset, "start": "scratch"},
        "adaptation": {"trains": trains, "patch": 32},
        "rounds": {"count": ROUNDS, "quorum": len(SITES), "deadline_s": 60.0},
        "sites": {name: {} for name in SITES},
    }


def deployed_rounds(content: dict[str, Any]) -> tuple[list[float], dict[str, float]]:
    """Seconds of each round but the first, and the median seconds of each of its parts.

    Args:
        content: of a plan of `plan_of`.

    Raises:
        RunError: something did not start or end in time.
    """
    if shutil.which("nginx") is None:
        raise RunError("nginx is not installed: install Debian's package nginx-light")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        out = Path(name)
        plan = out / "idle.toml"
        plan.write_text(tomli_w.dumps(content))
        port = free_port()
        hub = HubMachine(out / "hub", port=port)
        hub.fedglia("hub", "init", str(hub.folder), "--address", hub.address)
        stack.callback(hub.do, "hub", "stop", status=None)
        hub.do("hub", "start")
        folders = [stack.enter_context(_idle_site(out, hub, site, plan)) for site in SITES]
        hub.do("rounds", "start", str(plan), "--yes", "--name", "idle-1")
        wait_for(lambda: hub.summary("idle-1").get("status") in ENDED, within_s=240, what="the idle run")
        records = hub.summary("idle-1")["rounds"]
        parts = _parts(hub.events("idle-1"), [list(read_lines(folder / TIMES_FILE)) for folder in folders])
    return [record["wall_s"] for record in records[1:]], parts


@contextmanager
def _idle_site(out: Path, hub: HubMachine, name: str, plan: Path) -> Iterator[Path]:
    """A site whose node is the real one and whose worker is `idle_site`."""
    data = out / f"data-{name}"
    data.mkdir()
    site = SiteMachine(out / name, name=name, data=data)
    site.join(hub, plan)
    node = (
        _command("fedglia"),
        "site",
        "start",
        "--foreground",
        "--only",
        "node",
        "--site",
        str(site.folder),
    )
    worker = (sys.executable, "-m", "simulation.bench.idle_site", str(site.folder), str(plan))
    quiet = {**os.environ, **QUIET}
    with _process(out / f"{name}-node.log", node, quiet), _process(out / f"{name}.log", worker, quiet):
        yield site.folder


def _parts(events: list[dict[str, Any]], sites: list[list[dict[str, Any]]]) -> dict[str, float]:
    """Median over rounds of each part's seconds; each starts when the last site has ended the one before."""
    found: dict[str, list[float]] = {words: [] for words, _, _ in PARTS}
    for number in range(2, ROUNDS + 1):
        of_round = [event for event in events if event.get("round") == number]
        at = {
            "opened": _last(of_round, "round opened"),
            "came": max(line["came"] for times in sites for line in times if line["round"] == number),
            "went": max(line["went"] for times in sites for line in times if line["round"] == number),
            "answered": _last(of_round, "site answered"),
            "closed": _last(of_round, "round closed"),
        }
        for words, start, end in PARTS:
            found[words].append(at[end] - at[start])
    return {words: statistics.median(values) for words, values in found.items()}


def _last(events: list[dict[str, Any]], kind: str) -> float:
    return max(float(event["time"]) for event in events if event["event"] == kind)


def stock_rounds() -> list[float]:
    """Seconds of each round but the first of Flower's FedAvg, deployed as shipped: no TLS, no guard, no edge.

    Raises:
        RunError: it did not end in time.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        out = Path(name)
        port, times = free_port(), out / "times.json"
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(out / "flower"), "PATH": _path()}
        link = ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port))
        stack.enter_context(_process(out / "link.log", link, environment))
        for _ in SITES:
            own = ("--host", "127.0.0.1", "--port", str(free_port()))
            node = ("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", *own)
            stack.enter_context(_process(out / f"node{own[-1]}.log", node, environment))
        (out / "app").mkdir()
        (out / "app" / "pyproject.toml").write_text(PYPROJECT)
        (out / "flower").mkdir(exist_ok=True)
        superlink = {"default": "stock", "stock": {"address": f"127.0.0.1:{port}", "insecure": True}}
        (out / "flower" / "config.toml").write_text(tomli_w.dumps({"superlink": superlink}))
        time.sleep(5)  # Flower's own programs say nowhere that they are ready
        config = f'times="{times}" rounds={STOCK_ROUNDS} sites={len(SITES)} parameters={PARAMETERS}'
        run = ["flwr", "run", str(out / "app"), "stock", "-c", config]
        subprocess.run(run, env=environment, check=True, capture_output=True, timeout=60)
        wait_for(times.is_file, within_s=240, what="stock Flower's run")
        ended = json.loads(times.read_text())
    return [later - earlier for earlier, later in pairwise(ended)]


@contextmanager
def _process(log: Path, command: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _path() -> str:
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def report() -> None:
    """Print a round between processes, what it is made of, and the two figures beside it."""
    medians: dict[int, float] = {}
    for model in MODELS:
        content = plan_of(*model)
        parameters = layout_of(plans.parse(content, origin="the benchmark's plan")).size
        seconds, parts = deployed_rounds(content)
        medians[parameters] = statistics.median(seconds)
        click.echo(
            f"\n{parameters:,} parameters, {len(SITES)} sites, nobody trains; median seconds of a round"
        )
        click.echo(
            f"  deployed: edge, TLS, guard    {medians[parameters]:6.2f}"
            f"  ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} rounds)"
        )
        for words, median_s in parts.items():
            click.echo(f"     {median_s:6.2f}  {words}")
    stock = stock_rounds()
    inside, _ = idle_rounds(len(SITES))
    ours_s = float(np.interp(PARAMETERS, list(medians), list(medians.values())))
    stock_s = statistics.median(stock)
    click.echo(f"\n{PARAMETERS:,} parameters")
    click.echo(f"  deployed, on the line between {ours_s:6.2f}")
    click.echo(f"  in one process                {inside:6.2f}")
    click.echo(f"  stock Flower, no TLS          {stock_s:6.2f}  ({len(stock)} rounds)")
    click.echo(f"  deployed against stock        {ours_s / stock_s:6.2f}")


if __name__ == "__main__":
    report()
