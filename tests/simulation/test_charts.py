"""Charts of studies: where marks lie, what is drawn of gaps and missing intervals, words that stay words."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation import charts
from simulation.axes import LEFT, RIGHT, WIDTH, Frame, room, ticks
from simulation.charts import Band, Difference, Dots, Point


def band(name: str, *points: tuple[float, float]) -> Band:
    return Band(name, tuple(Point(x, y, y - 0.1, y + 0.1) for x, y in points))


@given(st.floats(-5, 5), st.floats(0.01, 9), st.floats(0, 1))
def test_a_frame_maps_its_limits_to_the_edges_of_the_plot(low: float, width: float, share: float) -> None:
    frame = Frame((low, low + width), (0, 1), 300)

    assert frame.at_x(low) == pytest.approx(LEFT)
    assert frame.at_x(low + width) == pytest.approx(WIDTH - RIGHT)
    assert LEFT - 1e-6 <= frame.at_x(low + share * width) <= WIDTH - RIGHT + 1e-6


def test_ticks_hold_both_limits_and_may_be_whole() -> None:
    assert ticks(0.1, 0.9, 5)[0] <= 0.1
    assert ticks(0.1, 0.9, 5)[-1] >= 0.9
    assert all(tick.is_integer() for tick in ticks(0, 2, 8, whole=True))


def test_long_names_get_more_room() -> None:
    assert room(["x" * 40], least=50) > room(["x" * 20], least=50) > room(["x"], least=50) == 50


class TestForest:
    ROWS = (
        Difference("ours", 0.1, (0.05, 0.15)),
        Difference("theirs", -0.2, None),
    )

    def drawn(self, margin: float | None = 0.02) -> str:
        groups = {"minus baseline": self.ROWS}
        return charts.forest_chart(groups, x_label="difference", summary="words", margin=margin)

    def test_a_mark_for_each_row_and_a_bar_where_there_is_an_interval(self) -> None:
        assert self.drawn().count('class="mark') == 2
        assert self.drawn().count('class="line') == 1

    def test_numbers_stand_beside_the_rows(self) -> None:
        assert "+0.100 [+0.050, +0.150]</text>" in self.drawn()
        assert "\N{MINUS SIGN}0.200</text>" in self.drawn()

    def test_the_interval_lies_about_the_mark_and_right_of_zero(self) -> None:
        zero = float(re.findall(r'class="mean" d="M([\d.]+)', self.drawn())[0])
        start, end = map(
            float, re.findall(r'class="line c0" d="M([\d.]+) [\d.]+v8m0 -4H([\d.]+)', self.drawn())[0]
        )

        assert zero < start < end
        assert (start - zero) / (end - zero) == pytest.approx(0.05 / 0.15, abs=0.01)

    def test_the_margin_is_drawn_where_there_is_one(self) -> None:
        assert self.drawn().count('class="margin"') == 1
        assert 'class="margin"' not in self.drawn(margin=None)

    def test_nothing_to_compare_draws_nothing(self) -> None:
        assert charts.forest_chart({"a": []}, x_label="x", summary="s") == ""

    def test_names_are_escaped(self) -> None:
        rows = {"<i>": [Difference("<b>", 0.1, None)]}

        assert "<b>" not in charts.forest_chart(rows, x_label="<u>", summary='"<s>')


class TestBands:
    def test_a_line_a_band_and_a_mark_at_each_point(self) -> None:
        drawn = charts.band_chart(
            [band("a", (1, 0.2), (2, 0.3)), band("b", (2, 0.5))], x_label="x", y_label="y", summary="s"
        )

        assert (drawn.count('class="band'), drawn.count('class="line')) == (2, 2)
        assert drawn.count('class="mark') == 3 + 2  # the points, and the names at the ends

    def test_one_repetition_has_no_band(self) -> None:
        line = Band("a", (Point(0, 0.1, 0.1, 0.1), Point(1, 0.2, 0.2, 0.2)))

        assert 'class="band' not in charts.band_chart([line], x_label="x", y_label="y", summary="s")

    def test_curves_without_points_are_left_out(self) -> None:
        empty = Band("nobody", ())

        assert charts.band_chart([empty], x_label="x", y_label="y", summary="s") == ""
        both = charts.band_chart([empty, band("a", (0, 1))], x_label="x", y_label="y", summary="s")
        assert "nobody" not in both

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
    def test_names_at_the_ends_neither_overlap_nor_leave_the_chart(self, ends: list[float]) -> None:
        bands = [band(f"name{number}", (0, 0.5), (1, end)) for number, end in enumerate(ends)]

        drawn = charts.band_chart(bands, x_label="x", y_label="y", summary="s", height=300)

        places = sorted(float(y) for y in re.findall(r'y="([\d.-]+)" class="">name', drawn))
        assert len(places) == len(ends)
        assert all(after - before >= 14.9 for before, after in pairwise(places))
        assert places[0] > 0
        assert places[-1] < 300


def test_dots_have_the_room_that_their_names_need() -> None:
    name = "a name that is rather long"

    drawn = charts.dot_chart(
        {"g": [Dots(name, (0.5,))]}, x_label="x", summary="s", left=charts.room_for([name])
    )

    (x,) = re.findall(rf'<text x="([\d.]+)" y="[\d.]+" class="end">{name}', drawn)
    assert float(x) > 6 * len(name)
