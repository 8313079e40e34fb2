"""The report of a study, from made-up numbers: what a browser, a terminal and a table reader get."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from simulation.slices import LINE_MM
from simulation.study.page import Shown
from simulation.study.pictures import Picture
from simulation.study.report import command, drawn, write_report
from simulation.study.run import opened
from tests.simulation.html_page import Page
from tests.simulation.study.finished import dice_of, finish


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two folds and six target patients, with its report."""
    out = tmp_path_factory.mktemp("studies") / "done"
    finish(out, folds=2, cases=6)
    write_report(out)
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "copy")


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as text:
        return list(csv.reader(text))


class TestPage:
    def test_asks_the_network_for_nothing(self, done: Path) -> None:
        page = page_of(done)

        links = [
            value or ""
            for _, attributes in page.tags
            for name, value in attributes.items()
            if name in {"src", "href", "xlink:href", "action", "data", "poster"}
        ]
        assert links
        assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
        assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
        assert "default-src 'none'" in str(page.all("meta"))

    def test_everything_is_named_for_those_who_do_not_see_it(self, done: Path) -> None:
        page = page_of(done)

        assert len(page.all("table")) == len(page.all("caption"))
        assert all(cell.get("scope") for cell in page.all("th"))
        assert all(image.get("aria-label") or image.get("aria-hidden") for image in page.all("svg"))

    def test_every_reference_inside_the_page_exists_once(self, done: Path) -> None:
        page = page_of(done)

        ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
        links = [str(tag["href"]) for name in ("use", "a") for tag in page.all(name)]
        assert len(ids) == len(set(ids))
        assert {link.removeprefix("#") for link in links} <= set(ids)

    def test_the_same_study_gives_the_same_page(self, copy: Path) -> None:
        first = (copy / "report.html").read_bytes()

        write_report(copy)

        assert (copy / "report.html").read_bytes() == first

    def test_neither_case_names_nor_folders_are_shown(self, done: Path) -> None:
        told = [done / "report.html", done / "report.md", *(done / "tables").glob("*.csv")]

        assert len(told) > 5
        for file in told:
            assert "secret" not in file.read_text()
            assert str(done.parent) not in file.read_text()

    def test_words_from_the_study_cannot_become_markup(self, tmp_path: Path) -> None:
        finish(tmp_path / "study", changes={"about": "<script>alert(1)</script>", "source": "<b>x</b>"})
        write_report(tmp_path / "study")

        page = page_of(tmp_path / "study")

        assert not {"script", "b"} & {tag for tag, _ in page.tags}
        assert "<script>" in page.words

    def test_best_and_worst_case_stand_beside_the_baseline(self, done: Path) -> None:
        page = page_of(done)

        assert len(page.all("image")) == 2  # one scan for each case, drawn once
        assert page.words.count("baseline (adult only)") > 2
        assert "Best target case (ssa) of DANN" in page.words


class TestOtherForms:
    def test_the_main_table_is_the_same_in_all_of_them(self, copy: Path) -> None:
        expected = np.mean([dice_of("dann", number)["NCR"] for number in range(6)])

        told = write_report(copy)

        (row,) = [row for row in rows_of(copy / "tables" / "main.csv") if row[0] == "DANN"]
        assert row[1] == f"{expected:.3f}"
        assert f"| DANN | {expected:.3f} |" in (copy / "report.md").read_text().replace("**", "")
        assert f"DANN                                   {expected:.3f}" in told.text
        assert f"<td>{expected:.3f}</td>" in (copy / "report.html").read_text()

    def test_tables_are_rectangles_of_plain_numbers(self, done: Path) -> None:
        for file in (done / "tables").glob("*.csv"):
            rows = rows_of(file)
            assert {len(row) for row in rows} == {len(rows[0])}, file.name
            assert file.read_text().isascii(), file.name
        assert float(rows_of(done / "tables" / "statistics.csv")[1][1]) > 0

    def test_a_table_that_is_no_longer_told_is_removed(self, copy: Path) -> None:
        (copy / "tables" / "older.csv").write_text("1\n")

        write_report(copy)

        assert not (copy / "tables" / "older.csv").exists()
        assert (copy / "tables" / "federated-2.csv").is_file()

    def test_a_terminal_gets_the_verdicts_and_that_these_are_phantoms(self, copy: Path) -> None:
        text = write_report(copy).text

        assert text.isascii()
        assert "What did and did not hold:" in text
        assert text.endswith("and nothing about patients.")
        assert "phantoms" in (copy / "report.md").read_text()


class TestCommand:
    def test_names_a_shipped_study_while_it_says_the_same(self, tmp_path: Path) -> None:
        shipped, changed = finish(tmp_path / "shipped"), finish(tmp_path / "changed", cases=11)

        assert command(shipped) == "fedglia study run ssa-transfer --preset smoke --seed 1 --out NEW_FOLDER"
        assert command(changed) == "fedglia study run STUDY_FILE --preset smoke --seed 1 --out NEW_FOLDER"

    def test_leaves_folders_of_scans_to_be_filled_in(self, copy: Path) -> None:
        folder = copy / "scans"
        folder.mkdir()
        identity = json.loads((copy / "study.json").read_text())
        identity["data"]["ssa"] = {"folder": str(folder), "phantom": None, "degrade": "ultra-low"}
        (copy / "study.json").write_text(json.dumps(identity))

        told = command(opened(copy))

        assert "--data ssa=FOLDER_OF_SSA --degrade ssa=ultra-low" in told


class TestRefusals:
    def test_a_folder_without_a_study(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no study"):
            write_report(tmp_path)

    def test_a_study_that_is_not_finished(self, copy: Path) -> None:
        (copy / "results.csv").unlink()

        with pytest.raises(InputError, match=r"the study is not finished; go on with .* --resume"):
            write_report(copy)

    def test_a_job_that_is_gone(self, copy: Path) -> None:
        (copy / "work" / "fold-1" / "dann" / "done.json").unlink()

        with pytest.raises(InputError, match="job fold-1/dann is not done"):
            write_report(copy)

    def test_a_damaged_table(self, copy: Path) -> None:
        (copy / "results.csv").write_text("study,site\n")

        with pytest.raises(InputError, match=r"results\.csv: needs the columns"):
            write_report(copy)


class TestDrawn:
    def test_a_small_crop_has_thinner_lines_and_a_panel_for_each_model(self) -> None:
        label = np.zeros((8, 10), dtype=np.uint8)
        label[2:5, 3:6] = 1
        crop = Picture("a", "b", label, label, 0 * label, (2.0, 1.0), 3)

        case = drawn(Shown(crop, "title", ("GTV",), model="ours", others=(("theirs", crop),)))

        assert (case.height_mm, case.width_mm) == (16.0, 10.0)
        assert case.line_mm < LINE_MM
        assert [panel.title for panel in case.panels] == ["expert", "ours", "theirs"]
        assert [panel.outlines["GTV"] != "" for panel in case.panels] == [True, False, False]
