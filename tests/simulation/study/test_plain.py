"""A page without pictures: names of columns, Markdown that stays a table, plain numbers as CSV."""

from __future__ import annotations

from markupsafe import Markup

from simulation.study.page import Chart, Page, Section, Verdict
from simulation.study.plain import columns_of, csv_files, markdown, terminal_text
from simulation.study.spec import Data
from simulation.tables import Table, plain_text

TABLE = Table(
    "A caption",
    ("approach", "NCR", "NCR"),
    (("a|b", "\N{MINUS SIGN}0.100", "12.0"), ("c", "\N{PLUS-MINUS SIGN}0.000", "\N{EN DASH}")),
    groups=(("", 1), ("Dice (more is better)", 1), ("HD95", 1)),
    strong=(1,),
    footer=(("mean", "0.1", "2"),),
)
PAGE = Page(
    title="T",
    lead="L",
    notices=("N",),
    verdicts=(Verdict("it holds", "yes", "p 0.1"), Verdict("it does not", "no", "p 0.9")),
    main=TABLE,
    sections=(
        Section("Empty", "empty"),
        Section("Two", "two", ("words",), (TABLE, TABLE), (Chart(Markup("<svg></svg>"), "a chart"),)),
    ),
)


def test_columns_carry_the_heading_above_them() -> None:
    assert columns_of(TABLE) == ["approach", "Dice NCR", "HD95 NCR"]


def test_csv_holds_numbers_that_a_program_reads() -> None:
    files = csv_files(PAGE)

    assert list(files) == ["main.csv", "two.csv", "two-2.csv"]
    assert files["main.csv"].splitlines() == [
        "approach,Dice NCR,HD95 NCR",
        "a|b,-0.100,12.0",
        "c,0.000,-",
        "mean,0.1,2",
    ]


def test_markdown_keeps_cells_in_their_columns_and_leaves_out_empty_sections() -> None:
    lines = markdown(PAGE, made="made so").splitlines()

    assert "| a\\|b | \N{MINUS SIGN}0.100 | 12.0 |" in lines
    assert "| **c** | **\N{PLUS-MINUS SIGN}0.000** | **\N{EN DASH}** |" in lines
    assert "| it does not | did not hold | p 0.9 |" in lines
    assert "*a chart*" in lines
    assert "## Empty" not in lines
    assert lines[-1] == "made so"


def test_a_terminal_gets_headings_verdicts_and_closing_rows() -> None:
    lines = terminal_text(PAGE, Data(())).splitlines()

    assert lines[3].split() == ["Dice", "HD95"]
    assert "mean         0.1     2" in lines
    assert lines[-2].split() == ["held", "it", "holds:", "p", "0.1"]
    assert lines[-1].split()[:3] == ["did", "not", "hold"]


def test_headings_stand_over_the_columns_that_they_span() -> None:
    table = Table("", ("x", "aa", "bb", "cc"), (("r", "1", "2", "3"),), groups=(("", 1), ("G", 2), ("H", 1)))

    above, columns = plain_text(table, whole=True).splitlines()[:2]

    assert columns == "x  aa  bb  cc"
    assert above == "   --G---  H"
