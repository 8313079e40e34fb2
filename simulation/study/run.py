"""A study from its file to results.csv and the report.

OUT/study.toml      the effective study, preset laid in
OUT/study.json      its hash and what identifies the data; makes a folder a study, checked by --resume
OUT/cohorts/        phantom cohorts
OUT/sites/ cache/   prepared cases, as the kind of study keeps them
OUT/work/           jobs, see `jobs`
OUT/results.csv     the table, once everything is done
OUT/report.html report.md tables/*.csv
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
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

_BEFORE_THE_MARKER = ("lock", "study.toml")
"""What a study that was killed while it was being made may have left."""


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
    """The study that a folder holds, for its report; the scans need not be there any more.

    Raises:
        InputError: it holds none, or one of another version.
    """
    identity = _kept_identity(out)
    raw, origin = read(str(out / "study.toml"))
    kind, preset = KINDS.get(str(raw.get("kind"))), str(raw.get("preset"))
    if kind is None:
        raise InputError(f"{out.name}: its study is of a kind not known here")
    study = parse({**raw, "presets": {preset: {}}}, kind.study, preset=preset, origin=origin)
    folders = {
        name: Path(words["folder"]) for name, words in identity["data"].items() if not words["phantom"]
    }
    degrade = {name: words["degrade"] for name, words in identity["data"].items() if words["degrade"]}
    return Setup(study, kind, resolve(study, out.resolve(), folders, degrade, look=False), out.resolve())


def _kept_identity(out: Path) -> dict[str, Any]:
    try:
        identity: dict[str, Any] = json.loads((out / "study.json").read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{out.name}: holds no study; run one with fedglia study run") from None
    except ValueError:
        raise InputError(f"{out.name}: its study.json is damaged; name a new folder") from None
    return identity


def _identity(setup: Setup) -> dict[str, Any]:
    """What a resumed study must agree with; a study folder may move, and its phantoms with it."""
    return {
        "schema": 1,
        "sha256": setup.study.sha256,
        "data": {
            source.name: {
                "folder": None if source.phantom else str(source.folder),
                "content": None if source.phantom else _content_hash(source.folder),
                "phantom": source.phantom,
                "degrade": source.degrade,
            }
            for source in setup.data.sources
        },
    }


def _content_hash(folder: Path) -> str:
    """Over names and sizes of all files: a case that comes or goes would deal the folds anew."""
    files = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in _files(folder))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, also behind links to folders of cases."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place) / name for name in names)


def _check_free(setup: Setup, *, resume: bool) -> None:
    marker, out = setup.out / "study.json", setup.out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out.name}: is a file; name a folder for the study")
    if not marker.is_file():
        names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        strangers = [name for name in names if name not in _BEFORE_THE_MARKER and not name.endswith(".tmp")]
        if strangers:
            raise InputError(
                f"{out.name}: is not empty and holds no study (there is '{strangers[0]}'); name a new folder"
            )
        return
    if not resume:
        raise InputError(f"{out.name}: holds a study already; add --resume to go on, or name a new folder")
    if _kept_identity(out) != _identity(setup):
        raise InputError(
            f"{out.name}: was started as another study, preset, seed or data (a file that came or went "
            "counts); give the same, or name a new folder"
        )
