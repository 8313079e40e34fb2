"""`cohort.toml`: what a site says about its cohort that NIfTI cannot hold.

    name = "korle-bu"             # optional; else the folder's name
    field_strength_t = 1.5
    scanner = "Siemens Avanto"
    phantom = false
    notes = ["second reader for cases 12 to 20"]

    [label_map]                   # structure -> code in the files
    NCR = 1
    ED = 2
    ET = 4

    [patients]                    # case -> patient, where names do not tell
    scan-17 = "P-009"
    scan-18 = "P-009"

What is not there is None, never guessed. An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import DataError

FILE_NAME = "cohort.toml"


class Declaration(BaseModel):
    """The keys of `cohort.toml`; all of them optional."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1)
    field_strength_t: float | None = Field(default=None, gt=0, le=21)
    scanner: str | None = None
    label_map: dict[str, int] | None = None
    patients: Mapping[str, str] = Field(default_factory=dict)
    phantom: bool = False
    notes: list[str] | str = Field(default_factory=list)


def read_declaration(folder: Path) -> Declaration:
    """What the folder's `cohort.toml` says; an empty declaration where there is none.

    Raises:
        DataError: not TOML, an unknown key, a value of the wrong type or range, or a label code twice.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Declaration()
    try:
        declared = Declaration.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{FILE_NAME}: cannot be read ({error})", code="cohort") from error
    except ValidationError as error:
        raise DataError(_in_words(error), code="cohort") from error
    _check_codes(declared.label_map or {})
    return declared


def _in_words(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{FILE_NAME}: key {key}: {first['msg'].lower()}; got {first['input']!r}"
    known = list(Declaration.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    advice = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
    return f"{FILE_NAME}: unknown key {key}; {advice}"


def _check_codes(label_map: Mapping[str, int]) -> None:
    for structure, code in label_map.items():
        if not 1 <= code <= 32767:
            raise DataError(f"{FILE_NAME}: label_map.{structure} is {code}; codes run from 1", code="cohort")
    if len(set(label_map.values())) < len(label_map):
        raise DataError(f"{FILE_NAME}: label_map gives one code to two structures", code="cohort")
