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
from common.terminal import printable, says_yes

if TYPE_CHECKING:
    from client.trust import Trust

FOLDER = click.Path(path_type=Path)
MARKS = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}
STATES = {"well": "green", "not connected": "yellow", "stopped": "red", "record changed": "red"}


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
    with the coordinator's. Running it again makes what is missing, and key.pub and the join file anew where
    they are not the key's; it changes nothing else.

    Ends with status 0; 2 if something given cannot be used; 1 if the folder cannot be written.
    """
    from client.join import init_site, public_key
    from client.template import parsed_policy
    from client.trust import UnreachableError, check_fingerprint, read_authority, trust
    from common.certificates import fingerprint as fingerprint_of
    from common.certificates import key_fingerprint

    expected = fingerprint
    if fingerprint:
        check_fingerprint(fingerprint)
    if hub_ca:
        expected = fingerprint or fingerprint_of(read_authority(hub_ca))
    made = init_site(
        folder, hub=hub, name=name, data=data, policy=parsed_policy(settings), authority=expected
    )
    click.echo(
        f"made in {folder}: {', '.join(made)}" if made else f"{folder} is a site already; nothing was changed"
    )
    try:
        click.echo(_trusted(trust(folder, hub, ca=hub_ca, fingerprint=fingerprint)))
    except UnreachableError as error:
        click.echo(f"no contact with the hub yet: {error}. `fedglia site check` tries again.")
        if fingerprint:
            click.echo(f"whoever answers then must show the authority {fingerprint}; any other is refused")
    click.echo(
        f"\nNext:\n  1. send {folder / f'join-{name}.json'} to the coordinator (it holds no secret)\n"
        f"     and read out the key: {key_fingerprint(public_key(folder))}\n"
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
    Ends with status 0 once both run; 1 if they do not; 2 if site.toml cannot be used or a record was changed.
    """
    from client import services
    from client.join import find_site

    folder = find_site(site_option)
    if only and not foreground:
        raise InputError("--only goes with --foreground: whatever starts one process must also restart it")
    for line in services.prepare(folder, only=only):
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

    Ends with status 0 if all is well; 1 if it does not run, is not connected or a record was changed; 2 for a
    wrong folder.
    """
    from client import status as standing
    from client.join import find_site

    found = standing.look(find_site(site_option))
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        colour = "yellow" if found.state == "well" and found.refusing else STATES[found.state]
        click.echo(click.style(standing.headline(found), fg=colour, bold=True))
        for line in standing.lines(found):
            click.echo(line)
    if found.state != "well":
        raise click.exceptions.Exit(1)


@site.command()
@at_site
@click.option("--quick", is_flag=True, help="Leave out what reads scans: data, patients, training step.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list for machines.")
def check(site_option: Path | None, quick: bool, as_json: bool) -> None:
    """Look at everything this site needs; each line is PASS, WARN or FAIL, and how to mend it.

    Nothing is changed, but the hub's authority is believed if it is met for the first time. No check waits
    for the network longer than seconds; the data folder is read whole, which --quick leaves out.

    Ends with status 0 if nothing fails; 1 if something does; 2 if site.toml cannot be read.
    """
    from dataclasses import asdict

    from client.doctor.subject import subject
    from client.doctor.table import examine
    from client.join import find_site

    levels, rows = set(), []
    for found in examine(subject(find_site(site_option)), quick=quick):
        levels.add(found.level)
        if as_json:
            rows.append(asdict(found))
            continue
        click.echo(
            f"{click.style(found.level, fg=MARKS[found.level])}  {found.code:<14} {printable(found.text)}"
        )
        if found.mend:
            click.echo(f"{'':<6}{'':<14} -> {printable(found.mend)}")
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    if "FAIL" in levels:
        raise click.exceptions.Exit(1)


@site.command()
@at_site
@click.argument("plan")
@click.option("--yes", is_flag=True, help="Approve without asking; read what is shown all the same.")
def approve(site_option: Path | None, plan: str, yes: bool) -> None:
    """Show in plain words what PLAN does and sends, ask, and record the answer.

    PLAN is the coordinator's TOML file, or the name of a shipped plan. What is approved is this very plan, by
    its hash: change a letter of its meaning, and it is another one.

    Ends with status 0 if it is approved; 1 if you did not say yes; 2 if it is no valid plan.
    """
    from client import approval
    from client.join import find_site
    from client.site import open_site
    from common.plan import load

    opened, wanted = open_site(find_site(site_option)), load(plan)
    click.echo(approval.words(wanted, opened))
    for excess in approval.refused_now(wanted, opened):
        click.echo(f"{click.style('REFUSED ANYWAY', fg='red')} [{excess.code}]: {excess.words}", err=True)
    if not yes and not says_yes("May this plan run here?"):
        click.echo("not approved; nothing was recorded")
        raise click.exceptions.Exit(1)
    given = approval.approve(opened, wanted)
    click.echo(
        f"approved: {given.plan} {given.sha256}. Take it back: fedglia site revoke-approval {given.plan}"
    )


@site.command("revoke-approval")
@at_site
@click.argument("plan", metavar="PLAN|HASH")
def revoke_approval(site_option: Path | None, plan: str) -> None:
    """Take approvals back, by a plan's name or the first digits of a hash; holds from the next message on.

    Ends with status 0; 2 if nothing approved here is called so.
    """
    from client import approval
    from client.join import find_site
    from client.site import open_site

    for gone in approval.revoke(open_site(find_site(site_option)), plan):
        click.echo(f"no longer approved: {gone.plan} {gone.sha256}")


@site.command()
@at_site
@click.argument("patient")
@click.option("--gone", is_flag=True, help="The scans have left the data folder already.")
def withdraw(site_option: Path | None, patient: str, gone: bool) -> None:
    """Never use PATIENT again, from the next message on, and remove what was prepared of the scans.

    The scans themselves are not touched. What finished rounds learned from them stays in their models.

    Ends with status 0, also for one who withdrew before; 2 if no such patient is known.
    """
    from client.join import find_site
    from client.site import open_site
    from client.withdrawal import withdraw as take_out

    done = take_out(open_site(find_site(site_option)), patient, gone=gone)
    click.echo(
        f"{patient} {'is' if done.new else 'was'} withdrawn; {done.cases} case(s) stay in the data folder"
    )
    click.echo(
        f"removed: {done.prepared} prepared case(s) of everybody (the rest is prepared again when needed), "
        f"and {done.predictions} label map(s)"
    )


@site.command()
@at_site
@click.argument("release", type=FOLDER)
def receive(site_option: Path | None, release: Path) -> None:
    """Take a release in: RELEASE is the folder NAME-VERSION that `fedglia release export` wrote.

    It is copied to the site's folder, as releases/NAME-VERSION. A damaged one is refused, also if the release
    is here already.

    Ends with status 0; 2 if it is none, or was changed.
    """
    from client import receiving
    from client.join import find_site
    from client.site import open_site

    opened = open_site(find_site(site_option))
    for line in receiving.words(opened, receiving.receive(opened, release)):
        click.echo(printable(line))


@site.group()
def ledger() -> None:
    """What left this building, reply by reply: show it, and check that nobody changed the record."""


@ledger.command("show")
@at_site
@click.option("--run", metavar="ID", help="Each reply of one run, by its id or the first digits of it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list for machines.")
def ledger_show(site_option: Path | None, run: str | None, as_json: bool) -> None:
    """Print what each run was sent, or with --run each reply: what it held, how long it was, its SHA-256.

    A run has an id here: messages do not carry the name that the coordinator gave it.

    Ends with status 0; 2 if no run of that id is known here.
    """
    from client import accounts
    from client.join import find_site

    rows = accounts.replies(find_site(site_option), run) if run else accounts.runs(find_site(site_option))
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    for row in [] if as_json else rows:
        click.echo(printable(accounts.line(row)))
    if not rows:
        click.echo("nothing has left yet", err=True)


@ledger.command("verify")
@at_site
@click.option("--expected", metavar="HASH", help="A hash that was noted elsewhere; some line must have it.")
def ledger_verify(site_option: Path | None, expected: str | None) -> None:
    """Check that both records are as they were written: egress.jsonl and audit.jsonl.

    Ends with status 0 if they are; 1 if one was changed, and says at which line.
    """
    from client import accounts, chain, records
    from client.join import find_site

    folder, whole = find_site(site_option), True
    for file in records.RECORDS:
        found = chain.verify(folder / file, expected=expected if file == accounts.FILE else None)
        whole = whole and found.bad_line is None
        mark = "PASS" if found.bad_line is None else "FAIL"
        click.echo(f"{click.style(mark, fg=MARKS[mark])}  {file}: {found.words}; head {found.head.hash}")
    if not whole:
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
