"""The coordinator's commands about the hub itself."""

from __future__ import annotations

import click


@click.group()
def hub() -> None:
    """Set up and run the hub: keys, edge, admissions."""
