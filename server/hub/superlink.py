"""The hub's SuperLink: `python -m server.hub.superlink`, with the arguments of `flower-superlink`.

It is Flower's, but sites and runs hear of a message at once (`common.doorbell`), and a call of either passes
four of Flower's nine layers: the others have something to say to the coordinator's calls alone, or to
a plug-in that is not here, and are most of what a small call costs.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

from flwr.supercore import sql_mixin
from flwr.superlink import main as app
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.routers.control import middlewares as control
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common.doorbell import hold_link

DATABASE = (("page_size", str(32 << 10)), ("wal_autocheckpoint", "4000"))
"""Of a new database. A part of a model lies on some 200 pages instead of 1,800, each written by itself. What
was written is copied to its place each 128 MB instead of each 4 MB; until then it lies in the file beside."""

CONTROL = "/v1/control/"
FOR_CONTROL = (
    control.ControlSensitiveResponseMiddleware,
    control.ControlAuthenticationMiddleware,
    control.ControlLicenseMiddleware,
    control.ControlEventLogMiddleware,
)
FOR_PLUGINS = (FleetEventLogMiddleware,)
"""Logs events for a plug-in that this SuperLink is not asked to load."""


class ForControl:
    """A layer of Flower's that other calls than the coordinator's do not pass.

    Args:
        app: what is inside of it.
        layer: its class, which passes on what is no call of the coordinator's.
    """

    def __init__(self, app: ASGIApp, layer: type[Any]) -> None:
        self._inside = app
        self._layer: ASGIApp = layer(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, by the path that also decides who answers it."""
        others = scope["type"] == "http" and not scope["path"].startswith(CONTROL)
        await (self._inside if others else self._layer)(scope, receive, send)


def lean(layers: list[Middleware]) -> list[Middleware]:
    """Flower's layers, without those that have nothing to say to a call.

    Raises:
        AssertionError: one that was known is not there: another Flower than 1.41.
    """
    classes: list[Any] = [layer.cls for layer in layers]
    missing = {*FOR_CONTROL, *FOR_PLUGINS} - {*classes}
    if missing:
        raise AssertionError(f"Flower's SuperLink has no {missing}: another Flower than 1.41")
    return [
        Middleware(ForControl, layer=kind) if kind in FOR_CONTROL else layer
        for kind, layer in zip(classes, layers, strict=True)
        if kind not in FOR_PLUGINS
    ]


def main() -> None:
    """Be the SuperLink until a signal."""
    layers, settings = app._get_middleware(), vars(sql_mixin)
    vars(app)["_get_middleware"] = lambda: lean(layers)
    settings["SQLITE_PRAGMAS"] = (*DATABASE, *settings["SQLITE_PRAGMAS"])
    hold_link()
    gc.freeze()  # what was imported is never looked at again
    gc.set_threshold(2_000, 10, 50)  # until then a body of 8 MiB lies in a cycle
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
