"""The plan: everything a federation is to do, in one strict TOML file, named by its hash.

A plan says what is trained, where, how often and how replies are merged. It never holds a path: which
folder a site reads is that site's own business. Overriding a value gives an *effective* plan with
a hash of its own, and a site approves a plan by that hash.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.errors import PlanError
from common.terminal import printable

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=16, le=256)]
Patch = Side | Annotated[list[Side], Field(min_length=3, max_length=3)]

PATCH_SIDES = {"nano": range(16, 257, 16), "base": range(16, 257, 16), "ren2024": range(64, 257, 64)}
"""Preset -> edges of a patch, in voxels, that its network takes."""


class _Part(BaseModel):
    """A part of the plan: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Task(_Part):
    """What is segmented, and on which working grid."""

    kind: Literal["glioma", "tissue"] = Field("glioma", description="structures to segment")
    spacing_mm: Annotated[float, Field(ge=0.5, le=5)] = Field(3.0, description="edge of a working voxel, mm")


class Model(_Part):
    """The network and where it starts from."""

    preset: Literal["nano", "base", "ren2024"] = Field("nano", description="size and shape of the U-Net")
    start: str = Field(
        "healthy",
        description="first global model: shipped 'healthy' or 'glioma', 'scratch', or a file by its hash",
    )

    @field_validator("start")
    @classmethod
    def _names_a_model(cls, start: str) -> str:
        if not re.fullmatch(r"healthy|glioma|scratch|sha256:[0-9a-f]{64}", start):
            raise ValueError(
                "must be 'healthy', 'glioma', 'scratch', or 'sha256:' and 64 hexadecimal digits; "
                "with --start FILE a simulation fills the hash in"
            )
        return start


class Adaptation(_Part):
    """What a site trains on its own scans, and how."""

    trains: Literal["all", "frozen-decoder", "frozen-encoder", "head", "norms"] = Field(
        "all", description="which parameters train; a newly exchanged head always does"
    )
    local_steps: Count = Field(30, description="training steps a site makes in each round")
    adapt_steps: Annotated[int, Field(ge=0)] = Field(60, description="steps of a site after the last round")
    batch_size: Annotated[int, Field(ge=2)] = Field(2, description="patches a step, at least 2")
    patch: Patch = Field(48, description="edge of a patch, working voxels, or its three edges")
    loss: Literal["cross-entropy-dice", "paper", "public-code"] = Field(
        "cross-entropy-dice", description="'paper' and 'public-code' as published; ren2024 takes no other"
    )
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="local optimiser")
    optimiser_state: Literal["keep", "reset"] = Field("keep", description="moments between rounds")
    learning_rate: Positive = Field(1e-3, description="at the first step of the first round")
    adapt_learning_rate: Positive = Field(3e-4, description="at the first step after the last round")
    schedule: Literal["polynomial", "constant"] = Field("polynomial", description="over all rounds' steps")
    proximal_mu: Annotated[float, Field(ge=0)] = Field(0.0, description="FedProx: mu/2 |w - w_global|^2")
    augment: bool = Field(True, description="random flips, contrast, noise, resolution")
    precision: Literal["auto", "fp32", "bf16"] = Field("fp32", description="arithmetic of the training step")

    @property
    def patch_sides(self) -> tuple[int, int, int]:
        """Edges of a patch along the axes of a prepared case."""
        x, y, z = (self.patch,) * 3 if isinstance(self.patch, int) else self.patch
        return x, y, z


class Alignment(_Part):
    """How the domains of different sites are brought together."""

    method: Literal["none", "dann", "dann-no-reversal", "dann-detached"] = Field(
        "none", description="what the encoder learns from a discriminator of domains"
    )
    domains: Literal["field-strength", "site"] = Field(
        "field-strength", description="what tells domains apart: cohort.toml's field_strength_t, or the site"
    )
    weight: Positive = Field(0.02, description="of the domain loss, beside that of the segmentation")
    discriminator_steps: Count = Field(5, description="steps of a round in which it learns at a site")


class Rounds(_Part):
    """How often, how many must answer, and how long the hub waits."""

    count: Count = Field(8, description="rounds in the run")
    quorum: Count = Field(2, description="usable updates without which a round fails")
    deadline_s: Positive = Field(1800.0, description="seconds a round, or a final stage, may take")


class Aggregation(_Part):
    """How the updates of a round become the next global model."""

    fold: Literal["mean", "median", "trimmed-mean"] = Field("mean", description="how updates are merged")
    weighting: Literal["patients", "equal"] = Field("patients", description="a site's weight in the mean")
    server_optimiser: Literal["none", "momentum", "adam", "yogi"] = Field("none", description="FedOpt family")
    server_learning_rate: Positive = Field(1.0, description="1.0 with 'none' is plain FedAvg")
    norm_factor: Annotated[float, Field(gt=1)] = Field(
        10.0, description="an update longer than this many times the round's median is refused"
    )
    codec: Literal["fp32", "fp16", "int8"] = Field("fp32", description="how an update is packed")


class Privacy(_Part):
    """What is promised about the patients behind an update."""

    method: Literal["none"] = Field("none", description="no differential privacy is claimed")


class Evaluation(_Part):
    """How a site's patients are split and its models compared."""

    val_share: Share = Field(0.2, description="of a site's patients, for choices")
    test_share: Share = Field(0.3, description="of a site's patients, for the final numbers")
    local_only: bool = Field(False, description="also train alone from the same start, for comparison")
    overlap: Annotated[float, Field(ge=0, lt=0.9)] = Field(0.25, description="of neighbouring windows")
    flips: bool = Field(False, description="average with the mirrored scan: twice the time")

    @model_validator(mode="after")
    def _leaves_training_patients(self) -> Evaluation:
        if self.val_share + self.test_share >= 0.9:
            raise ValueError("val_share + test_share must leave a tenth of the patients for training")
        return self


class SitePlan(_Part):
    """One site of the federation; the phantom part is used by simulations alone."""

    phantom: str | None = Field(None, description="recipe of made-up cases, when no folder is given")
    cases: Annotated[int, Field(ge=2, le=1000)] = Field(8, description="how many phantom cases")
    folds: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="folds that the patients are dealt into for a study; 0: split by the shares"
    )
    fold: Annotated[int, Field(ge=0)] = Field(0, description="the fold that is tested, from 0")

    @model_validator(mode="after")
    def _tests_one_of_its_folds(self) -> SitePlan:
        if self.folds == 1:
            raise ValueError("folds is 1: give 2 or more, or 0 to split by the shares")
        if self.fold >= max(self.folds, 1):
            raise ValueError(f"fold is {self.fold}, but there are {self.folds} folds, counted from 0")
        return self


class Plan(_Part):
    """The whole of what a federation is to do."""

    schema_version: Literal[1] = Field(1, alias="schema", description="of the form of this file")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")] = Field(
        description="lower-case letters, digits and '-'; releases are called by it"
    )
    about: str = Field("", description="one sentence for people")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(1, description="of everything drawn at random")
    threads: Annotated[int, Field(ge=1, le=64)] = Field(1, description="of each training process")
    task: Task = Task()
    model: Model = Model()
    adaptation: Adaptation = Adaptation()
    alignment: Alignment = Alignment()
    rounds: Rounds = Rounds()
    aggregation: Aggregation = Aggregation()
    privacy: Privacy = Privacy()
    evaluation: Evaluation = Evaluation()
    sites: Annotated[dict[SiteName, SitePlan], Field(min_length=1)] = Field(
        description="the sites by name, in the order in which their updates are folded"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        if self.rounds.quorum > len(self.sites):
            raise ValueError(
                f"rounds.quorum is {self.rounds.quorum}, but the plan names {len(self.sites)} site(s): "
                "lower the quorum or add sites"
            )
        if self.model.preset == "ren2024" and self.adaptation.loss == "cross-entropy-dice":
            raise ValueError("adaptation.loss: preset ren2024 is trained with 'paper' or 'public-code'")
        self._check_patch()
        self._can_be_aligned()
        return self

    def _can_be_aligned(self) -> None:
        wanted = self.alignment
        if wanted.method == "none":
            return
        if self.adaptation.trains not in ("all", "frozen-decoder"):
            raise ValueError(
                f"alignment.method '{wanted.method}' moves the encoder, which adaptation.trains "
                f"'{self.adaptation.trains}' leaves as it is: train 'all' or 'frozen-decoder'"
            )
        if wanted.domains == "site" and len(self.sites) < 2:
            raise ValueError(
                f"alignment.method '{wanted.method}' needs two domains or more, and the plan names one site"
            )

    def _check_patch(self) -> None:
        sides, given = PATCH_SIDES[self.model.preset], self.adaptation.patch_sides
        single_voxel = self.model.preset == "ren2024" and max(given) == sides.start
        if single_voxel or not all(side in sides for side in given):
            least = "; one of three edges is 128 or more" if self.model.preset == "ren2024" else ""
            raise ValueError(
                f"adaptation.patch is {self.adaptation.patch}: preset {self.model.preset} takes "
                f"{sides.start} to {sides[-1]} in steps of {sides.step}{least}"
            )

    @property
    def site_names(self) -> tuple[str, ...]:
        """Sites in the plan's order: the order in which updates are folded."""
        return tuple(self.sites)

    @property
    def total_steps(self) -> int:
        """Training steps of one site over all rounds."""
        return self.rounds.count * self.adaptation.local_steps

    @property
    def sha256(self) -> str:
        """Hash of the meaning: spelling, comments and order of keys do not matter, that of the sites does."""
        whole = [self.as_dict(), self.site_names]
        canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Every value, defaults included; None is left out, as TOML has no word for it."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def as_toml(self) -> str:
        """The effective plan as a TOML file that reads back to the same hash."""
        return tomli_w.dumps(self.as_dict())

    def override(self, changes: Mapping[str, Any]) -> Plan:
        """The effective plan after `changes` (dotted key -> value); the hash changes with it.

        Raises:
            PlanError: a key that the plan does not have, or a value that does not fit.
        """
        data = self.as_dict()
        for dotted, value in changes.items():
            *path, last = dotted.split(".")
            part = data
            for key in path:
                part = part.setdefault(key, {})
                if not isinstance(part, dict):
                    raise PlanError(f"plan {self.name}: '{dotted}' is not a key: '{key}' holds a value")
            part[last] = value
        return parse(data, origin=f"plan {self.name} with overrides")


def parse(data: Mapping[str, Any], *, origin: str) -> Plan:
    """A plan from already read TOML.

    Raises:
        PlanError: names the key, what is wrong with it and, for an unknown key, the nearest one.
    """
    try:
        return Plan.model_validate(_integers_as_floats(data, Plan))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_explain(dict(problem))[:_LONGEST] for problem in problems[:_EXPLAINED]]
        lines += [f"and {len(problems) - _EXPLAINED} more"] if len(problems) > _EXPLAINED else []
        raise PlanError(f"{origin}: " + "\n".join(lines)) from None


def shipped() -> dict[str, str]:
    """Plans that come with the package: name -> what each is for."""
    texts = {
        p.name.removesuffix(".toml"): p.read_text()
        for p in _shipped_folder().iterdir()
        if p.name.endswith(".toml")
    }
    return {name: str(tomllib.loads(text).get("about", "")) for name, text in sorted(texts.items())}


def load(name_or_file: str | Path) -> Plan:
    """The plan in a file, or the shipped one of that name.

    Raises:
        PlanError: neither a file nor a shipped plan, not TOML, or not a valid plan.
    """
    path = Path(name_or_file)
    entry = _shipped_folder() / f"{name_or_file}.toml"
    if path.is_file():
        text, origin = _read(path), path.name
    elif path.suffix == "" and len(path.parts) == 1 and entry.is_file():
        text, origin = entry.read_text(), f"plan {name_or_file}"
    else:
        raise PlanError(
            f"there is no plan '{path.name}': give a TOML file, or a shipped plan: {', '.join(shipped())}"
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{origin}: not a TOML file ({error})") from None
    return parse(data, origin=origin)


def _shipped_folder() -> Traversable:
    return resources.files("common") / "plans"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path.name}: cannot be read ({type(error).__name__})") from None


def _integers_as_floats(data: Mapping[str, Any], part: type[BaseModel]) -> dict[str, Any]:
    """TOML writes 3 where 3.0 is meant; every other change of type stays an error."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        field = part.model_fields.get("schema_version" if key == "schema" else key)
        inner = field.annotation if field is not None else None
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, BaseModel):
            out[key] = _integers_as_floats(value, inner)
        elif isinstance(value, int) and not isinstance(value, bool) and inner in (float, float | None):
            out[key] = float(value)
        else:
            out[key] = dict(value) if isinstance(value, Mapping) else value
    return out


_EXPLAINED, _LONGEST, _LONGEST_KEY = 5, 400, 64
"""Of a plan that cannot be used: problems that are told, characters of each and of a key in it."""

_WORDS = {
    "dict_type": "must be a table with keys of its own",
    "model_type": "must be a table with keys of its own",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text in quotes",
    "string_pattern_mismatch": "must be a name of lower-case letters, digits and '-'",
}
"""Kinds of pydantic's errors whose own words speak to programmers."""


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(step) for step in problem["loc"] if step != "[key]")
    key = printable(key.replace("\n", "?"), longest=_LONGEST_KEY)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    if problem["type"] in _WORDS:
        return f"'{key}': {_WORDS[problem['type']]}; found {problem['input']!r:.60}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"'{key}': {message}" if key else message


def _nearest(location: tuple[str | int, ...]) -> str:
    known = _keys_at(Plan, [str(step) for step in location[:-1]])
    close = difflib.get_close_matches(str(location[-1])[:_LONGEST_KEY], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{'.'.join([*map(str, location[:-1]), close[0]])}'?"
    return f"; known here: {', '.join(known)}"


def _keys_at(part: type[BaseModel], path: list[str]) -> list[str]:
    for index, step in enumerate(path):
        field = part.model_fields.get(step)
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            part = annotation
        elif step == "sites" and len(path) > index + 1:
            return list(SitePlan.model_fields)
        else:
            return []
    return [field.alias or name for name, field in part.model_fields.items()]
