"""The commands of a hospital that runs a site: thin, each calls what does the work.

What is slow to import is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.errors import InputError

if TYPE_CHECKING:
    from client.trust import Trust

FOLDER = click.Path(path_type=Path)
STATES = {"well": "green", "not connected": "yellow", "stopped": "red"}


def at_site(command: click.decorators.FC) -> click.decorators.FC:
    """The option that every command has: which site folder is meant."""
    return click.option(
        "--site",
        "site_option",
        metavar="DIR",
        type=FOLDER,
        help="The site folder; else $FEDGLIA_SITE, else the working directory.",
    )(command)


@click.group()
def site() -> None:
    """Set up and run this hospital's site: key, checks, approvals, what left the building.

    First: init, check, approve, start. Every day: status. When something is wrong: check.
    """


@site.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--hub", required=True, metavar="HOST:PORT", help="The hub's address, as the coordinator says it."
)
@click.option("--name", required=True, help="What plans call this site: lower-case letters, digits and '-'.")
@click.option("--data", required=True, type=FOLDER, help="The folder of scans; it is only ever read.")
@click.option("--hub-ca", type=FOLDER, help="The hub's ca.crt, if the coordinator gave it.")
@click.option("--fingerprint", help="The SHA-256 of the hub's authority: any other is refused.")
@click.option(
    "--policy", "settings", multiple=True, metavar="KEY=VALUE", help='As in site.toml: hours="20:00-06:00".'
)
def init(
    folder: Path,
    hub: str,
    name: str,
    data: Path,
    hub_ca: Path | None,
    fingerprint: str | None,
    settings: tuple[str, ...],
) -> None:
    """Make a site folder in DIR: key, settings, and the file to send to the coordinator.

    The key never leaves. If the hub answers, its authority is believed from now on: compare the fingerprint
    with the coordinator's. Running it again makes what is missing and changes nothing else.

    Ends with status 0; 2 if something given cannot be used; 1 if the folder cannot be written.
    """
    from client.join import init_site
    from client.template import parsed_policy
    from client.trust import UnreachableError, trust

    made = init_site(folder, hub=hub, name=name, data=data, policy=parsed_policy(settings))
    click.echo(
        f"made in {folder}: {', '.join(made)}" if made else f"{folder} is a site already; nothing was changed"
    )
    try:
        click.echo(_trusted(trust(folder, hub, ca=hub_ca, fingerprint=fingerprint)))
    except UnreachableError as error:
        click.echo(f"no contact with the hub yet: {error}. `fedglia site check` tries again.")
    click.echo(
        f"\nNext:\n  1. send {folder / f'join-{name}.json'} to the coordinator (it holds no secret)\n"
        f"  2. read and edit {folder / 'site.toml'}: what this hospital allows\n"
        f"  3. fedglia site check --site {folder}"
    )


@site.command()
@at_site
@click.option("--hub-ca", type=FOLDER, help="The hub's ca.crt, if the coordinator gave it.")
@click.option("--fingerprint", help="The SHA-256 that the coordinator reads from `fedglia hub status`.")
@click.option("--replace", is_flag=True, help="Accept another authority than the pinned one.")
def trust(site_option: Path | None, hub_ca: Path | None, fingerprint: str | None, replace: bool) -> None:
    """Show or set the authority that this site believes; anything else is refused.

    Ends with status 0; 1 if the hub does not answer; 2 if it shows another authority.
    """
    from client.join import connection, find_site
    from client.trust import trust as pin

    folder = find_site(site_option)
    address = connection(folder).address
    click.echo(_trusted(pin(folder, address, ca=hub_ca, fingerprint=fingerprint, replace=replace)))


@site.command()
@at_site
@click.option("--foreground", is_flag=True, help="Stay in front, as under systemd; ends with SIGTERM.")
@click.option(
    "--only", type=click.Choice(["node", "worker"]), help="One process, for a container; with --foreground."
)
def start(site_option: Path | None, foreground: bool, only: str | None) -> None:
    """Start the site: the node, which talks to the hub, and the worker, which opens the scans.

    Both are watched and started again when they end. Old logs and states are swept first.
    Ends with status 0 once both run; 1 if they do not; 2 if site.toml cannot be used.
    """
    from client import services
    from client.join import find_site

    folder = find_site(site_option)
    if only and not foreground:
        raise InputError("--only goes with --foreground: whatever starts one process must also restart it")
    for line in services.prepare(folder):
        click.echo(line)
    sys.stdout.flush()
    if only:
        services.become(only, folder)
    elif foreground:
        services.stay(folder)
    else:
        services.start(folder)
        click.echo("the site runs; `fedglia site status` says whether the hub sees it")


@site.command()
@at_site
def stop(site_option: Path | None) -> None:
    """Stop the site. A message at work is given up; the hub goes on without it, or asks again later.

    Ends with status 0, also when nothing ran.
    """
    from client import services
    from client.join import find_site

    click.echo("stopped" if services.stop(find_site(site_option)) else "nothing ran")


@site.command()
@at_site
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def status(site_option: Path | None, as_json: bool) -> None:
    """Say whether the site runs and the hub sees it, what it works on, and what it refused lately.

    Ends with status 0 if all is well; 1 if it does not run or is not connected; 2 for a wrong folder.
    """
    from client import status as standing
    from client.join import find_site

    found = standing.look(find_site(site_option))
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        click.echo(f"{click.style(found.state, fg=STATES[found.state], bold=True)}")
        for line in standing.lines(found):
            click.echo(line)
    if found.state != "well":
        raise click.exceptions.Exit(1)


def _trusted(found: Trust) -> str:
    advice = (
        ""
        if found.how != "at first contact"
        else (
            "\n  Compare it with the coordinator's (`fedglia hub status`), on the telephone. If it differs, "
            "do not start the site."
        )
    )
    return f"hub's authority {found.how}: SHA-256 {found.fingerprint}{advice}"
