"""The node's memory of itself: what lets a site that was killed back in at once."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from client import node


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_a_node_remembers_by_which_number_the_hub_knows_it(folder: Path) -> None:
    assert node.predecessor(folder) is None
    number = 2**64 - 5
    node.remember(folder, number)
    assert node.predecessor(folder) == number


def test_a_folder_that_was_copied_to_another_machine_pushes_nobody_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.remember(folder, 7)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert node.predecessor(folder) is None


@pytest.mark.parametrize("content", ["", "[]", "7", json.dumps({"node_id": "seven", "machine": "x"})])
def test_a_damaged_memory_is_none(folder: Path, content: str) -> None:
    (folder / node.NODE).write_text(content)
    assert node.predecessor(folder) is None


def test_a_disk_that_takes_nothing_does_not_end_the_node(tmp_path: Path) -> None:
    node.remember(tmp_path / "missing", 7)
    node.stamper(tmp_path / "missing")()
