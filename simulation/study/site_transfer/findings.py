"""What the report of a site-transfer study says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulation.study.page import Page, Results, Section, Shown, notices_of
from simulation.study.site_transfer.claims import Compared, lead, published_table, verdicts
from simulation.study.site_transfer.contrasts import (
    compared,
    declared,
    notes_of,
    parts_of,
    statistics_table,
)
from simulation.study.site_transfer.drawings import (
    best_and_worst,
    curve_charts,
    dots_chart,
    forest_chart,
)
from simulation.study.site_transfer.scores import Scores, scores_of
from simulation.study.site_transfer.tally import (
    gaps_table,
    lesion_table,
    main_table,
    separability_table,
    site_gaps_table,
    sites_table,
    spread_table,
)
from simulation.tables import Table
from simulation.wording import count_text

FEW_PATIENTS = 30
"""Below this, a mean moves by hundredths of Dice from one draw of patients to the next."""

PAPER_TASK = ("NCR", "ED", "ET")


def page(results: Results) -> Page:
    """The page of a finished site-transfer study."""
    scores = scores_of(results)
    pairs = declared(scores)
    dice = compared(scores, pairs)
    dann = parts_of(scores.study).dann
    hd95 = compared(scores, [pair for pair in pairs if pair[0] == dann], metric="hd95")
    shown = best_and_worst(results, scores)
    return Page(
        title=f"One task across sites: study {scores.study.name}",
        lead=lead(scores, dice),
        notices=(*notices_of(results.data, shows_slices=bool(shown)), *_cautions(results, scores)),
        verdicts=verdicts(scores, dice, hd95),
        main=main_table(scores),
        sections=tuple(_sections(results, scores, dice, shown)),
    )


def _cautions(results: Results, scores: Scores) -> Iterator[str]:
    """What weakens the numbers, and what of the paper is not known."""
    study = scores.study
    patients = len({scores.patient[case] for case in scores.fold})
    if study.preset == "smoke":
        yield "This preset only shows that the study runs: its models are hardly trained."
    if patients < FEW_PATIENTS or len(scores.sizes) < 5:
        yield (
            f"{count_text(patients, 'target patient')} in {count_text(len(scores.sizes), 'fold')} are few: "
            f"the corrected t has {count_text(max(len(scores.sizes) - 1, 0), 'degree')} of freedom and wide "
            "intervals; one that reaches beyond a Dice of 1 says nothing at all. One seed was trained; "
            "another would give other numbers."
        )
    if any(facts.get("domains") == "site" for facts in results.facts.values()):
        yield (
            "In federated alignment each site is a domain here: a cohort does not declare its field "
            "strength, or all have the same. The centralised approaches tell source from target."
        )
    if scores.structures == PAPER_TASK:
        yield (
            "The paper does not say how many steps it trained, where in the network its classifier sits, how "
            "lambda grows, how it sampled the two cohorts, and what HD95 counts for a structure that was "
            "wholly missed. Those are our choices here; a missed structure counts the image's diagonal."
        )
        if study.preset != "full":
            yield (
                "Network, learning rate, number of steps and resolution are not the paper's in this preset: "
                "values cannot be compared with its table, the order of approaches can at most."
            )


def _sections(
    results: Results, scores: Scores, dice: Compared, shown: tuple[Shown, ...]
) -> Iterator[Section]:
    study = scores.study
    if scores.structures == PAPER_TASK:
        yield Section(
            "The paper's own table",
            "published",
            ("Only to be held against results on real scans, and then against their order.",),
            (published_table(),),
            folded=True,
        )
    yield Section("Differences", "differences", charts=(forest_chart(scores, dice),))
    yield Section(
        "Every case",
        "cases",
        (
            "The rule of BraTS 2023 holds for what is empty: a structure that neither the expert nor the "
            "model marks has Dice 1 and 0 mm; one that only one of them marks has Dice 0 and the "
            "image's diagonal.",
        ),
        (spread_table(scores),),
        (dots_chart(scores),),
    )
    yield Section("Lesion by lesion", "lesions", tables=_known(lesion_table(scores)))
    yield _federated(scores, dice)
    yield _statistics(scores, dice)
    yield Section(
        "Can source and target be told apart?",
        "separability",
        (
            "Alignment should make this harder. The classifier that plays against the encoder during "
            "training is no measure of it: at 50 % it may simply have lost, and proves nothing. So a fresh "
            "classifier is trained on the finished encoder's features, which no longer change. An AUC up "
            "to the column of chance is what luck reaches with so few patients.",
        ),
        _known(separability_table(scores, results)),
    )
    yield Section(
        "Learning",
        "learning",
        (
            "Validation cases are the target's, and chose nothing but in local only: the last model of each "
            f"approach was judged. What goes on from {scores.labels.get(study.baseline, study.baseline)} "
            "begins at its last step.",
        ),
        charts=curve_charts(results, study, scores.labels),
    )
    yield Section("Best and worst case", "pictures", shown=shown)


def _federated(scores: Scores, dice: Compared) -> Section:
    return Section(
        "Site by site, and what federation costs",
        "federated",
        (
            "Federated approaches share folds, splits, steps and seed with the centralised ones; those that "
            "are fine-tuned locally make some steps more; local only keeps the better of before and after. "
            "Every site makes as many steps as a pooled model in all, so a federation computes more. "
            "A verdict goes by the corrected interval of the gap: non-inferior where all of it lies above "
            "minus the margin, inferior where all of it lies below. Beside the reference, a federated "
            "approach is held against the centralised one that trains and aligns the same parts; that one "
            "need not have seen the same sites.",
        ),
        _known(sites_table(scores), gaps_table(scores, dice), site_gaps_table(scores)),
    )


def _statistics(scores: Scores, dice: Compared) -> Section:
    study = scores.study
    to_baseline = [pair for pair in dice if pair[1] == study.baseline]
    to_reference = [pair for pair in dice if pair[1] == study.reference]
    others = [pair for pair in dice if pair not in (*to_baseline, *to_reference)]
    tables = [
        statistics_table(scores, dice, pairs, caption=caption, both=both)
        for pairs, caption, both in (
            (to_baseline, f"Against {scores.labels.get(study.baseline)}, mean Dice", False),
            (to_reference, f"Against {scores.labels.get(study.reference)}, mean Dice", False),
            (others, "Other declared contrasts, mean Dice", True),
        )
        if pairs
    ]
    return Section(
        "Statistics",
        "statistics",
        (
            "A difference is approach minus the other, on the same target patients. The paper's plain paired "
            "t takes folds as independent, which they are not, since they share training patients: its "
            "p-values are too small and stand here only because the paper has them. The corrected t of "
            "Nadeau and Bengio allows for that. Wilcoxon and the bootstrap go by patient, each tested once; "
            "they do not know that patients of one fold were judged by one model. d_z is the mean difference "
            "over the standard deviation of differences.",
            f"Holm's correction counts all {count_text(len(dice), 'declared contrast')} of these tables, "
            "which were fixed before any number was seen.",
            *notes_of(dice),
        ),
        tuple(tables),
    )


def _known(*tables: Table | None) -> tuple[Table, ...]:
    found: Sequence[Table] = [table for table in tables if table is not None]
    return tuple(found)
