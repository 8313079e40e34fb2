"""The table of a study: one row for each case, approach, fold, seed, region and metric.

Times are not in it, so that the same study gives the same file byte for byte.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from common.errors import InputError
from common.files import write_atomic
from common.metrics import LesionScore, RegionScore

COLUMNS = ("study", "site", "case", "approach", "fold", "seed", "region", "metric", "value", "unit")
MEAN = "mean"
"""Region that stands for the mean over a task's structures."""

UNITS: Mapping[str, str] = {
    "dice": "1",
    "hd95": "mm",
    "assd": "mm",
    "masd": "mm",
    "nsd": "1",
    "lesion_dice": "1",
    "lesion_hd95": "mm",
}
"""Metric of a case -> its unit."""


@dataclass(frozen=True)
class Row:
    """One number; the fields are the columns after `study`.

    Attributes:
        site: cohort that the case is of.
        case: name within its cohort; `all` where a number belongs to no single case.
        fold: 0-based fold in which the case was tested; -1 where there are no folds.
        seed: of what was drawn at random.
    """

    site: str
    case: str
    approach: str
    fold: int
    seed: int
    region: str
    metric: str
    value: float
    unit: str


def write_csv(path: Path, study: str, rows: Iterable[Row]) -> None:
    """Write results.csv atomically, in the order of `rows`, with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        *words, value, unit = astuple(row)
        writer.writerow([study, *words, f"{value:.6g}", unit])
    write_atomic(path, text.getvalue().encode())


def read_csv(path: Path) -> tuple[str, list[Row]]:
    """The study's name and the rows of a results.csv.

    Raises:
        InputError: the file is missing, has other columns, or a value that is no number.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise InputError(f"{path.parent.name}: holds no {path.name}; run the study first") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise InputError(f"{path.name}: needs the columns {', '.join(COLUMNS)} and at least one row")
    try:
        rows = [
            Row(
                line["site"],
                line["case"],
                line["approach"],
                int(line["fold"]),
                int(line["seed"]),
                line["region"],
                line["metric"],
                float(line["value"]),
                line["unit"],
            )
            for line in lines
        ]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: holds a value that is no number ({error})") from None
    return lines[0]["study"], rows


def case_rows(
    regions: Mapping[str, RegionScore],
    lesions: Mapping[str, LesionScore],
    *,
    structures: Sequence[str],
    of: Row,
) -> list[Row]:
    """Rows of one judged case: every metric and region, and the mean over `structures` as region `mean`."""
    values = {
        "dice": {region: score.dice for region, score in regions.items()},
        "hd95": {region: score.hd95_mm for region, score in regions.items()},
        "assd": {region: score.assd_mm for region, score in regions.items()},
        "masd": {region: score.masd_mm for region, score in regions.items()},
        "nsd": {region: score.nsd for region, score in regions.items()},
        "lesion_dice": {region: score.dice for region, score in lesions.items()},
        "lesion_hd95": {region: score.hd95_mm for region, score in lesions.items()},
    }
    return metric_rows(values, structures=structures, of=of)


def metric_rows(
    values: Mapping[str, Mapping[str, float]], *, structures: Sequence[str], of: Row
) -> list[Row]:
    """Metric -> region -> value as rows that are `of` the same case, with the mean over `structures`.

    The mean is left out where a metric does not have all structures, or there is only one.
    """
    rows = []
    for metric, by_region in values.items():
        known = [by_region[name] for name in structures if name in by_region]
        means = {MEAN: sum(known) / len(known)} if len(known) == len(structures) > 1 else {}
        rows += [
            replace(of, region=region, metric=metric, value=value, unit=UNITS[metric])
            for region, value in {**by_region, **means}.items()
        ]
    return rows
