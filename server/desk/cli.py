"""The coordinator's commands about rounds."""

from __future__ import annotations

import click


@click.group()
def rounds() -> None:
    """Start, watch, stop and resume the rounds of a plan."""
