"""A study as data: a TOML file, strict, with three presets, and the cohorts that it runs on.

A file says what every preset shares; `[presets.small]` lays its own values over it, key by key. What a
study of one kind may say beyond `Study` is that kind's own model (see `kinds`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.data.cases import Cohort
from common.data.phantom.acquisition import DEGRADATIONS
from common.data.phantom.sites import SITES
from common.errors import InputError

PRESETS = ("smoke", "small", "full")
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class Part(BaseModel):
    """A part of a study file: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CohortSpec(Part):
    """A cohort by its role in the study; the phantom stands in where no folder is given."""

    role: Name = Field(description="what the study uses it for; a kind of study knows its roles")
    phantom: Name = Field(description="whose scanner and patients, where no folder is given")
    cases: Annotated[int, Field(ge=2, le=2000)] = Field(description="how many phantom cases")

    @model_validator(mode="after")
    def _phantom_is_known(self) -> CohortSpec:
        if self.phantom not in SITES:
            raise ValueError(f"there is no phantom '{self.phantom}'; there are {', '.join(SITES)}")
        return self


class Study(Part):
    """What studies of every kind say."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: Name
    kind: Name
    about: str
    source: str = Field(description="the paper whose table it is")
    preset: Name = Field("", description="filled in when the file is read")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    cohorts: Annotated[dict[Name, CohortSpec], Field(min_length=1)]

    def as_dict(self) -> dict[str, Any]:
        """Every value, defaults included."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")

    def as_toml(self) -> str:
        """The effective study, preset laid in, as TOML."""
        return tomli_w.dumps(self.as_dict())

    @property
    def sha256(self) -> str:
        """Hash of the meaning; with the data it fixes every number of the results."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


AnyStudy = TypeVar("AnyStudy", bound=Study)


@dataclass(frozen=True)
class Source:
    """Where a cohort of a study comes from.

    Attributes:
        folder: the cases; a phantom's lies in the study's own folder.
        phantom: whose scanner and patients it imitates; None for real scans.
        cases: how many phantom cases.
        degrade: profile that real scans are made to look like.
    """

    name: str
    role: str
    folder: Path
    phantom: str | None
    cases: int
    degrade: str | None = None


@dataclass(frozen=True)
class Data:
    """The cohorts of a study that is carried out, in the order of its file."""

    sources: tuple[Source, ...]

    def role(self, role: str) -> tuple[Source, ...]:
        """The cohorts of one role."""
        return tuple(source for source in self.sources if source.role == role)

    @property
    def any_phantom(self) -> bool:
        """Whether any of the cohorts was made up."""
        return any(source.phantom is not None for source in self.sources)


def resolve(
    study: Study,
    out: Path,
    folders: Mapping[str, Path],
    degrade: Mapping[str, str] | None = None,
    *,
    look: bool = True,
) -> Data:
    """Which cohorts are real and which are phantoms.

    A role that any folder was given for is played by those folders alone; every other role by its phantoms.
    With `look` False the folders need not be there any more: a report is made of what a study wrote down.

    Raises:
        InputError: a name that is no cohort of the study, one folder for two cohorts (patients would be
            trained and tested on), an unknown degradation, or one for a cohort without a folder.
    """
    degrade = degrade or {}
    for name in (*folders, *degrade):
        if name not in study.cohorts:
            raise InputError(f"study {study.name} has no cohort '{name}'{_hint(name, study.cohorts)}")
    for name, profile in degrade.items():
        if profile not in DEGRADATIONS:
            raise InputError(f"there is no degradation '{profile}'{_hint(profile, DEGRADATIONS)}")
        if name not in folders:
            raise InputError(f"--degrade {name}: only scans given with --data {name}=FOLDER are degraded")
    if look:
        _refuse_shared_folders(folders)
    real_roles = {study.cohorts[name].role for name in folders}
    sources = [
        Source(
            name,
            spec.role,
            folders[name].resolve() if name in folders else out / "cohorts" / name,
            None if name in folders else spec.phantom,
            0 if name in folders else spec.cases,
            degrade.get(name),
        )
        for name, spec in study.cohorts.items()
        if name in folders or spec.role not in real_roles
    ]
    return Data(tuple(sources))


def open_source(source: Source) -> Cohort:
    """The cohort that lies in a source's folder.

    Raises:
        DataError: as `common.data.intake.open_cohort`.
    """
    from dataclasses import replace

    from common.data.intake import open_cohort

    return replace(open_cohort(source.folder, source.name), degraded=source.degrade)


def field_strength_t(source: Source) -> float | None:
    """Of a cohort's scanner, as its cohort.toml declares it; None where nobody did.

    Raises:
        DataError: as `common.data.intake.open_cohort`.
    """
    if source.phantom is not None:
        return SITES[source.phantom].field_strength_t
    return open_source(source).field_strength_t


def shipped() -> dict[str, tuple[str, str]]:
    """Studies that come with the package: name -> kind and what it is about."""
    found = {}
    for entry in sorted(_folder().iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            data = tomllib.loads(entry.read_text(encoding="utf-8"))
            found[entry.name.removesuffix(".toml")] = (str(data["kind"]), str(data["about"]))
    return found


def read(name_or_file: str) -> tuple[dict[str, Any], str]:
    """The raw content of a study file or shipped study, and what to call it in messages.

    Raises:
        InputError: neither a file nor a shipped study, or not TOML.
    """
    path, entry = Path(name_or_file), _folder() / f"{name_or_file}.toml"
    try:
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8")), path.name
        if path.suffix == "" and len(path.parts) == 1 and entry.is_file():
            return tomllib.loads(entry.read_text(encoding="utf-8")), f"study {name_or_file}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a TOML file ({error})") from None
    raise InputError(f"there is no study '{path.name}'{_hint(path.name, shipped())}; or give a TOML file")


def parse(
    data: Mapping[str, Any],
    model: type[AnyStudy],
    *,
    preset: str,
    origin: str,
    changes: Mapping[str, Any] | None = None,
) -> AnyStudy:
    """The effective study of one preset, with `changes` (dotted key -> value) laid over that.

    Raises:
        InputError: a preset that the file lacks, or a key or value that does not fit, by name.
    """
    content = dict(data)
    presets = content.pop("presets", {})
    if not isinstance(presets, Mapping) or not all(isinstance(part, Mapping) for part in presets.values()):
        raise InputError(f"{origin}: presets must be tables, [presets.small] and the like")
    if preset not in presets:
        raise InputError(f"{origin}: has no preset '{preset}'; it has {', '.join(presets) or 'none'}")
    effective = _laid_over(content, presets[preset])
    for dotted, value in (changes or {}).items():
        *path, last = dotted.split(".")
        change: dict[str, Any] = {last: value}
        for key in reversed(path):
            change = {key: change}
        effective = _laid_over(effective, change)
    try:
        return model.model_validate({**effective, "preset": preset})
    except ValidationError as error:
        raise InputError(
            f"{origin}: " + "; ".join(_explain(dict(problem)) for problem in error.errors())
        ) from None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; everything else of `above` takes the place of what was there."""
    out = dict(below)
    for key, value in above.items():
        before = out.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        out[key] = _laid_over(before, value) if both else value  # type: ignore[arg-type]
    return out


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"'{key}': {message}" if key else message


def _refuse_shared_folders(folders: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for name, folder in folders.items():
        place = folder.resolve()
        if not place.is_dir():
            raise InputError(f"--data {name}={folder.name}: there is no such folder")
        if place in seen:
            raise InputError(
                f"--data {seen[place]} and {name} are the same folder: its patients would be trained and "
                "tested on at once; divide it into two folders"
            )
        seen[place] = name


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(known)}"


def _folder() -> Traversable:
    return resources.files("simulation") / "studies"
