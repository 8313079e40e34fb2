"""The commands of a hospital that runs a site."""

from __future__ import annotations

import click


@click.group()
def site() -> None:
    """Set up and run this site: key, guard, approvals."""
