"""Options of the researcher's commands that are written NAME=VALUE or KEY=VALUE."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence

from common.errors import InputError


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Name -> value of a repeated option.

    Raises:
        InputError: one that is not NAME=VALUE, or a name given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {word}: write it as NAME=VALUE")
        if name in found:
            raise InputError(f"{option} {name} is given twice")
        found[name] = value
    return found


def toml_value(text: str) -> object:
    """A value as TOML would read it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
