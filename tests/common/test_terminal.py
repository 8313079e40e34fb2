"""What others wrote steers no terminal."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import cli
from common.errors import InputError
from common.terminal import printable


@given(st.text())
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = printable(text)

    assert len(shown) == len(text)
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert printable(text, longest=3) == shown[:3]


def test_words_and_lines_stay_as_they_are() -> None:
    assert printable("Größe: 1 µm\n'a' [b]") == "Größe: 1 µm\n'a' [b]"


def test_an_error_that_quotes_a_file_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise InputError("unknown key '\x1b]0;owned\x07\u202e'\ngive another")

    monkeypatch.setattr(cli.fedglia, "main", fail)
    with pytest.raises(SystemExit):
        cli.main()

    assert capsys.readouterr().err == "error: unknown key '?]0;owned??'\ngive another\n"
    assert isinstance(cli.fedglia, click.Group)
