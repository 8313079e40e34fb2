"""`fedglia study`: the tables of the source papers, centralised and federated side by side."""

from __future__ import annotations

from pathlib import Path

import click

from simulation.options import pairs, toml_value

FOLDER = click.Path(path_type=Path)


@click.group()
def study() -> None:
    """Compare approaches over folds, with honest statistics: the tables of the source papers."""


@study.command("list")
def list_() -> None:
    """The shipped studies, what each is about, and the cohorts that --data may name."""
    from simulation.study.spec import read, shipped

    for name, (_, about) in shipped().items():
        raw, _ = read(name)
        cohorts = ", ".join(f"{cohort} ({spec['role']})" for cohort, spec in raw["cohorts"].items())
        click.echo(f"{name}\n  {about}\n  cohorts: {cohorts}\n  presets: {', '.join(raw['presets'])}")


@study.command()
@click.argument("name_or_file", metavar="STUDY")
@click.option("--out", required=True, type=FOLDER, metavar="DIR", help="The folder to make or resume.")
@click.option(
    "--preset",
    type=click.Choice(["smoke", "small", "full"]),
    default="small",
    show_default=True,
    help="smoke: minutes, does it run; small: the table on phantoms; full: the paper's size, for a GPU.",
)
@click.option(
    "--data", "folders", multiple=True, metavar="NAME=FOLDER", help="Real cases for a cohort of the study."
)
@click.option(
    "--degrade",
    multiple=True,
    metavar="NAME=PROFILE",
    help="Show these scans as ssa-1.5T or ultra-low gives them.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; one for each core.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed than the study's.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other key: plan.adaptation.loss=public-code",
)
@click.option("--resume", is_flag=True, help="Go on where DIR stopped; a missing or empty one starts.")
def run(
    name_or_file: str,
    out: Path,
    preset: str,
    folders: tuple[str, ...],
    degrade: tuple[str, ...],
    jobs: int | None,
    seed: int | None,
    changes: tuple[str, ...],
    resume: bool,
) -> None:
    """Carry out a study and write its report.

    STUDY is a TOML file or a shipped study (fedglia study list). Without --data every cohort is a phantom.
    How many jobs run at once, and where a study was interrupted, changes no number.

    \b
    fedglia study run ssa-transfer --preset smoke --out runs/smoke
    fedglia study run gtv-transfer --data hippocampus=H --data glioma=G --out runs/gtv
    fedglia study run ssa-transfer --preset smoke --out runs/smoke --resume
    """  # noqa: D301 - click reads the character \b, not a backslash
    from simulation.preparation import cores
    from simulation.study.run import carry_out, prepare

    setup = prepare(
        name_or_file,
        out.absolute(),
        preset=preset,
        folders={name: Path(value).absolute() for name, value in pairs(folders, "--data").items()},
        degrade=pairs(degrade, "--degrade"),
        changes={
            **{key: toml_value(text) for key, text in pairs(changes, "--set").items()},
            **({} if seed is None else {"seed": seed}),
        },
    )
    carry_out(
        setup,
        workers=jobs or cores(),
        resume=resume,
        say=lambda line: click.echo(line, err=True),
    )
    _tell(out)


@study.command()
@click.argument("out", type=FOLDER, metavar="DIR")
def report(out: Path) -> None:
    """Write the report of a study again, from its results, and print the table."""
    _tell(out)


def _tell(out: Path) -> None:
    from simulation.study.report import write_report

    told = write_report(out.absolute())
    click.echo(told.text)
    click.echo(f"report: {told.page}\nresults: {out / 'results.csv'}")
