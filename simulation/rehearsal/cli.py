"""`python -m simulation.rehearsal.cli`: what `make federation` and `make chaos` run."""

from __future__ import annotations

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

    found = main(out.absolute(), tell=click.echo)
    click.echo(f"equal to the simulation, bit for bit: {'yes' if found['equal_to_simulate'] else 'NO'}")
    click.echo(f"report: {found['report']}\n{out / 'federation.json'} after {found['seconds']} s")
    if not found["equal_to_simulate"]:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    rehearsal()
