"""What the report of a site-transfer study says."""

from __future__ import annotations

from simulation.study.page import Page, Results


def page(results: Results) -> Page:
    """The page."""
    raise NotImplementedError
