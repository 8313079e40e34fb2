"""report.html: what a run did and what each site gained, in one file that asks the network for nothing."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.data.cases import STRUCTURES
from common.errors import InputError
from common.files import write_atomic
from common.plan import Plan
from common.plan import load as load_plan
from server.card import INTENDED_USE
from server.registry import list_releases
from simulation import charts, findings, tables, wording
from simulation.overlays import Gallery, gallery
from simulation.tables import MODELS, Numbers, Table, case_dice
from simulation.withheld import filled

TEMPLATE = "report.html.j2"

STRUCTURE_WORDS: Mapping[str, str] = {
    "NCR": "necrotic core",
    "ED": "oedema",
    "ET": "enhancing tumour",
    "CSF": "cerebrospinal fluid",
    "GM": "grey matter",
    "WM": "white matter",
}

PACKAGES = ("fedglia", "torch", "flwr", "monai", "numpy")


@dataclass(frozen=True)
class SiteSection:
    """What the page says about one site."""

    name: str
    facts: tuple[tuple[str, str], ...]
    scores: Table | None
    kept: str
    empty: tuple[str, ...]
    notes: tuple[str, ...]
    gallery: Gallery


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from what the run directory holds, finished or not; returns its path.

    Raises:
        InputError: the folder holds no summary of a run.
    """
    said = _summary(run_folder)
    plan = load_plan(run_folder / "plan.toml")
    summary = filled(said, STRUCTURES[plan.task.kind])
    page = environment().get_template(TEMPLATE).render(_content(run_folder, summary, plan))
    target = run_folder / "report.html"
    write_atomic(target, page.encode())
    return target


def site_table(summary: Numbers) -> str:
    """The overview as plain text for a terminal, with the mean over sites below it."""
    table = tables.overview_table(summary)
    lines = [table.caption + ":", tables.plain_text(table), wording.ascii_text(findings.headline(summary))]
    phantoms = [name for name, site in summary["sites"].items() if site.get("phantom")]
    if phantoms:
        lines.append(
            f"Phantom scans at {', '.join(phantoms)}: these numbers say nothing about clinical performance."
        )
    return "\n".join(lines)


def _summary(run_folder: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{run_folder.name}: holds no summary.json, so there is nothing to report; it is written when "
            "the first round closes"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{run_folder.name}: its summary.json is damaged ({error}); resume the run to write it again"
        ) from None
    if summary.get("schema") != 1:
        raise InputError(
            f"{run_folder.name}: its summary.json is of schema {summary.get('schema')}, this program reads 1"
        )
    return summary


def environment() -> Environment:
    """Templates of this room; a study's are under `study/`."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _content(run_folder: Path, summary: Numbers, plan: Plan) -> dict[str, Any]:
    events = _events(run_folder / "events.jsonl")
    structures = STRUCTURES[plan.task.kind]
    sections = [_section(run_folder, name, summary, plan=plan) for name in summary["sites"]]
    began, ended = findings.times(events)
    return {
        "summary": summary,
        "plan": plan,
        "plan_toml": (run_folder / "plan.toml").read_text(encoding="utf-8"),
        "began": began,
        "ended": ended,
        "status": findings.STATUS_WORDS.get(summary["status"], summary["status"]),
        "headline": findings.headline(summary),
        "notices": findings.notices(
            summary,
            events,
            marked={section.name: section.gallery.marked for section in sections},
            shows_patients=_shows_patients(summary, sections),
        ),
        "intended_use": INTENDED_USE,
        "models": MODELS,
        "structures": structures,
        "structure_words": STRUCTURE_WORDS,
        "sections": sections,
        "overview": tables.overview_table(summary),
        "gains": tables.gains_table(summary, structures),
        "dots": _dots(summary, structures),
        "validation": _validation_chart(summary),
        "loss": _loss_chart(summary),
        "rounds": tables.rounds_table(summary),
        "traffic": tables.traffic_table(summary),
        "seconds": tables.seconds_table(summary),
        "model_bytes": wording.bytes_text(summary["bytes"]["fp32_model"]),
        "update_share": _update_share(summary),
        "handed_out": _handed_out(events),
        "command": reproduce_command(summary, plan),
        "versions": versions(),
        "releases": [release.title for release in list_releases(run_folder)],
    }


def reproduce_command(summary: Numbers, plan: Plan) -> str:
    """The command that repeats the run from its own plan.toml; folders of scans are left to be filled in."""
    words = ["fedglia", "simulate", "plan.toml", "--out", "NEW_RUN"]
    for name, site in summary["sites"].items():
        if not site.get("phantom"):
            words += ["--site", f"{name}=FOLDER_OF_{name.upper().replace('-', '_')}"]
        if site.get("degraded"):
            words += ["--degrade", f"{name}={site['degraded']}"]
    if plan.model.start.startswith("sha256:"):
        words += ["--start", "MODEL_FILE"]
    if summary["engine"] == "flower":
        words += ["--engine", "flower"]
    return shlex.join(words)


def _section(run_folder: Path, name: str, summary: Numbers, *, plan: Plan) -> SiteSection:
    site = summary["sites"][name]
    kept = site.get(site.get("kept", ""))
    return SiteSection(
        name=name,
        facts=(
            ("field strength", wording.field_text(site.get("field_strength_t"))),
            ("scans", _scan_words(site)),
            ("cases", findings.case_words(site)),
        ),
        scores=tables.site_scores_table(name, site, STRUCTURES[plan.task.kind]),
        kept=findings.kept_words(site),
        empty=tuple(findings.empty_words(site)),
        notes=tuple(site.get("notes") or ()),
        gallery=gallery(run_folder / "sites" / name, plan, kept)
        if kept
        else Gallery((), ("No pictures yet: they are made of the kept model.",)),
    )


def _scan_words(site: Numbers) -> str:
    made = "phantom (computer-made)" if site.get("phantom") else "real"
    return f"{made}, degraded on purpose to {site['degraded']}" if site.get("degraded") else made


def _shows_patients(summary: Numbers, sections: Sequence[SiteSection]) -> bool:
    return any(
        section.gallery.overlays and not summary["sites"][section.name].get("phantom") for section in sections
    )


def _dots(summary: Numbers, structures: Sequence[str]) -> Markup:
    groups = {}
    for name, site in summary["sites"].items():
        rows = [
            charts.Dots(word, tuple(case_dice(site[model], structures)), strong=model == site.get("kept"))
            for model, word in MODELS.items()
            if site.get(model) and site[model]["cases"]
        ]
        if rows:
            groups[name] = rows
    if not groups:
        return Markup("")
    words = "Mean Dice of each test case and of each model, by site; the numbers are in the tables."
    return charts.dot_chart(
        groups, x_label="Dice, mean over structures (one mark per test case)", summary=words
    )


def _validation_chart(summary: Numbers) -> Markup:
    """Dice on validation cases of the global model after each round; round 0 is the first model."""
    names = list(summary["sites"])
    lines = [charts.Series(name, _validation_of(summary, name)) for name in names]
    mean = tuple(summary.get("validation") or ())
    return charts.line_chart(
        [*lines, charts.Series("mean of sites", mean, strong=True)] if len(names) > 1 else lines,
        first_x=0,
        x_label="global model after round (0: first model)",
        y_label="validation Dice",
        summary=f"Validation Dice of the global model by round, for {', '.join(names)}; numbers below.",
    )


def _validation_of(summary: Numbers, name: str) -> tuple[float | None, ...]:
    """A site judges the model that it receives: a round's record tells of the model of the round before."""
    curve = [record["sites"].get(name, {}).get("validation_dice") for record in summary["rounds"]]
    last = (summary["sites"][name].get("validation") or {}).get("federated")
    return (*curve, last)


def _loss_chart(summary: Numbers) -> Markup:
    lines = [
        charts.Series(name, tuple(record["sites"].get(name, {}).get("loss") for record in summary["rounds"]))
        for name in summary["sites"]
    ]
    return charts.line_chart(
        lines,
        first_x=1,
        x_label="round",
        y_label="training loss",
        summary="Mean training loss of each round, by site; numbers below.",
    )


def _update_share(summary: Numbers) -> str:
    """Size of one update against the whole model in fp32."""
    sizes = [
        a["bytes_up"] for r in summary["rounds"] for a in r["sites"].values() if a["outcome"] == "folded"
    ]
    whole = summary["bytes"]["fp32_model"]
    return f"{100 * max(sizes) / whole:.3g} %" if sizes and whole else wording.UNKNOWN


def _handed_out(events: Sequence[Mapping[str, Any]]) -> str:
    sizes = [event["bytes"] for event in events if event["event"] == "first model received"]
    return f"{wording.bytes_text(sum(sizes))} to {wording.count_text(len(sizes), 'site')}" if sizes else ""


def _events(path: Path) -> list[dict[str, Any]]:
    """Lines of the log; a last line cut off by a kill is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def versions() -> str:
    """Versions of what computes here, in words."""
    known = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)
