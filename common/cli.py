"""The `fedglia` command. Each room brings its own commands as entry points and loads when one is used.

A room that is not installed on this machine is not listed: a hospital sees no simulation.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import click

from common.errors import FedGliaError, InputError
from common.terminal import printable

GROUP = "fedglia.commands"
AUDIENCES: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (
    (
        "Hospital IT",
        (("site", "run this hospital's site: key, checks, approvals, what left the building"),),
    ),
    (
        "Hospital and coordinator",
        (
            ("data", "look at scans before they are used: what is wrong, in words"),
            ("predict", "segment scans with a model"),
            ("evaluate", "compare a model with expert labels, case by case"),
        ),
    ),
    (
        "Coordinator",
        (
            ("hub", "set up and run the hub: keys, edge, who is admitted"),
            ("rounds", "start, watch, stop and resume the rounds of a plan"),
            ("plan", "check, show and hash what a federation is to do"),
            ("pretrain", "make a first global model from phantoms, without a patient in it"),
            ("release", "list, show and export a run's models with their lineage"),
        ),
    ),
    (
        "Researcher",
        (
            ("demo", "three phantom hospitals, from nothing to the report"),
            ("simulate", "a whole federation on this machine, on phantoms or real folders"),
            ("phantom", "write made-up scans with known truth"),
            ("report", "write the report of a run again"),
            ("study", "the tables of the source papers: approaches, folds, statistics"),
        ),
    ),
)
"""Who uses what; `--help` shows it in this order without loading a room."""

_WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class Rooms(click.Group):
    """Commands found by entry point, loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands whose room is installed."""
        return sorted(_installed())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        entry = _installed().get(cmd_name)
        if entry is None:
            return None
        command = entry.load()
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands under the people who use them."""
        installed = _installed()
        for audience, commands in AUDIENCES:
            rows = [(name, text) for name, text in commands if name in installed]
            if rows:
                with formatter.section(audience):
                    formatter.write_dl(rows)


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("fedglia"), prog_name="fedglia")
def fedglia() -> None:
    """Adapt a brain-MRI segmentation model across hospitals without moving a scan.

    Start with `fedglia demo --out runs/demo`. Every command explains itself with --help.
    """


def main() -> None:
    """Run a command; what was raised on purpose becomes one message and an exit status.

    0 done; 1 a run could not go on and can be resumed; 2 something given cannot be used; 130 interrupted.
    """
    # NumPy's own threads wait for each other where processes fill the cores, ten times longer than they work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        status = fedglia.main(standalone_mode=False)
    except FedGliaError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; a run can go on with --resume", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        click.echo(f"error: {_file_problem(error)}", err=True)
        sys.exit(InputError.exit_status if isinstance(error, _WRONG_PATH) else 1)
    sys.exit(status if isinstance(status, int) else 0)  # click hands back what `Exit` was given


def _file_problem(error: OSError) -> str:
    name = Path(str(error.filename)).name if error.filename else "a file"
    return f"{name}: {error.strerror or error}; check the paths given, their rights and the room on the disk"


def _installed() -> dict[str, EntryPoint]:
    """Entry points whose room is there."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: entry for name, entry in found.items() if _room_exists(entry)}


def _room_exists(entry: EntryPoint) -> bool:
    return importlib.util.find_spec(entry.module.split(".")[0]) is not None
