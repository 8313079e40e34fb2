"""The coordinator's commands about rounds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.terminal import say

if TYPE_CHECKING:
    from common.plan import Plan
    from server.desk.states import Standing
    from server.hub.folder import Hub

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path)

ENDS = {"completed": 0, "stopped": 130}
"""Exit status of `watch` by how the run ended; 1 for any other."""


def _at_hub(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "The hub's folder; else $FEDGLIA_HUB, else the working directory."
    return click.option("--hub", "folder", type=FOLDER, metavar="DIR", help=text)(command)


@click.group()
def rounds() -> None:
    """Start, watch, stop and resume the rounds of a plan.

    \b
    fedglia rounds start PLAN
    fedglia rounds watch
    RUN is a run's name; without it the run started last is meant, to resume the last that is not completed.
    Exit status: 0 done; 1 you said no, the hub is not running, or a run could not go on and can be resumed;
    2 something given cannot be used, and nothing was started; 130 a person stopped the run.
    """  # noqa: D301 - click reads the character \b, not a backslash


@rounds.command("start")
@click.argument("plan", metavar="PLAN")
@_at_hub
@click.option("--sites", metavar="A,B", help="These sites of the plan only; the plan then has another hash.")
@click.option("--name", metavar="NAME", help="Of the run; else the plan's name and a number.")
@click.option("--start", "start_file", type=FILE, metavar="FILE", help="Begin with this model file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rounds_start(
    plan: str, folder: Path | None, sites: str | None, name: str | None, start_file: Path | None, yes: bool
) -> None:
    """Start a run of PLAN, a TOML file or a shipped plan; it goes on without this terminal.

    Each site approves the plan by its hash before it takes part (fedglia site approve). With --sites, or
    with a --start FILE that the plan does not name, that is the plan written to the run's plan.toml.
    """
    from common import plan as plans
    from common.terminal import says_yes
    from server.desk import launch
    from server.desk.reading import admitted, connections

    hub = _hub(folder, running=True)
    written = plans.load(plan)
    say("looks at the plan's first model, and asks the hub who is connected")
    chosen = [site for site in (sites or "").split(",") if site]
    effective = launch.effective(written, sites=chosen, start_file=start_file)
    named = name or launch.next_name(hub, effective)
    known = admitted(hub)
    _show_plan(effective, named, known, connections(hub) or {})
    launch.check_admitted(effective, known)
    if effective.sha256 != written.sha256:
        click.echo(
            f"this is not the plan as it was written ({written.sha256[:12]}): sites must approve this one"
        )
    if not yes and not says_yes("start this run?"):
        click.echo("nothing was started")
        sys.exit(1)
    made = launch.make(hub, effective, named, start_file=start_file)
    if effective.sha256 != written.sha256:
        click.echo(f"send this file to the sites, for fedglia site approve: {made / 'plan.toml'}")
    launch.start(hub, made, say=say)
    click.echo(f"run {named} has begun; watch it: fedglia rounds watch {named}")


@rounds.command("status")
@click.argument("run", required=False)
@_at_hub
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def rounds_status(run: str | None, folder: Path | None, as_json: bool) -> None:
    """Show how RUN stands: the open round, the time left, and what each site is doing."""
    from server.desk.reading import folder_of
    from server.desk.table import lines
    from server.desk.watch import look

    hub = _hub(folder)
    found = look(hub, folder_of(hub, run))
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
        return
    for line in lines(found):
        click.echo(line)


@rounds.command("watch")
@click.argument("run", required=False)
@_at_hub
def rounds_watch(run: str | None, folder: Path | None) -> None:
    """Show RUN until it ends: a table on a terminal, a line for each change elsewhere.

    Ctrl-C ends the watching, not the run. Exit status: 0 the run completed; 1 it failed or was interrupted;
    130 it was stopped, or you stopped watching.
    """
    from server.desk.reading import folder_of
    from server.desk.watch import follow

    hub = _hub(folder)
    path = folder_of(hub, run)
    last: Standing | None = None
    try:
        for found in follow(hub, path):
            _redraw(found) if sys.stdout.isatty() else _tell_changes(last, found)
            last = found
    except KeyboardInterrupt:
        click.echo(f"\nnot watched any more; the run goes on: fedglia rounds watch {path.name}", err=True)
        sys.exit(130)
    assert last is not None
    if last.state == "completed":
        click.echo(f"what it gave: fedglia rounds report {path.name}")
    elif not sys.stdout.isatty():
        _tell_remedies(last)
    sys.exit(ENDS.get(last.state, 1))


@rounds.command("stop")
@click.argument("run", required=False)
@_at_hub
def rounds_stop(run: str | None, folder: Path | None) -> None:
    """End RUN so that it can be resumed; the open round is thrown away, closed ones are kept."""
    from server.desk import launch
    from server.desk.reading import folder_of

    hub = _hub(folder)
    path = folder_of(hub, run)
    ended = launch.stop(hub, path)
    click.echo(f"run {path.name}: {ended}; to go on: fedglia rounds resume {path.name}")


@rounds.command("resume")
@click.argument("run", required=False)
@_at_hub
def rounds_resume(run: str | None, folder: Path | None) -> None:
    """Go on with RUN after its last closed round, with the plan that it began with.

    Without RUN the run that was started last and is not completed is meant. A run that is at work already,
    as after a start of the hub that found it queued, is left at it, with status 0.
    """
    from common import plan as plans
    from server.desk import launch
    from server.desk.reading import unfinished

    hub = _hub(folder)
    path = unfinished(hub, run)
    began = launch.resume(hub, path, plans.load(path / "plan.toml"), say=say)
    how = "goes on" if began else "is at work already"
    click.echo(f"run {path.name} {how}; watch it: fedglia rounds watch {path.name}")


@rounds.command("report")
@click.argument("run", required=False)
@_at_hub
def rounds_report(run: str | None, folder: Path | None) -> None:
    """Print what RUN gave, and write RUN/report.html where the researcher's room is installed."""
    from common.cli import fedglia
    from server.desk.outcome import outcome, summary_of
    from server.desk.reading import folder_of

    path = folder_of(_hub(folder), run)
    summary = summary_of(path)
    page = fedglia.get_command(click.get_current_context(), "report")
    if page is not None:
        say(f"writes {path / 'report.html'}")
        page.main([str(path)], prog_name="fedglia report", standalone_mode=False)
        return
    for line in outcome(summary):
        click.echo(line)
    click.echo(
        f"for the page, on a machine with the whole of FedGlia and a copy of {path}: fedglia report RUN"
    )


def _hub(folder: Path | None, *, running: bool = False) -> Hub:
    from common.errors import RunError
    from server.hub import control
    from server.hub.folder import find_hub

    hub = find_hub(folder)
    if running and not control.is_up(hub):
        raise RunError("the hub is not running; start it: fedglia hub start", code="hub-down")
    return hub


def _show_plan(plan: Plan, name: str, admitted: dict[str, str], nodes: dict[str, str]) -> None:
    from server.desk.wording import duration

    wanted = plan.rounds
    click.echo(f"run {name}: plan {plan.name}, hash {plan.sha256}")
    click.echo(
        f"  {plan.task.kind}, network {plan.model.preset} from {plan.model.start[:19]}, trains "
        f"{plan.adaptation.trains}; {wanted.count} rounds of {plan.adaptation.local_steps} steps, quorum "
        f"{wanted.quorum} of {len(plan.sites)}, deadline {duration(wanted.deadline_s)}"
    )
    there = {"online": "admitted, connected", "offline": "admitted, not connected"}
    for site in plan.site_names:
        known = admitted.get(site, "not admitted")
        told = there.get(nodes.get(site, ""), "admitted, never connected") if known == "admitted" else known
        click.echo(f"  site {site}: {told}")
    connected = sum(nodes.get(site) == "online" for site in plan.site_names)
    if connected < wanted.quorum:
        click.echo(
            f"  only {connected} connected; the run waits for {wanted.quorum}, at most "
            f"{duration(wanted.deadline_s)}"
        )


def _redraw(found: Standing) -> None:
    from server.desk.table import lines

    click.clear()
    for line in lines(found):
        click.echo(line)
    click.echo("\nCtrl-C ends the watching, not the run")


def _tell_changes(before: Standing | None, after: Standing) -> None:
    from server.desk.table import changes

    for line in changes(before, after):
        click.echo(line)
    sys.stdout.flush()


def _tell_remedies(found: Standing) -> None:
    from server.desk.table import remedies

    for line in remedies(found):
        click.echo(line)
