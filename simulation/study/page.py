"""What a report of a study says, before it is HTML or Markdown.

Each kind of study turns its `Results` into a `Page`; `report` renders it. A page holds numbers that were
measured and the words for what they do and do not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from simulation.study.pictures import Picture
from simulation.study.results import Row
from simulation.study.spec import Data, Study
from simulation.tables import Table


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
    """A picture with its outlines.

    Attributes:
        title: which approach, site and rank; never the name of a case.
        structures: names of the codes from 1, in their order.
    """

    picture: Picture
    title: str
    structures: tuple[str, ...]


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
