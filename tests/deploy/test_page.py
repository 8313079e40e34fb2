"""The page of deploy/: names every file, and what it tells people to type is sound."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
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


def test_versions_stand_side_by_side_and_a_link_is_switched(tmp_path: Path) -> None:
    script = shell_blocks(DEPLOY / "README.md")
    made = set(re.findall(r"-m venv (\S+)", script))
    switched = re.findall(r"^ln -sfnT .*", script, re.M)
    assert made == {"/opt/fedglia-0.1.0"}, "an environment at the link's own place could not be exchanged"
    assert len(switched) == 3
    link = tmp_path / "fedglia"
    for words in switched[1:]:
        place = tmp_path / words.split()[2]
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        command = place / "bin" / "fedglia"
        command.write_text(f"#!{place}/bin/python\nimport sys\nprint(sys.prefix)\n")
        command.chmod(0o755)
        subprocess.run(shlex.split(words.replace("/opt", str(tmp_path))), check=True)
        said = subprocess.run([link / "bin" / "fedglia"], capture_output=True, text=True, check=True)
        assert said.stdout == f"{place}\n"


def test_the_installed_command_is_given_words_that_it_knows() -> None:
    page = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    told = [shlex.split(words) for words in re.findall(r"/bin/fedglia ([^`\n]+)", page)]
    assert len(told) >= 3
    assert [wrong(words) for words in told] == [None] * len(told)
