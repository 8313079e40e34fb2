"""What the report of a bundle-shift study says."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import cast

from simulation.study.bundle_shift.claims import undecidable, verdicts
from simulation.study.bundle_shift.cohorts import bundles_of
from simulation.study.bundle_shift.drawings import (
    best_and_worst,
    curve_charts,
    displacement_chart,
    parts_chart,
)
from simulation.study.bundle_shift.pieces import source_is_phantom
from simulation.study.bundle_shift.settings import AT_HOME, HEALTHY, PATIENTS, TUNED, BundleShift
from simulation.study.bundle_shift.shift import Scores, drop_of_groups, near_and_far, scores_of
from simulation.study.bundle_shift.tally import (
    ALL,
    MODALITY_NAMES,
    bundles_table,
    cells_table,
    effects_table,
    estimate_text,
    main_table,
    recovery_table,
    residual_table,
)
from simulation.study.page import Page, Results, Section, Shown, notices_of
from simulation.study.resampling import bootstrap_mean
from simulation.tables import Table
from simulation.wording import UNKNOWN, count_text, dice_text

FEW_PATIENTS = 30
"""Below this, a mean moves by hundredths of Dice from one draw of patients to the next."""


def page(results: Results) -> Page:
    """The page of a finished bundle-shift study."""
    study = cast(BundleShift, results.study)
    scores = scores_of(
        results.rows,
        modalities=study.modalities,
        bundles=bundles_of(study, results.data),
        seed=study.seed,
    )
    shown = best_and_worst(results, scores, study)
    if source_is_phantom(results.data):
        told = verdicts(scores)
        main, sections = main_table(scores), _with_twins(results, study, scores, shown)
    else:
        home, ill = _groups(scores, HEALTHY)
        told = undecidable(drop_of_groups(home, ill, seed=study.seed))
        main, sections = _groups_table(scores), _without_twins(results, study, scores, shown)
    return Page(
        title=f"Bundles on healthy subjects and patients: study {study.name}",
        lead=" ".join(_lead_words(verdict.claim, verdict.held) for verdict in told),
        notices=(*notices_of(results.data, shows_slices=bool(shown)), *_cautions(results, study, scores)),
        verdicts=told,
        main=main,
        sections=tuple(sections),
    )


def _lead_words(claim: str, held: str) -> str:
    return {
        "yes": f"{claim} This held.",
        "no": f"{claim} This did not hold.",
        "undecided": f"{claim} This stayed open.",
    }[held]


def _cautions(results: Results, study: BundleShift, scores: Scores) -> Iterator[str]:
    yield (
        "The paper's own bundles, input modalities, network, numbers of people and measures of shift are not "
        "public and unknown to us: nothing here can be compared with its values. Bundles, modalities and "
        "measures are our choices, made after its question."
    )
    if study.preset == "smoke":
        yield "This preset only shows that the study runs: its models are hardly trained."
    patients = len(scores.mean(HEALTHY, PATIENTS))
    if patients < FEW_PATIENTS:
        yield (
            f"{count_text(patients, 'patient')} are few. Intervals draw patients anew; they do not know that "
            "one healthy model a modality was trained, and that fine-tuned models of different folds share "
            "patients. Another seed would give other numbers."
        )
    if source_is_phantom(results.data):
        yield (
            "The bundles are synthetic tubes on both sides of the head. The truth is the displaced tube, "
            "less the tumour's core; oedema leaves it in place and lowers anisotropy. FA-like and peak-like "
            "maps are drawn from tissue fractions; they are no simulation of diffusion, and undistorted."
        )
    else:
        yield (
            "Real patients have no tumour-free twin, so only the total drop is reported, and, where a lesion "
            "mask exists, bundles near the lesion against those far from it."
        )


def _with_twins(
    results: Results, study: BundleShift, scores: Scores, shown: tuple[Shown, ...]
) -> Iterator[Section]:
    yield Section(
        "The drop and its parts",
        "parts",
        (
            "Home is a patient's own head without the tumour, at the source protocol. The systematic part is "
            "what the clinical protocol alone costs, the tumour's what the tumour alone costs; the "
            "interaction is what both together cost beyond that. Positive is lost.",
        ),
        charts=(parts_chart(scores),),
    )
    yield Section("Every bundle and modality", "bundles", tables=(bundles_table(scores),))
    yield Section(
        "What fine-tuning recovers",
        "recovery",
        (
            "A fine-tuned model is made for the clinical protocol and judged there: home stays the healthy "
            "model's at the source protocol, and the tumour's part is twin minus patient at the clinical "
            "protocol. A share is stated only where the interval of what was lost before lies above 0.",
            "What thick slices and noise take from the images no training brings back, so a low share of the "
            "systematic part does not say that fine-tuning failed: it may have recovered all that is there.",
        ),
        tables=(recovery_table(scores), cells_table(scores)),
    )
    yield Section(
        "What is left, against displacement",
        "displacement",
        (
            "Over several bundles, error and displacement are taken about each bundle's own mean. "
            "Displacement, interruption and oedema come together: a correlation with one of them is no proof "
            "that it is the cause.",
        ),
        tables=(residual_table(scores), effects_table(scores)),
        charts=(displacement_chart(scores),),
    )
    yield from _ending(results, study, shown)


def _without_twins(
    results: Results, study: BundleShift, scores: Scores, shown: tuple[Shown, ...]
) -> Iterator[Section]:
    yield Section("Every bundle and modality", "bundles", tables=(_groups_table(scores, by_bundle=True),))
    yield Section(
        "Near the lesion and far from it",
        "distance",
        (
            f"A bundle is far where each of its voxels is more than {study.near_mm:g} mm from the lesion. A "
            "drop is against the healthy subjects' mean of the same bundle. What far bundles lose stands for "
            "the systematic part, and what near ones lose beyond that for the tumour's.",
        ),
        tables=tuple(_distance_table(scores, study)),
    )
    yield from _ending(results, study, shown)


def _ending(results: Results, study: BundleShift, shown: tuple[Shown, ...]) -> Iterator[Section]:
    yield Section(
        "Learning",
        "learning",
        ("Curves are of two test subjects, and chose nothing: the last model of each training is judged.",),
        charts=curve_charts(results, study),
    )
    yield Section("Best and worst patient", "pictures", shown=shown)


def _groups(
    scores: Scores, approach: str, *, modality: str | None = None, bundle: str | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Healthy subjects under the healthy model, and patients under `approach`."""
    return (
        scores.mean(HEALTHY, AT_HOME, modality=modality, bundle=bundle),
        scores.mean(approach, PATIENTS, modality=modality, bundle=bundle),
    )


def _groups_table(scores: Scores, *, by_bundle: bool = False) -> Table:
    rows = []
    for modality in (*scores.modalities, *(() if by_bundle else (None,))):
        for bundle in scores.bundles if by_bundle else (None,):
            name = ALL if modality is None else MODALITY_NAMES[modality]
            home, before = _groups(scores, HEALTHY, modality=modality, bundle=bundle)
            after = _groups(scores, TUNED, modality=modality, bundle=bundle)[1]
            rows.append(
                (
                    f"{name}, {bundle}" if bundle else name,
                    *(dice_text(fmean(group.values())) for group in (home, before, after)),
                    *(
                        estimate_text(drop_of_groups(home, group, seed=scores.seed))
                        if min(len(home), len(group)) > 1
                        else UNKNOWN
                        for group in (before, after)
                    ),
                )
            )
    return Table(
        "Dice on healthy subjects and on patients, other people: the total drop",
        ("", "healthy", "patients", "patients, fine-tuned", "drop", "drop after fine-tuning"),
        tuple(rows),
    )


def _distance_table(scores: Scores, study: BundleShift) -> Iterator[Table]:
    rows = []
    home = {bundle: fmean(scores.mean(HEALTHY, AT_HOME, bundle=bundle).values()) for bundle in scores.bundles}
    for approach in (HEALTHY, TUNED):
        near, far = near_and_far(scores, approach, near_mm=study.near_mm, home=home)
        both = [near[patient] - far[patient] for patient in near if patient in far]
        if min(len(far), len(both)) > 1:
            estimates = (
                bootstrap_mean(list(values), seed=scores.seed)
                for values in (far.values(), near.values(), both)
            )
            rows.append((approach, str(len(both)), *map(estimate_text, estimates)))
    if rows:
        yield Table(
            "Drop of bundles far from the lesion and near it (Dice)",
            ("model", "patients with both", "far: systematic", "near", "near minus far: tumour"),
            tuple(rows),
        )
