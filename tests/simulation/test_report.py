"""The report: sentences and tables by hand, pictures against nibabel, and the page as a browser gets it."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.site import create, open_site
from common.data.phantom.writer import write_cohort
from common.data.transforms import expert_label
from common.data.volume import Volume, write_volume
from common.errors import InputError
from common.plan import Plan, parse
from simulation import charts, findings, tables, wording
from simulation.overlays import gallery
from simulation.report import reproduce_command, site_table, write_report
from simulation.slices import outline, upright
from tests.simulation.html_page import Page

REGIONS = ("NCR", "ED", "ET", "TC", "WT")
STRUCTURES = REGIONS[:3]
Numbers = dict[str, Any]
Make = Callable[..., Path]


def scores(*cases: float, zero: tuple[str, ...] = (), rule: str = "measured") -> Numbers:
    """A model's scores in which each case has one Dice in all regions, and HD95 of 10 mm."""
    each: list[Numbers] = [
        {
            "dice": {region: 0.0 if region in zero else value for region in REGIONS},
            "hd95_mm": dict.fromkeys(REGIONS, 10.0),
            "rule": {region: rule if region in zero else "measured" for region in REGIONS},
        }
        for value in cases
    ]
    dice = {region: float(np.mean([case["dice"][region] for case in each])) for region in REGIONS}
    return {
        "cases": each,
        "dice": {**dice, "mean": float(np.mean([dice[name] for name in STRUCTURES]))},
        "hd95_mm": {**dict.fromkeys(REGIONS, 10.0), "mean": 10.0},
        "empty": {region: sum(case["rule"][region] != "measured" for case in each) for region in REGIONS},
    }


def site(kept: str | None = "adapted", **changes: object) -> Numbers:
    """A phantom site with one test case, every stage done."""
    numbers: Numbers = {
        "field_strength_t": 1.5,
        "cases": {"train": 1, "val": 1, "test": 1},
        "phantom": True,
        "degraded": None,
        "notes": [],
        "before": scores(0.1),
        "local_only": scores(0.5),
        "federated": scores(0.55),
        "adapted": scores(0.6),
        "kept": kept,
        "validation": {"federated": 0.52, "adapted": 0.58},
    }
    return {**numbers, **changes}


def account(outcome: str = "folded", reason: str | None = None) -> Numbers:
    folded = outcome == "folded"
    numbers: Numbers = {"outcome": outcome, "reason": reason, "bytes_down": 4000, "bytes_up": 4000 * folded}
    return {
        **numbers,
        "train_s": 1.5 if folded else None,
        **({"loss": 1.25, "validation_dice": 0.4} if folded else {}),
    }


def round_record(number: int, **accounts: Numbers) -> Numbers:
    folded = [name for name, numbers in accounts.items() if numbers["outcome"] == "folded"]
    return {
        "round": number,
        "sites": accounts,
        "folded": folded,
        "subset": len(folded) < len(accounts),
        "validation_dice": 0.4,
        "wall_s": 2.0,
        "overhead_s": 0.25,
    }


def a_summary(**sites: Numbers) -> Numbers:
    """A completed run of one round."""
    sites = sites or {"adult": site(), "ssa": site(kept="federated", local_only=scores(0.7))}
    return {
        "schema": 1,
        "plan": {"name": "sample", "sha256": "0" * 64},
        "status": "completed",
        "engine": "local",
        "phantom": True,
        "rounds": [round_record(1, **{name: account() for name in sites})],
        "subset_rounds": [],
        "validation": [0.4, 0.5],
        "sites": sites,
        "bytes": {"up": 8000, "down": 8000, "fp32_model": 4000},
        "seconds": {"total": 65.0, "training": 3.0, "evaluation": 1.0, "overhead": 0.25},
    }


def titles(summary: Numbers, **marked: frozenset[str] | None) -> list[str]:
    return [n.title for n in findings.notices(summary, [], marked=marked, shows_patients=False)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "ssa"
    return write_cohort(folder, site="ssa", cases=4, seed=5, spacing_mm=4.0)


@pytest.fixture
def plan() -> Plan:
    return parse(
        {"schema": 1, "name": "sample", "rounds": {"quorum": 1}, "sites": {"ssa": {}}}, origin="test"
    )


@pytest.fixture
def make_run(tmp_path: Path, cohort: Path, plan: Plan) -> Make:
    """A run directory of one site whose model says what the expert says."""

    def make(summary: Numbers | None = None, *, degrade: str | None = None) -> Path:
        run = tmp_path / "run"
        shutil.copytree(cohort, run / "cohorts" / "ssa")
        create(run / "sites" / "ssa", name="ssa", data=run / "cohorts" / "ssa", degrade=degrade)
        (run / "plan.toml").write_text(plan.as_toml())
        opened = open_site(run / "sites" / "ssa")
        (opened.folder / "predictions").mkdir()
        for case in opened.cohort.cases:
            label = expert_label(case, opened.cohort, STRUCTURES)
            write_volume(opened.folder / "predictions" / f"{case.name}.nii.gz", label)
        (run / "summary.json").write_text(json.dumps(summary or a_summary(ssa=site(degraded=degrade))))
        return run

    return make


def predictions_of(run: Path) -> list[Path]:
    return list((run / "sites" / "ssa" / "predictions").iterdir())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


class TestWording:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [(0, "0 B"), (999, "999 B"), (3_653_184, "3.65 MB"), (14_612_736, "14.6 MB"), (2e9, "2 GB")],
    )
    def test_bytes(self, value: float, expected: str) -> None:
        assert wording.bytes_text(value) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, wording.UNKNOWN),
            (0.0, "0 ms"),
            (0.2736, "274 ms"),
            (14.27, "14.3 s"),
            (125, "2 min 05 s"),
            (7260, "2 h 01 min"),
        ],
    )
    def test_seconds(self, value: float | None, expected: str) -> None:
        assert wording.seconds_text(value) == expected

    def test_a_difference_that_rounds_to_nothing_has_no_direction(self) -> None:
        shown = [wording.gain_text(value) for value in (0.0123, -0.0123, -0.0001, None)]

        assert shown == ["+0.012", "\N{MINUS SIGN}0.012", "±0.000", wording.UNKNOWN]

    def test_lists_of_names(self) -> None:
        assert [wording.names_text(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
            "",
            "a",
            "a and b",
            "a, b and c",
        ]


class TestGain:
    def test_is_kept_minus_local_only_with_mean_and_worst_site(self) -> None:
        # adult: adapted 0.6 - 0.5 = +0.1; ssa: federated 0.55 - 0.7 = -0.15; mean (0.1 - 0.15) / 2 = -0.025
        table = tables.gains_table(a_summary(), STRUCTURES)

        assert table is not None
        assert [row[4] for row in table.rows] == ["+0.100", "\N{MINUS SIGN}0.150"]
        assert [(row[0], row[4]) for row in table.footer] == [
            ("mean of sites", "\N{MINUS SIGN}0.025"),
            ("worst site: ssa", "\N{MINUS SIGN}0.150"),
        ]

    def test_is_paired_by_case(self) -> None:
        kept = site(adapted=scores(0.5, 0.9, 0.6), local_only=scores(0.6, 0.6, 0.6))

        table = tables.gains_table(a_summary(ssa=kept), STRUCTURES)

        assert table is not None
        assert table.rows[0][5:7] == ("\N{MINUS SIGN}0.100 to +0.300", "1 of 3")

    def test_needs_both_models(self) -> None:
        unfinished = site(kept=None, local_only=None)

        assert tables.gains_table(a_summary(ssa=unfinished), STRUCTURES) is None
        assert "cannot be said yet" in findings.headline(a_summary(ssa=unfinished))


class TestSiteTable:
    def test_names_every_number_for_a_terminal(self) -> None:
        lines = site_table(a_summary()).splitlines()

        assert (
            " ".join(lines[1].split())
            == "site field train/val/test before local only federated adapted kept gain HD95, mm"
        )
        assert " ".join(lines[3].split()) == "adult 1.5 T 1/1/1 0.100 0.500 0.550 0.600 adapted +0.100 10.0"
        assert " ".join(lines[4].split()) == "ssa 1.5 T 1/1/1 0.100 0.700 0.550 0.600 federated -0.150 10.0"
        assert "clinical" in lines[-1]

    def test_is_ascii(self) -> None:
        assert site_table(a_summary()).isascii()

    def test_shows_what_is_known_of_an_unfinished_run(self) -> None:
        bare: Numbers = {
            "field_strength_t": None,
            "cases": None,
            "phantom": False,
            "degraded": None,
            "notes": [],
        }

        assert "ssa   not declared               -" in site_table(a_summary(ssa=bare))


class TestFindings:
    def test_a_phantom_result_says_so(self) -> None:
        assert titles(a_summary())[0].startswith("Phantom result: it says nothing about clinical performance")

    def test_real_scans_are_not_called_phantoms(self) -> None:
        assert not any("hantom" in title for title in titles(a_summary(ssa=site(phantom=False))))

    def test_a_degraded_site_is_named_with_its_profile(self) -> None:
        found = findings.notices(
            a_summary(ssa=site(degraded="ssa-1.5T")), [], marked={}, shows_patients=False
        )

        assert any("scans of ssa" in notice.title and "ssa-1.5T" in notice.text for notice in found)

    def test_a_region_of_dice_0_in_every_case_is_a_fault(self) -> None:
        collapsed = a_summary(ssa=site(adapted=scores(0.6, 0.7, zero=("ET",))))

        found = findings.notices(collapsed, [], marked={"ssa": frozenset(REGIONS)}, shows_patients=False)

        assert (found[0].level, found[0].title) == ("fault", "ssa: regions with Dice 0 in every test case")
        assert found[0].text.startswith("ET: adapted. This is a fault of training")

    def test_a_region_that_no_case_has_is_no_fault_of_training(self) -> None:
        invented = a_summary(ssa=site(adapted=scores(0.6, zero=("ET",), rule="false")))

        assert "ssa: regions found where the expert marks none" in titles(
            invented, ssa=frozenset({"NCR", "ED"})
        )

    def test_a_region_of_dice_0_before_training_is_expected(self) -> None:
        assert not any("Dice 0" in title for title in titles(a_summary(ssa=site(before=scores(0.0)))))

    def test_missing_validation_cases_are_said_and_the_choice_explained(self) -> None:
        alone = site(
            kept="federated",
            cases={"train": 1, "val": 0, "test": 1},
            validation={"federated": None, "adapted": None},
        )

        assert "No validation case at ssa" in titles(a_summary(ssa=alone))
        assert "nothing could choose" in findings.kept_words(alone)

    def test_the_choice_is_explained_by_validation(self) -> None:
        assert "adapted (0.580) was higher than that of federated (0.520)" in findings.kept_words(site())

    def test_updates_that_were_not_folded_are_named_by_site_reason_and_round(self) -> None:
        summary = a_summary()
        summary["rounds"] = [
            round_record(1, adult=account(), ssa=account("refused", "norm")),
            round_record(2, adult=account(), ssa=account("refused", "norm")),
            round_record(3, adult=account("late", "deadline"), ssa=account()),
        ]

        found = findings.notices(summary, [], marked={}, shows_patients=False)

        texts = {notice.title: notice.text for notice in found}
        assert texts["ssa: 2 updates refused"].endswith("(norm). Rounds 1 and 2.")
        assert texts["adult: 1 update late"] == "Reason: no answer by the deadline (deadline). Round 3."
        assert texts["Round 3 is a subset round"] == "Folded: ssa. Without: adult."

    def test_a_site_that_missed_a_stage_is_named_until_it_answers(self) -> None:
        silent = {"time": 1.0, "event": "site silent", "stage": "adapted", "site": "ssa", "outcome": "late"}
        answered = {"time": 2.0, "event": "site answered", "stage": "adapted", "site": "ssa"}

        def told(*events: Numbers) -> list[str]:
            return [n.title for n in findings.notices(a_summary(), events, marked={}, shows_patients=False)]

        assert "ssa: no numbers for adapted" in told(silent)
        assert "ssa: no numbers for adapted" not in told(silent, answered)

    def test_values_by_the_rule_for_empty_regions_are_counted(self) -> None:
        ruled = site(adapted=scores(0.6, 0.7, zero=("ET",), rule="missed"))

        table = tables.site_scores_table("ssa", ruled, STRUCTURES)

        assert findings.empty_words(ruled) == ["adapted: ET 2 of 2 cases"]
        assert table is not None
        assert table.rows[-1][1:7] == ("0.650", "0.650", "0.000 †", "0.433 †", "0.650", "0.650")


class TestPictures:
    @given(arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
    def test_an_outline_is_as_long_as_the_voxel_edges(self, mask: np.ndarray) -> None:
        path = outline(mask, spacing_mm=(2.0, 3.0), inset_mm=0.5)

        padded = np.pad(mask, 1).astype(int)
        expected = np.abs(np.diff(padded, axis=0)).sum() * 3.0 + np.abs(np.diff(padded, axis=1)).sum() * 2.0
        pieces = re.findall(r"M([\d.]+) ([\d.]+)([HV])([\d.]+)", path)
        length = sum(float(to) - float(x if way == "H" else y) for x, y, way, to in pieces)
        assert length == pytest.approx(expected)

    def test_one_voxel(self) -> None:
        # The voxel in row 1, column 1 spans x 3..6 mm and y 2..4 mm; lines lie 0.5 mm inside.
        mask = np.zeros((3, 3), dtype=bool)
        mask[1, 1] = True

        assert outline(mask, spacing_mm=(2.0, 3.0), inset_mm=0.5) == (
            "M3 2.5H6" + "M3 3.5H6" + "M3.5 2V4" + "M5.5 2V4"
        )

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    @pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
    def test_right_is_left_and_the_front_up_whatever_the_files_axes(
        self, order: tuple[int, ...], signs: tuple[int, ...]
    ) -> None:
        affine = np.zeros((4, 4))
        affine[order, range(3)] = np.array(signs) * (1.0, 2.0, 3.0)
        affine[3, 3] = 1
        array = np.arange(24).reshape(2, 3, 4)

        shown, spacing_mm = upright(Volume(array, affine))

        ras = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine))
        right, front, lowest = ras.shape[0] - 1, ras.shape[1] - 1, 0
        assert shown[0, 0, 0] == ras.get_fdata()[right, front, lowest]
        assert shown.shape == (ras.shape[1], ras.shape[0], ras.shape[2])
        x_mm, y_mm, z_mm = ras.header.get_zooms()
        assert spacing_mm == pytest.approx((y_mm, x_mm, z_mm))

    def test_expert_and_an_equal_model_have_equal_outlines_and_volumes(
        self, make_run: Make, plan: Plan
    ) -> None:
        run = make_run()

        found = gallery(run / "sites" / "ssa", plan, scores(1.0))

        (overlay,) = found.overlays
        assert (found.missing, overlay.number, overlay.rank) == ((), 1, "")
        assert overlay.expert == overlay.model
        assert any(overlay.expert.values())
        assert all(row.expert_ml == row.model_ml for row in overlay.rows)
        assert found.marked is not None
        assert "WT" in found.marked

    @pytest.mark.parametrize(
        ("share", "dice", "expected"),
        [
            (0.3, (0.4,), [(1, "")]),
            (0.5, (0.4, 0.8), [(2, "best"), (1, "worst")]),
            (0.75, (0.6, 0.4, 0.8), [(3, "best"), (1, "median"), (2, "worst")]),
        ],
    )
    def test_best_median_and_worst_are_shown(
        self,
        make_run: Make,
        plan: Plan,
        *,
        share: float,
        dice: tuple[float, ...],
        expected: list[tuple[int, str]],
    ) -> None:
        wide = plan.override({"evaluation.test_share": share, "evaluation.val_share": 0.1})

        found = gallery(make_run() / "sites" / "ssa", wide, scores(*dice))

        assert [(overlay.number, overlay.rank) for overlay in found.overlays] == expected
        assert found.missing == ()

    def test_a_degraded_site_shows_the_degraded_scan(self, make_run: Make, plan: Plan) -> None:
        run = make_run()
        plain = gallery(run / "sites" / "ssa", plan, scores(1.0)).overlays[0]
        create(run / "sites" / "ssa", name="ssa", data=run / "cohorts" / "ssa", degrade="ultra-low")

        degraded = gallery(run / "sites" / "ssa", plan, scores(1.0)).overlays[0]

        assert degraded.scan_words == "T2-FLAIR, degraded to ultra-low"
        assert degraded.scan_png != plain.scan_png

    def test_another_modality_where_flair_was_not_acquired(self, make_run: Make, plan: Plan) -> None:
        run = make_run()
        for scan in (run / "cohorts" / "ssa").glob("*/*-t2f.nii.gz"):
            scan.unlink()

        assert gallery(run / "sites" / "ssa", plan, scores(1.0)).overlays[0].scan_words == "T2"

    def test_a_prediction_that_is_gone_is_said_in_its_place(self, make_run: Make) -> None:
        run = make_run()
        for prediction in predictions_of(run):
            prediction.unlink()

        page = page_of(run)

        assert "No picture of test case 1" in page.words
        assert str(run) not in page.words

    def test_a_prediction_on_another_grid_is_said_in_its_place(self, make_run: Make) -> None:
        run = make_run()
        for prediction in predictions_of(run):
            write_volume(prediction, Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)))

        assert "different grids" in page_of(run).words

    def test_scans_that_changed_are_said(self, make_run: Make, plan: Plan) -> None:
        run = make_run()

        found = gallery(run / "sites" / "ssa", plan, scores(0.4, 0.8, 0.9))

        assert found.missing == ("No pictures: the folder of scans holds other cases than during the run",)

    def test_a_deployed_run_has_no_scans(self, make_run: Make) -> None:
        run = make_run()
        shutil.rmtree(run / "sites")

        assert "they stay at the site" in page_of(run).words


class TestCharts:
    def test_a_gap_breaks_the_line(self) -> None:
        line = charts.Series("a", (0.1, None, 0.3, 0.4))

        drawn = charts.line_chart([line], first_x=0, x_label="x", y_label="y", summary="s")

        (path,) = re.findall(r'class="line c0" d="([^"]+)"', drawn)
        assert (path.count("M"), path.count("L")) == (2, 1)

    def test_nothing_known_draws_nothing(self) -> None:
        line = charts.Series("a", (None, None))

        assert charts.line_chart([line], first_x=0, x_label="x", y_label="y", summary="s") == ""

    def test_a_mark_for_every_case_and_a_bar_where_there_are_several(self) -> None:
        rows = {"ssa": [charts.Dots("before", (0.2, 0.4)), charts.Dots("adapted", (0.9,))]}

        drawn = charts.dot_chart(rows, x_label="Dice", summary="s")

        assert (drawn.count('class="mark'), drawn.count('class="mean"')) == (3, 1)

    def test_names_are_escaped(self) -> None:
        line = charts.Series("<b>", (0.1, 0.2))

        assert "<b>" not in charts.line_chart([line], first_x=0, x_label="<b>", y_label="y", summary='"<b>')


class TestPage:
    def test_asks_the_network_for_nothing(self, make_run: Make) -> None:
        page = page_of(make_run())

        links = [
            value or ""
            for _, attributes in page.tags
            for name, value in attributes.items()
            if name in {"src", "href", "xlink:href", "action", "data", "poster"}
        ]
        assert links
        assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
        assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
        assert "url(" not in page.words
        assert "@import" not in page.words
        assert "default-src 'none'" in str(page.all("meta"))

    def test_tables_have_captions_and_headers_and_pictures_have_words(self, make_run: Make) -> None:
        page = page_of(make_run())

        assert len(page.all("table")) == len(page.all("caption"))
        assert all(cell.get("scope") for cell in page.all("th"))
        assert all(image.get("aria-label") or image.get("aria-hidden") for image in page.all("svg"))

    def test_every_reference_inside_the_page_exists_once(self, make_run: Make) -> None:
        page = page_of(make_run())

        ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert {str(use["href"]).removeprefix("#") for use in page.all("use")} <= set(ids)

    def test_the_same_run_gives_the_same_page(self, make_run: Make) -> None:
        run = make_run()

        assert write_report(run).read_bytes() == write_report(run).read_bytes()

    def test_neither_case_names_nor_folders_are_shown(self, make_run: Make) -> None:
        run = make_run()

        text = write_report(run).read_text()

        assert "BraTS-SSA" not in text
        assert str(run.parent) not in text

    def test_words_from_outside_cannot_become_markup(self, make_run: Make, plan: Plan) -> None:
        summary = a_summary(ssa=site(notes=["<script>alert(1)</script>"]))
        summary["status"] = "failed"
        run = make_run(summary)
        failed = {"time": 1.0, "event": "run failed", "detail": "<img src=x onerror=alert(1)>"}
        (run / "events.jsonl").write_text(json.dumps(failed) + "\n")
        (run / "plan.toml").write_text(plan.override({"about": "<b>bold</b>"}).as_toml())

        page = page_of(run)

        assert not {"script", "b", "img"} & {tag for tag, _ in page.tags}
        assert "<img src=x" in page.words

    def test_real_scans_make_the_page_as_private_as_they_are(self, make_run: Make) -> None:
        assert (
            "Treat it as you treat the scans" in page_of(make_run(a_summary(ssa=site(phantom=False)))).words
        )

    @pytest.mark.parametrize("status", ["failed", "stopped", "running"])
    def test_a_run_that_did_not_end_shows_what_is_known(self, make_run: Make, status: str) -> None:
        bare: Numbers = {
            "field_strength_t": None,
            "cases": None,
            "phantom": False,
            "degraded": None,
            "notes": [],
        }
        summary = a_summary(ssa=bare)
        summary.update(status=status, rounds=[], validation=[None])
        run = make_run(summary)
        (run / "events.jsonl").write_text(
            '{"time": 1.0, "event": "run failed", "detail": "no quorum"}\n{"time'
        )

        page = page_of(run)

        assert "0 of 8 closed" in page.words
        assert "what is known so far" in page.words
        assert ("no quorum" in page.words) == (status == "failed")

    def test_a_site_without_the_last_stages(self, make_run: Make) -> None:
        partial = {
            key: value for key, value in site().items() if key not in {"adapted", "kept", "validation"}
        }

        page = page_of(make_run(a_summary(ssa=partial)))

        assert "No model has been kept yet" in page.words
        assert "No pictures yet" in page.words

    def test_a_subset_round_with_an_absent_site(self, make_run: Make) -> None:
        summary = a_summary(ssa=site(), other=site())
        summary["rounds"] = [
            round_record(1, ssa=account()),
            round_record(2, ssa=account(), other=account("lost", "flower-1")),
        ]
        summary["rounds"][0]["subset"] = True
        summary["subset_rounds"] = [1, 2]

        page = page_of(make_run(summary))

        assert "Round 1 is a subset round" in page.words
        assert "other: 1 update lost" in page.words


class TestReproduction:
    def test_names_sites_degradations_start_and_engine(self, plan: Plan) -> None:
        given = plan.override({"model.start": "sha256:" + "a" * 64})
        summary = a_summary(ssa=site(phantom=False, degraded="ssa-1.5T"))
        summary["engine"] = "flower"

        assert reproduce_command(summary, given) == (
            "fedglia simulate plan.toml --out NEW_RUN --site ssa=FOLDER_OF_SSA --degrade ssa=ssa-1.5T "
            "--start MODEL_FILE --engine flower"
        )

    def test_phantoms_need_no_folders(self, plan: Plan) -> None:
        assert reproduce_command(a_summary(), plan) == "fedglia simulate plan.toml --out NEW_RUN"


class TestRefusals:
    def test_no_summary(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no summary\.json"):
            write_report(tmp_path)

    def test_a_damaged_summary(self, tmp_path: Path) -> None:
        (tmp_path / "summary.json").write_text('{"schema": 1')

        with pytest.raises(InputError, match="is damaged"):
            write_report(tmp_path)

    def test_a_summary_of_another_schema(self, tmp_path: Path) -> None:
        (tmp_path / "summary.json").write_text(json.dumps({**copy.deepcopy(a_summary()), "schema": 2}))

        with pytest.raises(InputError, match="of schema 2"):
            write_report(tmp_path)
