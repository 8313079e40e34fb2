"""A terminal: text that somebody else wrote, whose control characters could steer it, and questions."""

from __future__ import annotations

from collections.abc import Callable

import click

Say = Callable[[str], None]
"""Told what is waited for, a line at a time."""


def printable(text: str, *, longest: int | None = None) -> str:
    """The text with a `?` for each character that is not shown as itself, line ends and spaces apart.

    Args:
        text: from outside; colours, cursor movements, and marks that turn the direction of writing go.
        longest: characters that stay; None: all.
    """
    cut = text if longest is None else text[:longest]
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in cut)


def say(line: str) -> None:
    """What is waited for, on standard error, beside the result."""
    click.echo(line, err=True)


def says_yes(question: str) -> bool:
    """What a person says; nobody there (no terminal, Ctrl-D) and Ctrl-C are a no."""
    try:
        return click.confirm(question)
    except click.Abort:
        click.echo("\nno answer came: answer in a terminal, or give --yes once you have read the above")
        return False
