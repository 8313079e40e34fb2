"""What the report of a site-transfer study says, from numbers that are known."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy import stats

from simulation.study.comparison import Comparison
from simulation.study.page import Page, Results, Section, Verdict
from simulation.study.report import gathered
from simulation.study.site_transfer.claims import PUBLISHED, published_table, verdicts
from simulation.study.site_transfer.contrasts import (
    compared,
    counterpart,
    declared,
    federated_rows,
    interval_of,
    p_text,
    parts_of,
)
from simulation.study.site_transfer.drawings import best_and_worst
from simulation.study.site_transfer.findings import page
from simulation.study.site_transfer.scores import Scores, scores_of
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.study.site_transfer.tally import separability_of, sites_table, spread_table
from simulation.study.spec import parse, read
from tests.simulation.study.finished import STRUCTURES, dice_of, finish


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Five folds, ten target patients, all approaches."""
    return gathered(finish(tmp_path_factory.mktemp("studies") / "five", folds=5, cases=10))


@pytest.fixture(scope="module")
def scores(results: Results) -> Scores:
    return scores_of(results)


@pytest.fixture(scope="module")
def told(results: Results) -> Page:
    return page(results)


def shipped() -> SiteTransfer:
    raw, origin = read("ssa-transfer")
    return parse(raw, SiteTransfer, preset="small", origin=origin)


def verdict(page: Page, words: str) -> Verdict:
    (found,) = [one for one in page.verdicts if words in one.claim]
    return found


def section(page: Page, anchor: str) -> Section:
    (found,) = [one for one in page.sections if one.anchor == anchor]
    return found


class TestScores:
    def test_a_target_patient_counts_once_and_a_source_case_with_the_mean_over_folds(
        self, scores: Scores
    ) -> None:
        expected = fmean(fmean(dice_of("dann", n)[name] for name in STRUCTURES) for n in range(10))

        assert scores.mean(("ssa",), "dann") == pytest.approx(expected, abs=1e-5)
        assert len(scores.at(("ssa",), "dann")) == 10
        assert len(scores.at(("adult",), "dann")) == 2  # two cases, each judged in five folds

    def test_cases_of_one_patient_are_averaged_first(self, scores: Scores) -> None:
        cases = sorted(scores.at(("ssa",), "dann"))[:3]
        shared = replace(scores, patient={**scores.patient, cases[1]: cases[0]})

        found = shared.by_patient({cases[0]: 0.2, cases[1]: 0.4, cases[2]: 0.9})

        assert found == {cases[0]: pytest.approx(0.3), cases[2]: 0.9}

    def test_without_the_cohorts_words_all_patients_that_are_not_judged_train(self, scores: Scores) -> None:
        assert {(size.train, size.test) for size in scores.sizes.values()} == {(8, 2)}

    def test_patients_and_sizes_are_what_the_cohorts_job_wrote_down(self, results: Results) -> None:
        twins = {f"secret-ssa-{number}": f"patient-{number // 2}" for number in range(10)}
        told = {"cohorts/ssa": {"patients": twins, "trained": [5, 6, 5, 6, 5]}}

        found = scores_of(replace(results, facts={**results.facts, **told}))

        assert [found.sizes[fold].train for fold in range(5)] == [5, 6, 5, 6, 5]
        assert len(found.by_patient(found.at(("ssa",), "baseline"))) == 5


class TestContrasts:
    def test_parts_and_counterparts_are_read_from_what_approaches_do(self) -> None:
        study = shipped()

        parts = parts_of(study)

        assert (parts.dann, parts.no_reversal) == ("dann", "dann-no-reversal")
        assert (parts.full, parts.frozen) == ("fine-tuning", "frozen-decoder")
        assert {name: counterpart(study, name) for name in federated_rows(study)} == {
            "local-only": None,
            "fedavg": None,
            "fedavg-local": None,
            "fedprox": None,
            "fed-frozen-decoder": "frozen-decoder",
            "fed-dann": "dann",
        }

    def test_every_contrast_is_declared_once_and_none_with_itself(self, scores: Scores) -> None:
        pairs = declared(scores)

        assert len(pairs) == len(set(pairs))
        assert all(one != other for one, other in pairs)
        assert {one for one, other in pairs if other == "baseline"} == set(scores.adapted)
        assert ("fed-dann", "dann") in pairs

    def test_the_published_test_is_the_plain_paired_t_on_fold_means(self, scores: Scores) -> None:
        one = compared(scores, [("dann", "combined")])["dann", "combined"]

        ours, theirs = (
            np.array([fmean(dice_of(name, n)[r] for r in STRUCTURES for n in (k, k + 5)) for k in range(5)])
            for name in ("dann", "combined")
        )
        expected = stats.ttest_rel(ours, theirs)
        assert one.as_published is not None
        assert one.as_published.t == pytest.approx(expected.statistic, rel=1e-2)
        assert one.corrected is not None
        assert one.corrected.p > one.as_published.p

    def test_holm_counts_the_whole_family(self, scores: Scores) -> None:
        alone = compared(scores, [("dann", "baseline")])["dann", "baseline"]
        family = compared(scores, declared(scores))["dann", "baseline"]

        assert alone.wilcoxon_holm == alone.wilcoxon.p
        assert family.wilcoxon_holm is not None
        assert family.wilcoxon_holm > family.wilcoxon.p

    @pytest.mark.parametrize(
        ("p", "words"), [(None, "\N{EN DASH}"), (0.0004, "<0.001"), (0.0005, "0.001"), (0.0506, "0.051")]
    )
    def test_p_in_words(self, p: float | None, words: str) -> None:
        assert p_text(p) == words


class TestVerdicts:
    def changed(self, results: Results, **levels: float) -> Page:
        """The page with other mean Dice of some approaches at the target, in every region and case."""
        rows = []
        for row in results.rows:
            level = levels.get(row.approach.replace("-", "_"))
            new = row.value if level is None or row.metric != "dice" or row.site != "ssa" else level
            rows.append(replace(row, value=new + 0.001 * (int(row.case[-1]) % 3)))
        return page(replace(results, rows=tuple(rows)))

    def test_all_adapted_approaches_far_above_the_baseline(self, told: Page) -> None:
        found = verdict(told, "above the baseline by at least 0.10")

        assert found.held == "yes"
        assert "frozen decoder +0.2" in found.evidence

    def test_one_that_gains_too_little_is_named(self, results: Results) -> None:
        found = verdict(self.changed(results, baseline=0.5, fedprox=0.55), "above the baseline")

        assert found.held == "no"
        assert found.evidence.startswith("less than that: FedProx +0.050")

    def test_a_collapsed_region_is_named(self, results: Results, told: Page) -> None:
        lost = self.changed(results, combined=0.01)

        assert verdict(told, "No region collapsed").held == "yes"
        assert verdict(lost, "No region collapsed").held == "no"
        assert "combined (NCR 0.011, ED 0.011, ET 0.011)" in verdict(lost, "No region collapsed").evidence

    def test_dann_best_is_held_denied_or_left_open_by_intervals(self, results: Results) -> None:
        others = dict.fromkeys(("combined", "fine_tuning", "frozen_decoder", "dann_no_reversal"), 0.6)
        claims = {
            level: verdict(self.changed(results, dann=level, **others), "best mean Dice").held
            for level in (0.5, 0.6, 0.7)
        }

        assert claims == {0.5: "no", 0.6: "undecided", 0.7: "yes"}

    def test_the_classifier_that_is_detached_is_none_of_the_papers_six(self, told: Page) -> None:
        assert "detached" not in verdict(told, "best mean Dice").evidence

    def test_less_is_better_for_distances_and_for_a_frozen_decoder(
        self, results: Results, told: Page
    ) -> None:
        # `finished` gives DANN 0.01 more Dice than combined, and so 0.2 mm less HD95, in every fold
        assert "-0.2 mm" in verdict(told, "smaller HD95").evidence.replace("\N{MINUS SIGN}", "-")
        assert verdict(told, "stays below fine-tuning").held == "yes"
        above = self.changed(results, frozen_decoder=0.9, fine_tuning=0.5)
        assert verdict(above, "stays below fine-tuning").held == "no"

    def test_federated_verdicts_go_by_the_margin_and_leave_training_alone_out(self, results: Results) -> None:
        others = {"combined": 0.7, "fedavg": 0.695, "fedprox": 0.6}

        found = self.changed(results, **others)

        assert verdict(found, "FedAvg is not inferior to combined").held == "yes"
        assert verdict(found, "FedProx is not inferior to combined").held == "no"
        assert not [one for one in found.verdicts if one.claim.startswith("Local only")]
        assert verdict(found, "Federated DANN is not inferior to DANN")

    def test_a_study_without_the_papers_approaches_makes_no_claim_about_them(self, results: Results) -> None:
        kept = ("baseline", "combined", "fedavg")
        rows = tuple(row for row in results.rows if row.approach in kept)

        found = page(replace(results, rows=rows))

        assert len(found.verdicts) == 3
        assert not [one for one in found.verdicts if "DANN" in one.claim]

    def test_an_interval_of_the_bootstrap_stands_in_where_there_is_one_fold(self, scores: Scores) -> None:
        single = replace(scores, fold=dict.fromkeys(scores.fold, 0))

        found: dict[tuple[str, str], Comparison] = compared(single, [("dann", "baseline")])
        one = found["dann", "baseline"]

        assert one.corrected is None
        assert one.bootstrap is not None
        assert interval_of(one) == one.bootstrap.interval
        assert verdicts(single, found, {})


class TestTables:
    def test_the_papers_averages_are_those_of_its_rows(self) -> None:
        for values in PUBLISHED.values():
            assert values[3] == pytest.approx(fmean(values[:3]), abs=0.0015)
            assert values[7] == pytest.approx(fmean(values[4:7]), abs=0.0015)
        assert len(published_table().rows) == 6

    def test_the_main_table_has_the_papers_form_and_marks_the_best(self, told: Page, scores: Scores) -> None:
        (best,) = told.main.strong

        assert told.main.columns == ("approach", *("NCR", "ED", "ET", "average") * 2)
        assert [row[0] for row in told.main.rows][:2] == ["baseline (adult only)", "combined"]
        assert told.main.rows[best][0] in ("DANN", "federated DANN")
        assert len(told.main.rows) == len(scores.labels) == 13

    def test_the_worst_site_is_named(self, scores: Scores) -> None:
        rows = {row[0]: row for row in sites_table(scores).rows}

        assert rows["combined"][-1].startswith("adult ")
        assert float(rows["combined"][-2]) == pytest.approx(
            fmean(float(cell) for cell in rows["combined"][1:4]), abs=0.001
        )

    def test_values_that_a_rule_gave_are_counted(self, scores: Scores) -> None:
        lost = dict(scores.values)
        cases = list(scores.at(("ssa",), "dann"))
        of = dict(lost["dann", "dice", "ET"]) | {cases[0]: 0.0, cases[1]: 0.0, cases[2]: 1.0}
        lost["dann", "dice", "ET"] = of

        (row,) = [row for row in spread_table(replace(scores, values=lost)).rows if row[0] == "DANN"]

        assert row[-1] == "2 / 1"
        assert row[-3:-1] == ("0 / 0", "0 / 0")

    def test_gaps_name_reference_and_counterpart(self, told: Page) -> None:
        gaps = section(told, "federated").tables[1]

        pairs = {row[:2] for row in gaps.rows}
        assert {
            ("federated DANN", "combined"),
            ("federated DANN", "DANN"),
            ("local only", "combined"),
        } <= pairs

    def test_statistics_say_that_the_published_test_is_invalid(self, told: Page) -> None:
        shown = section(told, "statistics")

        assert ("plain t: as published, invalid", 2) in shown.tables[0].groups
        assert len(shown.tables[0].rows) == 12  # every approach but the baseline
        assert f"all {sum(len(table.rows) for table in shown.tables)} declared" in shown.paragraphs[1]

    def test_separability_of_a_federated_run_is_its_global_models(self, results: Results) -> None:
        study = results.study
        assert isinstance(study, SiteTransfer)
        by_approach = {"separability": {"fedavg": {"auc": 0.6}, "fedavg-local": {"auc": 0.9}}}

        found = separability_of(study, {**results.facts, "fold-9/fedavg": by_approach})

        assert len(found["dann"]) == 5
        assert [one["auc"] for one in found["fedavg"]] == [0.8] * 5 + [0.6]
        assert [one["auc"] for one in found["fedavg-local"]] == [0.9]


class TestPage:
    def test_phantoms_few_patients_and_what_the_paper_leaves_open_are_said_first(self, told: Page) -> None:
        words = " ".join(told.notices)

        assert told.notices[0].startswith("Phantom results show plumbing and direction")
        assert "hardly trained" in words
        assert "10 target patients in 5 folds are few" in words
        assert "The paper does not say how many steps it trained" in words
        assert "not the paper's in this preset" in words

    def test_real_scans_are_not_called_phantoms_and_degraded_ones_are_named(self, results: Results) -> None:
        sources = tuple(replace(one, phantom=None, degrade="ssa-1.5T") for one in results.data.sources)

        words = " ".join(page(replace(results, data=replace(results.data, sources=sources))).notices)

        assert "Phantom" not in words
        assert "degraded on purpose" in words
        assert "Treat it as you treat the scans" in words

    def test_the_lead_names_best_approaches_and_their_differences(self, told: Page) -> None:
        assert "under baseline (adult only)" in told.lead
        assert "the centralised approach that did best here, DANN" in told.lead
        assert "The best federated one" in told.lead

    def test_what_jobs_did_not_tell_is_left_out(self, results: Results) -> None:
        nothing: dict[str, dict[str, Any]] = {name: {} for name in results.facts}

        bare = page(replace(results, facts=nothing, pictures=lambda job: []))

        assert section(bare, "separability").tables == ()
        assert [chart.svg for chart in section(bare, "learning").charts] == [""] * 4
        assert section(bare, "pictures").shown == ()
        assert not any("This page shows slices" in notice for notice in bare.notices)

    def test_an_approach_that_goes_on_begins_at_the_last_step_of_the_one_before(self, told: Page) -> None:
        svg = section(told, "learning").charts[0].svg
        study = shipped()
        assert study.approaches["fine-tuning"].start == "baseline"

        # smoke: the baseline has 24 steps, made-up points lie 4 and 8 steps after the start
        assert "baseline (adult only) at 8:" in svg
        assert "fine-tuning at 32:" in svg

    def test_best_and_worst_are_of_the_best_approach_that_has_pictures(
        self, results: Results, scores: Scores
    ) -> None:
        best, worst = best_and_worst(results, scores)

        values = scores.at(("ssa",), "dann")
        assert best.model == worst.model == "DANN"
        assert best.picture.case == max(values, key=lambda case: values[case]).split("/")[1]
        assert worst.picture.case == min(values, key=lambda case: values[case]).split("/")[1]
        ((name, other),) = best.others
        assert (name, other.case) == ("baseline (adult only)", best.picture.case)
        assert np.array_equal(other.truth, best.picture.truth)
