"""What a report of a study says, before it is HTML or Markdown.

Each kind of study turns its `Results` into a `Page`; `report` renders it. A page holds numbers that were
measured and the words for what they do and do not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from server.card import PHANTOM_SENTENCE
from simulation.study.pictures import Picture
from simulation.study.results import Row
from simulation.study.spec import Data, Study
from simulation.tables import Table
from simulation.wording import names_text


@dataclass(frozen=True)
class Results:
    """Everything that a finished study left.

    Attributes:
        rows: of results.csv, in its order.
        facts: job -> what it told besides its rows.
        pictures: job -> its pictures, read when asked for.
    """

    study: Study
    data: Data
    rows: tuple[Row, ...]
    facts: Mapping[str, Mapping[str, Any]]
    pictures: Callable[[str], list[Picture]]


@dataclass(frozen=True)
class Chart:
    """A drawing, and the words that stand for it where it cannot be shown."""

    svg: Markup
    words: str


@dataclass(frozen=True)
class Shown:
    """A picture with its outlines: the scan, the expert's and the model's, side by side.

    Attributes:
        title: which approach, site and rank; never the name of a case.
        structures: names of the codes from 1, in their order.
        model: what to call the model under its panel.
        others: further models on the same slice of the same case, each with its name.
    """

    picture: Picture
    title: str
    structures: tuple[str, ...]
    model: str = "model"
    others: tuple[tuple[str, Picture], ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is not shown.

    Attributes:
        anchor: short name for links and for the CSV files of its tables.
        paragraphs: plain sentences.
        folded: whether the section is closed until the reader opens it.
    """

    heading: str
    anchor: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    shown: tuple[Shown, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Verdict:
    """A claim of the source, and whether it held here.

    Attributes:
        claim: the paper's, in words, or what the study's issue expects.
        held: `yes`, `no`, or `undecided` where the interval leaves it open.
        evidence: the numbers.
    """

    claim: str
    held: Literal["yes", "no", "undecided"]
    evidence: str


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        lead: the main finding in one or two sentences.
        notices: what to know before the numbers: phantoms, small samples, what is unknown of the paper.
        verdicts: what did and did not reproduce.
        main: the table that a terminal shows.
    """

    title: str
    lead: str
    notices: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    main: Table
    sections: tuple[Section, ...]


def notices_of(data: Data, *, shows_slices: bool) -> tuple[str, ...]:
    """What every reader must know of the scans: which are phantoms, which were degraded, which are patients'.

    Args:
        data: the cohorts.
        shows_slices: whether the page shows any slice.
    """
    phantoms = [source.name for source in data.sources if source.phantom]
    real = [source.name for source in data.sources if not source.phantom]
    notices = []
    if phantoms:
        notices.append(
            f"Phantom results show plumbing and direction, not clinical performance. The scans of "
            f"{names_text(phantoms)} {PHANTOM_SENTENCE}"
        )
    notices += [
        f"The scans of {source.name} were degraded on purpose, to look like those of a scanner of profile "
        f"{source.degrade}. That is no result on scans of such a scanner: their contrast stays that of the "
        "original."
        for source in data.sources
        if source.degrade
    ]
    if real and shows_slices:
        notices.append(
            f"This page shows slices of the scans of {names_text(real)}. Treat it as you treat the scans."
        )
    return tuple(notices)
