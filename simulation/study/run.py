"""A study from its file to results.csv and the report.

OUT/study.toml      the effective study, preset laid in
OUT/study.json      its hash and that of the choice of data; written first, checked by --resume
OUT/cohorts/        phantom cohorts
OUT/cache/          prepared cases
OUT/work/           jobs, see `jobs`
OUT/results.csv     the table, once everything is done
OUT/report.html report.md tables/*.csv
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import sweep_drafts, write_atomic
from server.run import exclusive
from simulation.study.jobs import Job, Say, outcome_of, run_jobs
from simulation.study.kinds import KINDS, Kind
from simulation.study.results import write_csv
from simulation.study.spec import Data, Study, parse, read, resolve


@dataclass(frozen=True)
class Setup:
    """A study that is ready to be carried out."""

    study: Study
    kind: Kind
    data: Data
    out: Path

    def jobs(self) -> list[Job]:
        """The pieces, in the order of the results."""
        return self.kind.jobs(self.study, self.data)


def prepare(
    name_or_file: str,
    out: Path,
    *,
    preset: str,
    folders: Mapping[str, Path],
    degrade: Mapping[str, str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Setup:
    """Read a study and look for everything that can be wrong with it and with the data.

    Raises:
        InputError: words for what cannot be used; nothing was made.
    """
    raw, origin = read(name_or_file)
    kind = KINDS.get(str(raw.get("kind")))
    if kind is None:
        raise InputError(f"{origin}: there is no kind of study '{raw.get('kind')}'; know {', '.join(KINDS)}")
    study = parse(raw, kind.study, preset=preset, origin=origin, changes=changes)
    data = resolve(study, out, folders, degrade)
    kind.check(study, data)
    return Setup(study, kind, data, out)


def carry_out(setup: Setup, *, workers: int, resume: bool, say: Say) -> None:
    """Do what is not done yet, and write results.csv.

    Raises:
        InputError: the folder holds another study, other data, or a study and `resume` is False.
        RunError: a job could not be done; it can be resumed.
    """
    _check_free(setup, resume=resume)
    setup.out.mkdir(parents=True, exist_ok=True)
    with exclusive(setup.out / "lock", what=f"study {setup.out.name}"):
        write_atomic(setup.out / "study.toml", setup.study.as_toml().encode())
        write_atomic(setup.out / "study.json", json.dumps(_identity(setup), indent=1).encode())
        for folder in setup.out.glob("**/"):
            sweep_drafts(folder)
        jobs = setup.jobs()
        run_jobs(setup.out, jobs, workers=workers, say=say)
        rows = [row for job in jobs for row in outcome_of(setup.out, job.name).rows]
        write_csv(setup.out / "results.csv", setup.study.name, rows)


def opened(out: Path) -> Setup:
    """The study that a folder holds, for its report.

    Raises:
        InputError: it holds none, or one of another version.
    """
    try:
        identity = json.loads((out / "study.json").read_text(encoding="utf-8"))
        raw, origin = read(str(out / "study.toml"))
    except (OSError, ValueError):
        raise InputError(f"{out.name}: holds no study; run one with fedglia study run") from None
    kind = KINDS.get(str(raw.get("kind")))
    if kind is None:
        raise InputError(f"{out.name}: its study is of a kind not known here")
    preset = str(raw["preset"])
    study = parse({**raw, "presets": {preset: {}}}, kind.study, preset=preset, origin=origin)
    folders = {
        name: Path(words["folder"]) for name, words in identity["data"].items() if not words["phantom"]
    }
    degrade = {name: words["degrade"] for name, words in identity["data"].items() if words["degrade"]}
    return Setup(study, kind, resolve(study, out.resolve(), folders, degrade), out.resolve())


def _identity(setup: Setup) -> dict[str, Any]:
    """What a resumed study must agree with."""
    return {
        "schema": 1,
        "sha256": setup.study.sha256,
        "data": {
            source.name: {
                "folder": str(source.folder),
                "phantom": source.phantom,
                "degrade": source.degrade,
            }
            for source in setup.data.sources
        },
    }


def _check_free(setup: Setup, *, resume: bool) -> None:
    marker, out = setup.out / "study.json", setup.out
    if not marker.is_file():
        strangers = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if out.exists() and (strangers or not out.is_dir()) and strangers not in ([], ["lock"]):
            raise InputError(f"{out.name}: is not empty and holds no study; name a new folder")
        return
    if not resume:
        raise InputError(f"{out.name}: holds a study already; add --resume to go on, or name a new folder")
    if json.loads(marker.read_text(encoding="utf-8")) != _identity(setup):
        raise InputError(
            f"{out.name}: was started as another study, preset, seed or data; give the same, or name a new "
            "folder"
        )
