"""`python -m simulation.rehearsal.cli`: what `make federation` and `make chaos` run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.group()
def rehearsal() -> None:
    """A federation of real processes on this machine."""


@rehearsal.command()
@click.option("--out", default=Path("runs/federation"), show_default=True, type=FOLDER)
def federation(out: Path) -> None:
    """Start edge, hub and three sites, run a small plan, compare with the simulation, stop everything."""
    from simulation.rehearsal.federation import main

    began = time.monotonic()
    found = main(out.absolute(), tell=lambda line: click.echo(f"{time.monotonic() - began:6.1f} s  {line}"))
    click.echo(f"equal to the simulation, bit for bit: {'yes' if found['equal_to_simulate'] else 'NO'}")
    click.echo(f"report: {found['report']}\n{out / 'federation.json'} after {found['seconds']} s")
    if not found["equal_to_simulate"]:
        raise click.exceptions.Exit(1)


@rehearsal.command()
@click.option("--out", default=Path("runs/chaos"), show_default=True, type=FOLDER)
@click.option("--only", multiple=True, metavar="WORDS", help="Faults whose name holds this; again for more.")
def chaos(out: Path, only: tuple[str, ...]) -> None:
    """Start edge, hub and three sites, inject one fault after the other, stop everything.

    Exit status: 0 all were survived, or could not be had here; 1 one was not.
    """
    from simulation.rehearsal.chaos import main, tally

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left running
    rows = main(out.absolute(), tell=click.echo, only=only)
    click.echo(f"{tally(rows)}\n{out / 'chaos.json'}")
    if any(row["ok"] is False for row in rows):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    rehearsal()
