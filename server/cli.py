"""The coordinator's commands about releases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.errors import InputError

if TYPE_CHECKING:
    from common.releases import Release

FOLDER = click.Path(path_type=Path)


def _of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the option that say which run is meant; the command gets its directory as `run`."""
    text = "The hub whose run RUN names; else $FEDGLIA_HUB, else the working directory."
    option = click.option("--hub", "hub", type=FOLDER, metavar="DIR", help=text)
    return click.argument("run")(option(command))


@click.group()
def release() -> None:
    """List, show and export a run's released models with their lineage.

    RUN is the name of a run at the hub, or the directory that a run wrote (--out of a simulation).
    """


@release.command("list")
@_of_a_run
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list for machines.")
def release_list(run: str, hub: Path | None, as_json: bool) -> None:
    """Name the releases of RUN, a run's name or directory, with the plan and the rounds behind each."""
    from server.registry import list_releases

    found = list_releases(_directory(run, hub))
    if as_json:
        click.echo(json.dumps([each.lineage for each in found], indent=1))
        return
    for each in found:
        plan = each.lineage["plan"]
        click.echo(f"{each.title}  round {each.lineage['round']}, plan {plan['name']} {plan['sha256'][:12]}")
    if not found:
        click.echo("no release yet: a run makes one when it completes")


@release.command("show")
@_of_a_run
@click.argument("title", metavar="NAME-VERSION")
@click.option("--json", "as_json", is_flag=True, help="Print the lineage instead of the card.")
def release_show(run: str, hub: Path | None, title: str, as_json: bool) -> None:
    """Print a release's model card and the SHA-256 of its model, after checking both files by its lineage."""
    from common.releases import verify
    from server.registry import show

    found = show(_directory(run, hub), title)
    verify(found)
    if as_json:
        click.echo(json.dumps(found.lineage, indent=1))
        return
    click.echo(found.card)
    click.echo(_digest_line(found))


@release.command("export")
@_of_a_run
@click.argument("title", metavar="NAME-VERSION")
@click.argument("out", type=FOLDER)
def release_export(run: str, hub: Path | None, title: str, out: Path) -> None:
    """Copy a release into the folder OUT, as OUT/NAME-VERSION, and check the copy.

    An OUT that is itself called NAME-VERSION becomes the copy. A damaged release is refused. A site takes the
    copy in with `fedglia site receive OUT/NAME-VERSION`.
    """
    from common.releases import copy_release
    from server.registry import show

    found = show(_directory(run, hub), title)
    out = out.absolute()
    click.echo(f"exported to {copy_release(found, out.parent if out.name == found.title else out)}")
    click.echo(_digest_line(found))


def _digest_line(release: Release) -> str:
    """What hub and site compare by telephone; of a release that was verified."""
    return f"SHA-256 of its model.safetensors: {release.lineage['model']['sha256']}"


def _directory(run: str, hub: Path | None) -> Path:
    """The directory of a run: of that name at the hub, or that folder itself.

    Raises:
        InputError: there is none; a hub names the runs that it has.
    """
    if hub is None and (Path(run) / "run.json").is_file():
        return Path(run)
    from server.desk.reading import folder_of
    from server.hub.folder import HUB_VARIABLE, find_hub

    if hub or os.environ.get(HUB_VARIABLE) or Path("hub.toml").is_file():
        return folder_of(find_hub(hub), run)
    raise InputError(
        f"'{Path(run).name[:60]}' is no run directory, and no hub is named that has a run of that name: give "
        "--hub DIR, set FEDGLIA_HUB=DIR, or give the directory that the run wrote"
    )
