"""The page of deploy/: names every file, and what it tells people to type is sound."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, ROOT, program, shell_blocks, wrong
from tests.test_house import files


def test_every_file_to_deploy_is_in_the_table_or_in_a_folder_that_is() -> None:
    page = (DEPLOY / "README.md").read_text()
    for path in files():
        if path.parts[0] == "deploy" and path.name != "README.md":
            assert any(f"`{place}`" in page for place in (path, *path.parents)), path


@pytest.mark.parametrize(
    "page", [DEPLOY / "README.md", ROOT / "docs" / "site-handbook.md"], ids=lambda page: page.name
)
def test_what_people_are_told_to_type_is_sound_shell(page: Path) -> None:
    script = shell_blocks(page)
    asked = [program("shellcheck"), "--shell=sh", "--exclude=SC2103", "-"]
    done = subprocess.run(asked, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_handed_over_is_said_in_the_same_words_to_both_sides() -> None:
    handbooks = [ROOT / "docs" / f"{name}-handbook.md" for name in ("coordinator", "site")]
    pages = [DEPLOY / "README.md", *handbooks]
    tables = [re.findall(r"^\| who gives \|.*?\n\n", page.read_text(), re.M | re.S) for page in pages]
    assert [len(found) for found in tables] == [1, 1, 1]
    assert tables[0] == tables[1] == tables[2]


def test_the_installed_command_is_given_words_that_it_knows() -> None:
    page = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    told = [shlex.split(words) for words in re.findall(r"/bin/fedglia ([^`\n]+)", page)]
    assert len(told) >= 3
    assert [wrong(words) for words in told] == [None] * len(told)
