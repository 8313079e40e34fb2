"""The site's app for a simulation's worker processes, which import this module once and then fork."""

from __future__ import annotations

from flwr.clientapp import ClientApp

from client.app import app


def load_client_app() -> ClientApp:
    """The app that answers for every simulated site."""
    return app
