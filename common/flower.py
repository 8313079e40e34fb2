"""Flower's private names, in one file; its contract test fails when another Flower changes them (0005).

What is touched and why: Flower waits for fixed times where a round lasts seconds, starts a Python process
for each message, and runs whatever code a bundle holds. Here the waits are shorter, a warm process answers,
and a bundle is one that this version would have made itself: settings, no code.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Flower and Ray call home, and install packages, unless told not to."""

APP = """\
[project]
name = "fedglia"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedglia"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
"""
"""The Flower app that runs are started with. Its version is that of our messages, not of this package, so
that hub and sites may be upgraded on different days."""


@cache
def bundle() -> bytes:
    """The one bundle that a hub of this version sends and a site of this version accepts."""
    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files({"pyproject.toml": APP.encode()})
    return content


def bundle_sha256() -> str:
    """SHA-256 of `bundle()`, as Flower names it."""
    return hashlib.sha256(bundle()).hexdigest()


def write_app(folder: Path) -> None:
    """Write the app folder that `flwr run` is given; its parent must exist."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(APP)


def quicken() -> None:
    """Let this process ask again soon for what is still being uploaded: Flower waits 1, 2, 4 s and more."""
    from flwr.supercore.inflatable import inflatable_utils

    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        defaults = function.__kwdefaults__
        assert {"initial_backoff", "backoff_cap"} <= set(defaults), "another Flower than 1.41"
        defaults.update(initial_backoff=0.05, backoff_cap=2.0)
