"""Where things to deploy are, and the programs that look at them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.test_house import complaint

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
NODE_READS = {"format", "site.toml", "key", "secret", "hub-ca.crt"}
"""What a node sees of a site's folder, whichever way it is deployed, beside run/, which it writes."""


def program(name: str) -> str:
    """The path of a program, of this environment before the system's; without it the test is skipped."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The YAML documents of a text."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def shell_blocks(page: Path) -> str:
    """The shell commands that a page tells people to type, as one script."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def wrong(words: list[str]) -> str | None:
    """What is wrong with the words after `fedglia`; None where such a command exists."""
    return complaint(words)
