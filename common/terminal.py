"""Text that somebody else wrote, before it is shown on a terminal: control characters could steer it."""

from __future__ import annotations


def printable(text: str, *, longest: int | None = None) -> str:
    """The text with a `?` for each character that is not shown as itself, line ends and spaces apart.

    Args:
        text: from outside; colours, cursor movements, and marks that turn the direction of writing go.
        longest: characters that stay; None: all.
    """
    cut = text if longest is None else text[:longest]
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in cut)
