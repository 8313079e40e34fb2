"""The coordinator's commands about the hub itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path)


def _at_hub(command: Callable[..., None]) -> Callable[..., None]:
    text = "The hub's folder; else $FEDGLIA_HUB, else the working directory."
    return click.option("--hub", "folder", type=FOLDER, metavar="DIR", help=text)(command)


@click.group()
def hub() -> None:
    """Set up and run the hub: keys, edge, admissions.

    \b
    First:  fedglia hub init DIR --address HOST:PORT
            fedglia hub start --hub DIR
            fedglia hub admit JOIN_FILE --hub DIR
    Exit status: 0 done; 1 the hub is not well, or something failed that can be tried again;
    2 something given cannot be used, and nothing was changed.
    """  # noqa: D301 - click reads the character \b, not a backslash


@hub.command("init")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--address",
    metavar="HOST:PORT",
    default="localhost:8443",
    show_default=True,
    help="How sites will dial this hub; the edge listens on this port.",
)
def hub_init(folder: Path, address: str) -> None:
    """Make a hub in DIR: authority, certificates, secret, configuration."""
    from common.certificates import fingerprint
    from server.hub.making import make_hub

    made = make_hub(folder, address=address)
    click.echo(f"made the hub {made.folder} for {made.address}")
    if made.listen not in ("0.0.0.0", "[::]"):
        click.echo("this address reaches this machine only; for others make it with --address HOST:PORT")
    click.echo("authority, for sites to compare when they join (SHA-256):")
    click.echo(f"  {fingerprint((made.pki / 'ca.crt').read_bytes())}")
    click.echo(f"next: fedglia hub start --hub {quote(str(folder))}")


@hub.command("start")
@_at_hub
@click.option("--foreground", is_flag=True, help="Stay until SIGTERM or Ctrl-C, for systemd and containers.")
def hub_start(folder: Path | None, foreground: bool) -> None:
    """Start the hub; returns when sites can connect.

    Exit status: 0 it runs; 1 it runs already, or a process does not stay; 2 something must be mended first.
    """
    from common.terminal import say
    from server.hub import admissions, running
    from server.hub.folder import find_hub
    from server.hub.standing import left_off

    found = find_hub(folder)
    if foreground:
        _say(running.prepare(found))
        running.run_in_foreground(found)
        return
    _say(running.start(found, say=say))
    here = quote(str(found.folder))
    names = admissions.names(found)
    click.echo(f"the hub answers at {found.address}; admitted: {', '.join(names) or 'nobody yet'}")
    if not names:
        click.echo(f"next: ask each site for its join file, then: fedglia hub admit FILE --hub {here}")
        return
    left = left_off(found)
    then = f"fedglia rounds resume {left}, or another: " if left else ""
    click.echo(f"next: fedglia hub status --hub {here}, then: {then}fedglia rounds start PLAN")


@hub.command("stop")
@_at_hub
def hub_stop(folder: Path | None) -> None:
    """Stop the hub. Sites wait for it and connect again; a run under way is resumed with `fedglia rounds`.

    Exit status: 0 it is stopped; 1 it did not end in time.
    """
    from server.hub import running
    from server.hub.folder import find_hub
    from server.hub.standing import runs

    found = find_hub(folder)
    under_way = [run["name"] for run in runs(found) if run["status"] == "running"]
    if not running.stop(found):
        click.echo("the hub was not running")
        return
    click.echo("stopped; sites wait, and connect again when it is started")
    for name in under_way:
        click.echo(f"run {name} was under way; after the start: fedglia rounds resume {name}")


@hub.command("status")
@_at_hub
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def hub_status(folder: Path | None, as_json: bool) -> None:
    """Show processes, address, certificates, disk, sites and runs.

    Exit status: 0 sites can connect, and the last run was not interrupted; 1 the first lines say what is
    wrong; 2 no usable hub folder.
    """
    from server.hub.folder import find_hub
    from server.hub.standing import standing

    found = standing(find_hub(folder))
    click.echo(json.dumps(found, indent=1)) if as_json else _show(found)
    sys.exit(0 if found["well"] else 1)


@hub.command("admit")
@click.argument("file", metavar="JOIN_FILE", type=FILE)
@_at_hub
@click.option("--yes", is_flag=True, help="Do not ask.")
def hub_admit(file: Path, folder: Path | None, yes: bool) -> None:
    """Let a site in, by the join file that it sent. Doing it again changes nothing.

    Compare the key that is shown with the one that the site reads out. On a terminal it is asked whether
    they are the same. Exit status: 0 the site is admitted; 1 you said no, or Flower or the disk refused;
    2 the file, the name or the key cannot be used.
    """
    from common.certificates import key_fingerprint
    from common.terminal import says_yes
    from server.hub import admissions
    from server.hub.folder import find_hub

    found = find_hub(folder)
    join = admissions.read_join_file(file)
    click.echo(f"site {join.site}, key {key_fingerprint(join.public_key)}")
    for line in admissions.version_differences(join):
        click.echo(f"warning: {line}; the site's doctor says whether they fit: fedglia site check", err=True)
    if not yes and sys.stdin.isatty() and not says_yes("is this the key that the site reads out?"):
        click.echo("not admitted; nothing was changed")
        sys.exit(1)
    done = admissions.admit(found, join)
    number = admissions.load(found)[join.site].node_id
    when = "from now on" if number is not None else "as soon as the hub is started"
    click.echo(f"{join.site} was admitted already" if done == "known" else f"{join.site} is admitted {when}")


@hub.command("revoke")
@click.argument("name")
@_at_hub
def hub_revoke(name: str, folder: Path | None) -> None:
    """Refuse site NAME from now on; its key is never let in again, a new key may be admitted.

    Exit status: 0 it is refused; 1 Flower or the disk refused; 2 no such site.
    """
    from server.hub import admissions
    from server.hub.folder import find_hub

    done = admissions.revoke(find_hub(folder), name)
    click.echo(
        f"{name} was revoked already" if done == "known" else f"{name} is revoked: its next call is refused"
    )


@hub.command("renew")
@_at_hub
def hub_renew(folder: Path | None) -> None:
    """Make a new key and certificate for the edge, for the address in hub.toml. No site notices.

    Exit status: 0 it is in use, or will be at the next start; 2 the authority cannot be used.
    """
    from common.certificates import expiry
    from server.hub import edge, making
    from server.hub.folder import find_hub

    found = find_hub(folder)
    making.issue_edge(found.pki, found.host)
    used = edge.reload(found.folder / "edge")
    until = f"{expiry(found.pki / 'edge.crt'):%Y-%m-%d}"
    when = "in use" if used else "used from the next start on"
    click.echo(f"a new certificate for {found.host}, {when}; it holds until {until}")


@hub.command("backup")
@click.argument("file", metavar="FILE", type=FILE)
@_at_hub
@click.option(
    "--with-runs", is_flag=True, help="Also checkpoints, with which an unfinished run can be resumed."
)
def hub_backup(file: Path, folder: Path | None, with_runs: bool) -> None:
    """Write keys, admissions and what the runs gave to FILE (tar.gz); the hub may run meanwhile.

    Whoever holds FILE can be the hub: keep it where you keep keys. Exit status: 0 it was written and read
    back; 1 the disk is full or fails; 2 FILE exists.
    """
    from server.hub.backup import back_up
    from server.hub.folder import find_hub

    count = back_up(find_hub(folder), file, with_runs=with_runs)
    click.echo(f"{file}: {count} files, {file.stat().st_size / 1e6:.1f} MB, read back and the same")


@hub.command("restore")
@click.argument("file", metavar="FILE", type=FILE)
@click.argument("folder", metavar="DIR", type=FOLDER)
def hub_restore(file: Path, folder: Path) -> None:
    """Make the hub of a backup FILE again, in the new folder DIR. Admitted sites come back by themselves.

    Admissions are those of the backup: a site that was revoked after it is let in again. Look at who is
    admitted, and revoke again before the start.

    Exit status: 0 it was restored whole; 1 the disk is full; 2 DIR is not empty, or FILE is no sound backup.
    """
    from server.hub import admissions
    from server.hub.backup import restore

    made = restore(file, folder)
    names = admissions.names(made)
    click.echo(f"restored to {made.folder}; sites dial {made.address}, which must lead to this machine")
    click.echo(f"admitted, as when the backup was made: {', '.join(names) or 'nobody'}")
    if names:
        click.echo(
            "  a site that was revoked after that is let in again; before the start, "
            f"fedglia hub revoke NAME --hub {quote(str(folder))}"
        )
    click.echo(f"next: fedglia hub start --hub {quote(str(folder))}")


def _say(warnings: Sequence[str]) -> None:
    for line in warnings:
        click.echo(f"note: {line}", err=True)


def _show(found: dict[str, Any]) -> None:
    for line in found["problems"]:
        click.echo(f"PROBLEM  {line}")
    for line in found["warnings"]:
        click.echo(f"warning  {line}")
    click.echo(f"address      {found['address']}")
    click.echo(f"authority    {found['authority']['fingerprint']}")
    click.echo(
        f"             holds until {found['authority']['expires'][:10]}, the edge's certificate until "
        f"{found['certificate']['expires'][:10]}"
    )
    services = (
        f"{name} {'runs' if each['pid'] else 'DOWN'}"
        + (f" ({each['restarts']} restarts)" if each["restarts"] else "")
        for name, each in found["services"].items()
    )
    click.echo(f"processes    {', '.join(services) or 'none'}")
    click.echo(f"disk         {found['disk']['free_bytes'] / 1e9:.1f} GB free")
    for name, site in found["sites"].items():
        click.echo(f"site         {name}: {site['state']}, key {site['key']}")
    for run in found["runs"]:
        click.echo(f"run          {run['name']}: {run['status']}, {run['rounds']} round(s) closed")
