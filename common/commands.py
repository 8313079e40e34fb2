"""Commands that every room has: data, plan, predict, evaluate, pretrain.

What is slow to import is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common import plan as plans
from common.errors import DataError, InputError

if TYPE_CHECKING:
    from common.data.cases import Case, Cohort
    from common.learning.evaluation import Judgement
    from common.learning.released import ReleasedModel

FOLDER = click.Path(path_type=Path)
MARKS = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}


@click.group()
def data() -> None:
    """Look at scans before they are used."""


@data.command("check")
@click.argument("paths", nargs=-1, required=True, type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list for machines.")
def data_check(paths: tuple[Path, ...], as_json: bool) -> None:
    """Say in words what is wrong with scans, label maps or whole cohort folders.

    Each PATH is a file or a folder. Ends with status 2 if anything would be refused.
    """
    from common.data.intake import check

    findings = [finding for path in paths for finding in check(path.absolute())]
    if as_json:
        rows = [{"level": f.level, "case": f.case, "code": f.code, "text": f.text} for f in findings]
        click.echo(json.dumps(rows, indent=1))
    else:
        for finding in findings:
            click.echo(f"{click.style(finding.level, fg=MARKS[finding.level])}  {finding.text}")
    if any(finding.level == "FAIL" for finding in findings):
        raise click.exceptions.Exit(2)


@click.group()
def plan() -> None:
    """Check, show and hash what a federation is to do.

    PLAN is a TOML file or the name of a shipped plan; `fedglia plan list` names those.
    """


@plan.command("list")
def plan_list() -> None:
    """Name the shipped plans and what each is for."""
    for name, about in plans.shipped().items():
        click.echo(f"{name:<10} {about}")


@plan.command("check")
@click.argument("name_or_file", metavar="PLAN")
def plan_check(name_or_file: str) -> None:
    """Say whether a plan can be used; if not, which key is wrong and what to do."""
    checked = plans.load(name_or_file)
    click.echo(f"{checked.name}: a valid plan for {', '.join(checked.site_names)}; hash {checked.sha256}")


@plan.command("show")
@click.argument("name_or_file", metavar="PLAN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
def plan_show(name_or_file: str, as_json: bool) -> None:
    """Print a plan with every default written out, as a file to start your own from."""
    shown = plans.load(name_or_file)
    click.echo(json.dumps(shown.as_dict(), indent=1) if as_json else shown.as_toml(), nl=as_json)


@plan.command("hash")
@click.argument("name_or_file", metavar="PLAN")
def plan_hash(name_or_file: str) -> None:
    """Print the hash by which a site approves a plan; comments and spelling do not change it."""
    click.echo(plans.load(name_or_file).sha256)


@click.command()
@click.argument("source", metavar="IN", type=FOLDER)
@click.argument("target", metavar="OUT", type=FOLDER)
@click.option("--model", required=True, help="A model file, or the name of a shipped one (glioma).")
@click.option(
    "--flips", is_flag=True, help="Average with the mirrored scan: twice the time, a little better."
)
def predict(source: Path, target: Path, model: str, flips: bool) -> None:
    """Segment a case folder, or each case in a folder, into label maps in the scan's own grid.

    OUT is a folder outside all scans; it gets CASE-seg.nii.gz for each case, with BraTS 2023's codes:
    1 necrotic core, 2 oedema, 3 enhancing tumour. A case that cannot be read is named, the others are done.
    """
    from common.data.intake import open_cohort
    from common.data.transforms import prepare
    from common.data.volume import Volume, inspect_header, write_volume
    from common.learning.inference import predict_labels
    from common.learning.released import find_model, open_model

    _check_outside(source, target)
    opened = open_model(find_model(model))
    cohort = open_cohort(source.absolute(), labels=False)
    target.mkdir(parents=True, exist_ok=True)
    refused = 0
    for case in _counted(cohort):
        try:
            prepared = prepare(case, cohort, opened.preparation)
            found = predict_labels(opened.network, prepared, flips=flips)
        except DataError as error:
            refused += 1
            click.echo(f"refused: {error}", err=True)
            continue
        first = next(iter(case.images.values()))
        affine = inspect_header(first.path).affine
        write_volume(target / f"{case.name}-seg.nii.gz", Volume(found, affine))
    click.echo(f"{len(cohort.cases) - refused} label map(s) in {target}")
    if refused:
        raise click.exceptions.Exit(2)


@click.command()
@click.argument("model")
@click.argument("folder", type=FOLDER)
@click.option("--degrade", help="Make the scans look like another scanner's first: ssa-1.5T, ultra-low.")
@click.option(
    "--flips", is_flag=True, help="Average with the mirrored scan: twice the time, a little better."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
def evaluate(model: str, folder: Path, degrade: str | None, flips: bool, as_json: bool) -> None:
    """Compare MODEL's label maps with the expert's in FOLDER: Dice and HD95 of each region, case by case.

    MODEL is a file or the name of a shipped model (glioma). Empty regions count by the rule of BraTS
    2023: both empty is Dice 1 and 0 mm, one empty is Dice 0 and the image's diagonal; marked * below.
    """
    from common.data.intake import open_cohort
    from common.learning.released import find_model, open_model

    opened = open_model(find_model(model), degradation=degrade)
    cohort = open_cohort(folder.absolute())
    if not cohort.labelled:
        raise DataError(f"{cohort.folder.name}: no case has a label, so nothing can be compared")
    judged = {case.name: _judge(opened, case, cohort, flips=flips) for case in _counted(cohort) if case.label}
    _print_judgements(judged, as_json=as_json)


@click.command()
@click.option("--out", required=True, type=FOLDER, help="The model file to write.")
@click.option("--task", type=click.Choice(["tissue", "glioma"]), default="tissue", show_default=True)
@click.option("--preset", default="nano", show_default=True, help="Size of the network.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Training steps; the task's own number if not given."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def pretrain(out: Path, task: str, preset: str, steps: int | None, seed: int, threads: int) -> None:
    """Make a first global model from phantoms alone, without a patient in it.

    `tissue` learns cerebrospinal fluid, grey and white matter of healthy heads; `glioma` learns tumours over
    many protocols, contrasts and missing channels. Stopped half-way, the same command goes on.
    """
    from common.learning.pretraining import pretrain as train

    train(task=task, preset=preset, out=out, steps=steps, seed=seed, threads=threads, say=click.echo)


def _check_outside(source: Path, target: Path) -> None:
    """A label map written among the scans would later be read as the expert's, or lie over it."""
    from common.data.intake import cohort_around

    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"OUT {target.name} lies inside IN; name a folder outside it for the label maps")
    scans = cohort_around(target)
    if scans is not None:
        raise InputError(
            f"OUT {target.name} lies among the scans of {scans.name}, where a label map is taken for an "
            "expert's: name a folder outside it"
        )


def _judge(opened: ReleasedModel, case: Case, cohort: Cohort, *, flips: bool) -> Judgement:
    from common.data.transforms import prepare
    from common.learning.evaluation import judge_case

    prepared = prepare(case, cohort, opened.preparation)
    return judge_case(opened.network, prepared, case=case, cohort=cohort, task=opened.task, flips=flips)


def _print_judgements(judged: dict[str, Judgement], *, as_json: bool) -> None:
    regions = list(next(iter(judged.values())).regions)
    means: dict[str, Any] = {
        region: sum(judgement.regions[region].dice for judgement in judged.values()) / len(judged)
        for region in regions
    }
    if as_json:
        cases = {
            name: {r: {"dice": s.dice, "hd95_mm": s.hd95_mm, "rule": s.rule} for r, s in j.regions.items()}
            for name, j in judged.items()
        }
        click.echo(json.dumps({"cases": cases, "mean_dice": means}, indent=1))
        return
    width = max(len(name) for name in judged)
    click.echo(f"{'Dice (HD95 mm)':<{width}}" + "".join(f"{region:>16}" for region in regions))
    for name, judgement in judged.items():
        cells = [
            f"{score.dice:.3f} ({score.hd95_mm:.1f}){'' if score.rule == 'measured' else '*'}"
            for score in judgement.regions.values()
        ]
        click.echo(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    click.echo(f"{'mean Dice':<{width}}" + "".join(f"{means[region]:>16.3f}" for region in regions))


def _counted(cohort: Cohort) -> Iterator[Case]:
    """Cases one by one, with a line of progress on the terminal's error stream."""
    began = time.monotonic()
    for done, case in enumerate(cohort.cases):
        left = (time.monotonic() - began) / done * (len(cohort.cases) - done) if done else 0
        note = f", about {left:.0f} s left" if done else ""
        click.echo(f"[{done + 1}/{len(cohort.cases)}] {case.name}{note}", err=True)
        yield case
