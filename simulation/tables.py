"""The report's tables, made from summary.json, for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from simulation.wording import (
    UNKNOWN,
    ascii_text,
    bytes_text,
    count_text,
    dice_text,
    field_text,
    gain_text,
    mm_text,
    seconds_text,
)

Numbers = Mapping[str, Any]

MODELS: Mapping[str, str] = {
    "before": "before",
    "local_only": "local only",
    "federated": "federated",
    "adapted": "adapted",
}
"""Key in summary.json -> the word for it, in the order of the report."""


@dataclass(frozen=True)
class Table:
    """A table as a page shows it; the first cell of a row is its header.

    Attributes:
        groups: headings above `columns`, each with the number of columns that it spans; may be empty.
        strong: indices of rows that stand out (what was kept).
        footer: closing rows, such as means.
        numeric: whether all columns but the first hold numbers, which are set to the right.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    strong: tuple[int, ...] = ()
    footer: tuple[tuple[str, ...], ...] = ()
    numeric: bool = True


def mean_of(site: Numbers, model: str | None, metric: str = "dice") -> float | None:
    """A model's mean over structures and test cases at a site; None where it was not measured."""
    value = ((site.get(model or "") or {}).get(metric) or {}).get("mean")
    return None if value is None else float(value)


def gain_of(site: Numbers, metric: str = "dice") -> float | None:
    """What joining brought a site: its kept model's mean minus that of training alone."""
    kept, alone = mean_of(site, site.get("kept"), metric), mean_of(site, "local_only", metric)
    return None if kept is None or alone is None else kept - alone


def case_dice(scores: Numbers, structures: Sequence[str]) -> list[float]:
    """Mean Dice over structures of each test case."""
    return [fmean(case["dice"][name] for name in structures) for case in scores["cases"]]


def overview_table(summary: Numbers) -> Table:
    """One row a site: the four models' mean Dice, which one was kept, and the gain."""
    rows = []
    for name, site in summary["sites"].items():
        cases = site.get("cases") or {}
        rows.append(
            (
                name,
                field_text(site.get("field_strength_t")),
                "/".join(str(cases[part]) for part in ("train", "val", "test")) if cases else UNKNOWN,
                *(dice_text(mean_of(site, model)) for model in MODELS),
                MODELS.get(site.get("kept", ""), UNKNOWN),
                gain_text(gain_of(site)),
                mm_text(mean_of(site, site.get("kept"), "hd95_mm")),
            )
        )
    return Table(
        "Mean Dice over structures and test cases; gain (over local only) and HD95 are the kept model's",
        ("site", "field", "train/val/test", *MODELS.values(), "kept", "gain", "HD95, mm"),
        tuple(rows),
        groups=(("", 2), ("cases", 1), ("Dice (0 to 1, higher is better)", 4), ("kept model", 3)),
    )


def region_order(scores: Numbers, structures: Sequence[str]) -> list[str]:
    """Structures, their mean, then the regions put together from them."""
    others = [name for name in scores["dice"] if name not in (*structures, "mean")]
    return [*structures, "mean", *others]


def site_scores_table(name: str, site: Numbers, structures: Sequence[str]) -> Table | None:
    """Dice and HD95 by model and region at one site; None where no model was judged yet."""
    judged = {model: site[model] for model in MODELS if site.get(model)}
    if not judged:
        return None
    regions = region_order(next(iter(judged.values())), structures)
    rows = []
    for model, scores in judged.items():
        label = f"{MODELS[model]} (kept)" if model == site.get("kept") else MODELS[model]
        dice = [dice_text(scores["dice"][r]) + _mark(scores, r, structures) for r in regions]
        hd95 = [mm_text(scores["hd95_mm"][r]) + _mark(scores, r, structures) for r in regions]
        rows.append((label, *dice, *hd95))
    cases = int((site.get("cases") or {}).get("test") or len(next(iter(judged.values()))["cases"]))
    return Table(
        f"{name}: Dice and HD95 by model and region, mean over {count_text(cases, 'test case')}",
        ("model", *regions, *regions),
        tuple(rows),
        groups=(
            ("", 1),
            ("Dice (higher is better)", len(regions)),
            ("HD95, mm (lower is better)", len(regions)),
        ),
        strong=tuple(i for i, model in enumerate(judged) if model == site.get("kept")),
    )


def _mark(scores: Numbers, region: str, structures: Sequence[str]) -> str:
    empty = scores.get("empty", {})
    touched = any(empty.get(s) for s in structures) if region == "mean" else empty.get(region)
    return " †" if touched else ""


def gains_table(summary: Numbers, structures: Sequence[str]) -> Table | None:
    """The kept model against training alone, site by site, then their mean and the worst site."""
    gains = {name: gain for name, site in summary["sites"].items() if (gain := gain_of(site)) is not None}
    if not gains:
        return None
    rows = tuple(_gain_row(name, summary["sites"][name], structures) for name in gains)
    worst = min(gains, key=lambda name: gains[name])
    return Table(
        "Gain of the kept model over training alone, on each site's own test cases",
        (
            "site",
            "test cases",
            "local only",
            "kept",
            "gain",
            "range over cases",
            "cases better",
            "change, mm",
        ),
        rows,
        groups=(("", 2), ("Dice (higher is better)", 5), ("HD95 (less is better)", 1)),
        footer=(
            ("mean of sites", *[""] * 3, gain_text(fmean(gains.values())), *[""] * 3),
            (f"worst site: {worst}", *[""] * 3, gain_text(gains[worst]), *[""] * 3),
        ),
    )


def _gain_row(name: str, site: Numbers, structures: Sequence[str]) -> tuple[str, ...]:
    kept, alone = (case_dice(site[model], structures) for model in (site["kept"], "local_only"))
    # A hospital may send the means and not the cases.
    each = [ours - theirs for ours, theirs in zip(kept, alone, strict=True)] if kept and alone else []
    return (
        name,
        str(len(each) or (site.get("cases") or {}).get("test", UNKNOWN)),
        dice_text(mean_of(site, "local_only")),
        dice_text(mean_of(site, site["kept"])),
        gain_text(gain_of(site)),
        f"{gain_text(min(each))} to {gain_text(max(each))}" if len(each) > 1 else UNKNOWN,
        f"{sum(value > 0 for value in each)} of {len(each)}" if each else UNKNOWN,
        gain_text(gain_of(site, "hd95_mm"), digits=1),
    )


def rounds_table(summary: Numbers) -> Table:
    """One row a round: who was folded, validation, loss of each site, bytes and seconds."""
    sites = list(summary["sites"])
    rows = []
    for record in summary["rounds"]:
        accounts = record["sites"]
        rows.append(
            (
                str(record["round"]),
                "all" if not record["subset"] else f"subset: {', '.join(record['folded'])}",
                dice_text(record["validation_dice"]),
                *(_loss_or_outcome(accounts.get(site)) for site in sites),
                bytes_text(sum(account["bytes_down"] for account in accounts.values())),
                bytes_text(sum(account["bytes_up"] for account in accounts.values())),
                seconds_text(record["wall_s"]),
                seconds_text(record["overhead_s"]),
            )
        )
    return Table(
        "Round by round; validation Dice is that of the model that the round started from",
        ("round", "folded", "validation Dice", *sites, "down", "up", "wall", "hub's own"),
        tuple(rows),
        groups=(("", 3), ("training loss (no unit)", len(sites)), ("bytes", 2), ("time", 2)),
    )


def _loss_or_outcome(account: Numbers | None) -> str:
    if account is None:
        return "absent"
    loss = account.get("loss")
    return f"{loss:.3g}" if account["outcome"] == "folded" and loss is not None else str(account["outcome"])


def traffic_table(summary: Numbers) -> Table:
    """One row a site: updates by outcome, bytes in all and for a round, training seconds in the rounds."""
    rows = []
    for site in summary["sites"]:
        accounts = [record["sites"][site] for record in summary["rounds"] if site in record["sites"]]
        rows.append(_traffic_row(site, accounts))
    everything = [account for record in summary["rounds"] for account in record["sites"].values()]
    return Table(
        "What travelled in the rounds, and how long sites trained in them",
        ("site", "folded", "refused", "late", "lost", "down", "up", "down", "up", "training"),
        tuple(rows),
        groups=(("", 1), ("updates", 4), ("bytes in all", 2), ("bytes per round", 2), ("time", 1)),
        footer=(_traffic_row("all sites", everything, rounds=len(summary["rounds"])),),
    )


def _traffic_row(label: str, accounts: Sequence[Numbers], rounds: int | None = None) -> tuple[str, ...]:
    outcomes = [account["outcome"] for account in accounts]
    down, up = (sum(account[key] for account in accounts) for key in ("bytes_down", "bytes_up"))
    per = max(len(accounts) if rounds is None else rounds, 1)
    return (
        label,
        *(str(outcomes.count(outcome)) for outcome in ("folded", "refused", "late", "lost")),
        bytes_text(down),
        bytes_text(up),
        bytes_text(down / per),
        bytes_text(up / per),
        seconds_text(sum(account["train_s"] or 0.0 for account in accounts)),
    )


def seconds_table(summary: Numbers) -> Table:
    """Where the time went."""
    seconds, rounds = summary["seconds"], len(summary["rounds"])
    overhead = f"{seconds_text(seconds['overhead'] / rounds)} a round" if rounds else UNKNOWN
    return Table(
        "Where the time went",
        ("account", "time", "what it is"),
        (
            ("total", seconds_text(seconds["total"]), "on the clock, in rounds and final stages"),
            ("training", seconds_text(seconds["training"]), "summed over sites, which work side by side"),
            (
                "evaluation",
                seconds_text(seconds["evaluation"]),
                "and preparation, summed over sites, in the final stages",
            ),
            (
                "overhead",
                seconds_text(seconds["overhead"]),
                f"the hub's own in rounds, no site at work: {overhead}",
            ),
        ),
        numeric=False,
    )


def plain_text(table: Table, *, whole: bool = False) -> str:
    """A table for a terminal: aligned columns, ASCII alone.

    Args:
        table: its cells.
        whole: whether the headings above the columns and the closing rows are shown too.
    """
    footer = table.footer if whole else ()
    lines = [[ascii_text(cell) for cell in row] for row in (table.columns, *table.rows, *footer)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    ruler = ["-" * width for width in widths]
    text = [_aligned(line, widths) for line in (lines[0], ruler, *lines[1:])]
    return "\n".join([*([_group_line(table, widths)] if whole and table.groups else []), *text])


def _group_line(table: Table, widths: Sequence[int]) -> str:
    """The headings above the columns, each over the middle of those that it spans."""
    parts, column = [], 0
    for label, span in table.groups:
        room = sum(widths[column : column + span]) + 2 * (span - 1)
        words = ascii_text(label if len(label) <= room else label.partition(" (")[0])
        parts.append(words[:room].center(room, "-" if label and span > 1 else " "))
        column += span
    return "  ".join(parts).rstrip()


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
