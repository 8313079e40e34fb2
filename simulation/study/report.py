"""The report of a finished study: one HTML page, the same as Markdown, and its tables as CSV.

OUT/report.html     everything, with charts and pictures; asks the network for nothing
OUT/report.md       the words and the tables
OUT/tables/*.csv    each table alone
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.files import write_atomic
from simulation.report import STRUCTURE_WORDS, environment, versions
from simulation.slices import LINE_MM, outlines, png
from simulation.study import pictures
from simulation.study.jobs import outcome_of
from simulation.study.page import Page, Results, Shown
from simulation.study.pictures import Picture
from simulation.study.plain import HELD, csv_files, markdown, terminal_text
from simulation.study.results import read_csv
from simulation.study.run import Setup, opened
from simulation.study.spec import Source, parse, read, shipped

TEMPLATE = "study/report.html.j2"

FINEST_LINE = 1 / 150
"""Width of an outline as a share of a picture's width: a crop of a few centimetres has thin ones."""


@dataclass(frozen=True)
class Told:
    """What was written.

    Attributes:
        text: the main table and the verdicts, for a terminal.
        page: the HTML file.
    """

    text: str
    page: Path


@dataclass(frozen=True)
class Panel:
    """One picture as the template draws it; sizes in mm."""

    title: str
    outlines: Mapping[str, str]


@dataclass(frozen=True)
class Drawn:
    """A case as the template draws it: the scan once, and a panel for the expert and for each model."""

    title: str
    where: str
    scan_png: str
    width_mm: float
    height_mm: float
    line_mm: float
    panels: tuple[Panel, ...]


def write_report(out: Path) -> Told:
    """Write the report of a finished study from what its folder holds.

    Args:
        out: the study's folder.

    Raises:
        InputError: the folder holds no study, or one that is not finished.
    """
    setup = opened(out)
    page = setup.kind.page(gathered(setup))
    content = {
        "page": page,
        "setup": setup,
        "facts": _facts(setup),
        "held": HELD,
        "structure_words": STRUCTURE_WORDS,
        "drawn": {section.anchor: [drawn(shown) for shown in section.shown] for section in page.sections},
        "legends": {section.anchor: _legends(section.shown) for section in page.sections},
        "command": command(setup),
        "versions": versions(),
        "study_toml": setup.study.as_toml(),
    }
    target = setup.out / "report.html"
    write_atomic(target, environment().get_template(TEMPLATE).render(content).encode())
    write_atomic(setup.out / "report.md", markdown(page, made=_made(setup)).encode())
    _write_tables(setup.out / "tables", page)
    return Told(terminal_text(page, setup.data), target)


def gathered(setup: Setup) -> Results:
    """Everything that a finished study left.

    Raises:
        InputError: it is not finished, or a file of it is damaged.
    """
    if not (setup.out / "results.csv").is_file():
        raise InputError(
            f"{setup.out.name}: the study is not finished; go on with fedglia study run ... --resume"
        )
    _, rows = read_csv(setup.out / "results.csv")
    facts = {job.name: outcome_of(setup.out, job.name).facts for job in setup.jobs()}
    return Results(setup.study, setup.data, tuple(rows), facts, partial(_pictures, setup.out))


def _pictures(out: Path, job: str) -> list[Picture]:
    return pictures.kept(out / "work" / job)


def command(setup: Setup) -> str:
    """The command that repeats the study; folders of scans are left to be filled in."""
    words = ["fedglia", "study", "run", _file_words(setup), "--preset", setup.study.preset]
    for source in setup.data.sources:
        if source.phantom is None:
            words += ["--data", f"{source.name}=FOLDER_OF_{source.name.upper().replace('-', '_')}"]
        if source.degrade:
            words += ["--degrade", f"{source.name}={source.degrade}"]
    return shlex.join([*words, "--seed", str(setup.study.seed), "--out", "NEW_FOLDER"])


def _file_words(setup: Setup) -> str:
    """The shipped study's name where it still says the same; else a file has to be given."""
    study = setup.study
    if study.name in shipped():
        raw, origin = read(study.name)
        try:
            same = parse({**raw, "seed": study.seed}, setup.kind.study, preset=study.preset, origin=origin)
        except InputError:
            return "STUDY_FILE"
        if same.sha256 == study.sha256:
            return study.name
    return "STUDY_FILE"


def drawn(shown: Shown) -> Drawn:
    """A case's slice with the outlines of the expert and of each model."""
    first = shown.picture
    spacing_mm = first.spacing_mm
    height_mm, width_mm = (count * mm for count, mm in zip(first.scan.shape, spacing_mm, strict=True))
    line_mm = round(min(LINE_MM, width_mm * FINEST_LINE), 3)
    layers = [("expert", first.truth), (shown.model, first.found)]
    layers += [(name, other.found) for name, other in shown.others]
    return Drawn(
        title=shown.title,
        where=f"axial slice {first.level + 1}, counted from below",
        scan_png=png(first.scan),
        width_mm=width_mm,
        height_mm=height_mm,
        line_mm=line_mm,
        panels=tuple(
            Panel(name, outlines(plane, shown.structures, spacing_mm, line_mm=line_mm))
            for name, plane in layers
        ),
    )


def _legends(shown: tuple[Shown, ...]) -> list[tuple[str, ...]]:
    """Each list of structures that the pictures use, once."""
    return list(dict.fromkeys(one.structures for one in shown))


def _facts(setup: Setup) -> list[tuple[str, str]]:
    study = setup.study
    return [
        ("study", study.name),
        ("preset", study.preset),
        ("seed", str(study.seed)),
        *((source.name, _source_words(source)) for source in setup.data.sources),
    ]


def _source_words(source: Source) -> str:
    made = "real scans" if source.phantom is None else f"phantom, {source.cases} cases"
    return f"{source.role}, {made}{f', degraded to {source.degrade}' if source.degrade else ''}"


def _made(setup: Setup) -> str:
    """How the study was made, as Markdown."""
    facts = "\n".join(f"- {term}: {words}" for term, words in _facts(setup))
    toml = setup.study.as_toml().rstrip()
    return (
        f"{facts}\n\n```sh\n{command(setup)}\n```\n\n{versions()}\n\n"
        f"SHA-256 of the study: {setup.study.sha256}\n\n```toml\n{toml}\n```"
    )


def _write_tables(folder: Path, page: Page) -> None:
    """The CSV files, and none that an earlier report left."""
    folder.mkdir(exist_ok=True)
    files = csv_files(page)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    for file in folder.glob("*.csv"):
        if file.name not in files:
            file.unlink()
