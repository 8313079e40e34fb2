"""The coordinator's commands about releases."""

from __future__ import annotations

import json
from pathlib import Path

import click

from common.errors import InputError

FOLDER = click.Path(path_type=Path)


@click.group()
def release() -> None:
    """List, show and export a run's released models with their lineage."""


@release.command("list")
@click.argument("run", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list for machines.")
def release_list(run: Path, as_json: bool) -> None:
    """Name the releases of RUN, the plan and the rounds behind each."""
    from server.registry import list_releases

    found = list_releases(_known(run))
    if as_json:
        click.echo(json.dumps([each.lineage for each in found], indent=1))
        return
    for each in found:
        plan = each.lineage["plan"]
        click.echo(f"{each.title}  round {each.lineage['round']}, plan {plan['name']} {plan['sha256'][:12]}")
    if not found:
        click.echo("no release yet: a run makes one when it completes")


@release.command("show")
@click.argument("run", type=FOLDER)
@click.argument("title", metavar="NAME-VERSION")
@click.option("--json", "as_json", is_flag=True, help="Print the lineage instead of the card.")
def release_show(run: Path, title: str, as_json: bool) -> None:
    """Print a release's model card, after checking that its files are those that its lineage names."""
    from common.releases import verify
    from server.registry import show

    found = show(_known(run), title)
    verify(found)
    click.echo(json.dumps(found.lineage, indent=1) if as_json else found.card)


@release.command("export")
@click.argument("run", type=FOLDER)
@click.argument("title", metavar="NAME-VERSION")
@click.argument("out", type=FOLDER)
def release_export(run: Path, title: str, out: Path) -> None:
    """Copy a release to OUT and check the copy; a damaged release is refused."""
    from common.releases import copy_release
    from server.registry import show

    click.echo(f"exported to {copy_release(show(_known(run), title), out)}")


def _known(run: Path) -> Path:
    if not (run / "run.json").is_file():
        raise InputError(f"{run.absolute().name}: is no run directory; give the folder named by --out")
    return run
