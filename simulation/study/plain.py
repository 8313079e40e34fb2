"""A study's page without pictures: for a terminal, as Markdown, and its tables as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping

from server.card import PHANTOM_SENTENCE
from simulation.study.page import Page, Section, Verdict
from simulation.study.spec import Data
from simulation.tables import Table, plain_text
from simulation.wording import ascii_text, count_text

WIDTH = 110
"""Columns of a terminal's paragraph."""

HELD: Mapping[str, str] = {"yes": "held", "no": "did not hold", "undecided": "undecided"}
"""How a verdict is told."""


def terminal_text(page: Page, data: Data) -> str:
    """The main table and the verdicts, ASCII alone."""
    lines = [
        textwrap.fill(ascii_text(page.lead), WIDTH),
        "",
        ascii_text(page.main.caption) + ":",
        plain_text(page.main, whole=True),
    ]
    if page.verdicts:
        lines += ["", "What did and did not hold:", *map(_verdict_line, page.verdicts)]
    phantoms = [source.name for source in data.sources if source.phantom]
    if phantoms:
        lines += ["", f"The scans of {', '.join(phantoms)} {PHANTOM_SENTENCE}"]
    return "\n".join(lines)


def markdown(page: Page, *, made: str) -> str:
    """The page as Markdown; a chart is told in words, pictures are counted.

    Args:
        page: what is told.
        made: Markdown of how the study was made.
    """
    parts = [f"# {page.title}", page.lead, *(f"> {notice}" for notice in page.notices)]
    if page.verdicts:
        rows = tuple((one.claim, HELD[one.held], one.evidence) for one in page.verdicts)
        table = Table("", ("claim", "here", "numbers"), rows, numeric=False)
        parts += ["## What did and did not hold", _markdown_table(table)]
    parts += ["## Result", _markdown_table(page.main)]
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join([*parts, "## How it was made", made]) + "\n"


def csv_files(page: Page) -> dict[str, str]:
    """Name -> content: `main.csv`, and `ANCHOR.csv`, `ANCHOR-2.csv` and so on for each section's tables."""
    files = {"main.csv": _csv(page.main)}
    for section in page.sections:
        for number, table in enumerate(section.tables, start=1):
            files[f"{section.anchor}{f'-{number}' if number > 1 else ''}.csv"] = _csv(table)
    return files


def columns_of(table: Table) -> list[str]:
    """Names of the columns, each with the heading above it, less what that has in brackets: `Dice NCR`."""
    above = [label.partition(" (")[0] for label, span in table.groups for _ in range(span)] or [""] * len(
        table.columns
    )
    return [f"{label} {name}".strip() for label, name in zip(above, table.columns, strict=True)]


def _verdict_line(verdict: Verdict) -> str:
    words = ascii_text(f"{HELD[verdict.held]:<13} {verdict.claim}: {verdict.evidence}")
    return textwrap.fill(words, WIDTH, initial_indent="  ", subsequent_indent=" " * 16)


def _section(section: Section) -> Iterator[str]:
    if not (section.paragraphs or section.tables or section.charts or section.shown):
        return
    yield f"## {section.heading}"
    yield from section.paragraphs
    yield from map(_markdown_table, section.tables)
    yield from (f"*{chart.words}*" for chart in section.charts if chart.svg)
    if section.shown:
        yield f"*{count_text(len(section.shown), 'picture')} in report.html.*"


def _markdown_table(table: Table) -> str:
    names = columns_of(table)
    others = "---:" if table.numeric else "---"
    lines = [_row(names), _row(["---", *[others] * (len(names) - 1)])]
    lines += [_row(row, strong=number in table.strong) for number, row in enumerate(table.rows)]
    lines += [_row(row) for row in table.footer]
    caption = [f"{table.caption}:", ""] if table.caption else []
    return "\n".join([*caption, *lines])


def _row(cells: tuple[str, ...] | list[str], *, strong: bool = False) -> str:
    safe = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(f'**{cell}**' if strong and cell else cell for cell in safe)} |"


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns_of(table), *table.rows, *table.footer):
        writer.writerow([ascii_text(cell).strip() for cell in row])
    return text.getvalue()
