"""The researcher's commands: demo, simulate, phantom, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common import plan as plans
from common.errors import InputError
from simulation.options import pairs, toml_value

if TYPE_CHECKING:
    from simulation.federation import Federation

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("name_or_file", metavar="PLAN")
@click.option("--out", required=True, type=FOLDER, metavar="RUN", help="The run directory to make or resume.")
@click.option(
    "--site", "sites", multiple=True, metavar="NAME=FOLDER", help="Real cases for a site of the plan."
)
@click.option(
    "--degrade",
    multiple=True,
    metavar="NAME=PROFILE",
    help="Scans of a site as ssa-1.5T or ultra-low gives them.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "flower"]),
    default="local",
    show_default=True,
    help="Processes here, or Flower's own simulation engine (Ray).",
)
@click.option("--resume", is_flag=True, help="Go on with the run in RUN; a missing or empty one starts.")
@click.option("--rounds", type=click.IntRange(min=1), help="Another number of rounds than the plan's.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed than the plan's.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any other key: adaptation.local_steps=10"
)
@click.option("--start", type=FOLDER, help="Start from this model file instead of the plan's.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that run sites; one for each core.")
def simulate(
    name_or_file: str,
    out: Path,
    sites: tuple[str, ...],
    degrade: tuple[str, ...],
    engine: str,
    resume: bool,
    rounds: int | None,
    seed: int | None,
    changes: tuple[str, ...],
    start: Path | None,
    workers: int | None,
) -> None:
    """Run a whole federation on this machine and report what each site gained.

    PLAN is a TOML file or a shipped plan (fedglia plan list). Without --site every site is a phantom; with
    it, every site of the plan needs a folder.

    \b
    fedglia simulate demo --out runs/a
    fedglia simulate glioma --site adult=A --site ssa=B --degrade ssa=ssa-1.5T --out runs/b
    fedglia simulate demo --out runs/a --resume
    """  # noqa: D301 - click reads the character \b, not a backslash
    plan = plans.load(name_or_file).override(_overrides(rounds, seed, changes, start))
    from simulation.federation import Federation

    folders = {name: Path(value).absolute() for name, value in pairs(sites, "--site").items()}
    federation = Federation(
        plan,
        out,
        folders=folders,
        degrade=pairs(degrade, "--degrade"),
        start_file=start,
        engine="flower" if engine == "flower" else "local",
        workers=workers,
    )
    _carry_out(federation, resume=resume)


@click.command()
@click.option("--out", default=Path("runs/demo"), show_default=True, type=FOLDER, metavar="RUN")
@click.option("--resume", is_flag=True, help="Go on with the run in RUN; a missing or empty one starts.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed: other phantoms, other draws.")
def demo(out: Path, resume: bool, seed: int | None) -> None:
    """Three phantom hospitals adapt a healthy-pretrained U-Net to glioma, from nothing to the report."""
    from simulation.federation import Federation

    plan = plans.load("demo").override(_overrides(None, seed, (), None))
    _carry_out(Federation(plan, out), resume=resume)


@click.command()
@click.argument("out", type=FOLDER)
@click.option(
    "--site",
    default="adult-a",
    show_default=True,
    help="Whose scanner and patients: adult-a, adult-b, ssa, varied.",
)
@click.option("--cases", type=click.IntRange(1, 10_000), default=6, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--healthy", is_flag=True, help="Healthy heads with tissue labels instead of tumours.")
@click.option(
    "--spacing",
    "spacing_mm",
    type=click.FloatRange(1, 4),
    default=3.0,
    show_default=True,
    help="Voxel edge, mm.",
)
def phantom(out: Path, site: str, cases: int, seed: int, healthy: bool, spacing_mm: float) -> None:
    """Write made-up scans with known truth into OUT, as a BraTS folder that every reader takes."""
    from common.data.phantom.writer import write_cohort

    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out.name}: is not empty; name a new folder for the phantom")
    write_cohort(out, site=site, cases=cases, seed=seed, spacing_mm=spacing_mm, healthy=healthy)
    click.echo(f"{cases} phantom case(s) of {site} in {out}")


@click.command()
@click.argument("run", type=FOLDER)
def report(run: Path) -> None:
    """Write RUN/report.html again from what the run directory holds, and print the site table."""
    _tell_outcome(run)


def _carry_out(federation: Federation, *, resume: bool) -> None:
    """Check, run, and say what came out, also where the run failed half-way."""
    from simulation.federation import check, simulate
    from simulation.progress import teller

    check(federation)
    listen = teller(lambda line: click.echo(line, err=True), rounds=federation.plan.rounds.count)
    try:
        simulate(federation, resume=resume, listen=listen)
    except InputError:
        raise
    except BaseException:
        if (federation.run_folder / "summary.json").is_file():
            click.echo(f"what is known so far: fedglia report {federation.run_folder}", err=True)
        raise
    _tell_outcome(federation.run_folder)


def _tell_outcome(run: Path) -> None:
    from simulation.report import site_table, write_report

    summary_file = run / "summary.json"
    if not summary_file.is_file():
        raise InputError(f"{run.name}: holds no summary.json, so there is nothing to report")
    page = write_report(run)
    click.echo(site_table(json.loads(summary_file.read_text())))
    click.echo(f"report: {page}")


def _overrides(
    rounds: int | None, seed: int | None, changes: tuple[str, ...], start: Path | None
) -> dict[str, Any]:
    overrides: dict[str, Any] = {key: toml_value(text) for key, text in pairs(changes, "--set").items()}
    if rounds is not None:
        overrides["rounds.count"] = rounds
    if seed is not None:
        overrides["seed"] = seed
    if start is not None:
        from server.start import file_hash

        overrides["model.start"] = f"sha256:{file_hash(start)}"
    return overrides
