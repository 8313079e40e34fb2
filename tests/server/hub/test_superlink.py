"""What is left out of Flower's SuperLink judges nothing, and what judges is left in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flwr.supercore import sql_mixin
from flwr.superlink import main as app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.hub import superlink
from server.hub.superlink import FOR_CONTROL, FOR_PLUGINS, ForControl, lean


def test_the_layers_that_judge_a_call_stay_in_their_order() -> None:
    before: list[Any] = [layer.cls for layer in app._get_middleware()]
    after: list[Any] = [layer.kwargs.get("layer", layer.cls) for layer in lean(app._get_middleware())]
    assert after == [layer for layer in before if layer not in FOR_PLUGINS]
    assert NodeAuthMiddleware in after


def test_another_flower_is_noticed() -> None:
    with pytest.raises(AssertionError, match="another Flower"):
        lean(app._get_middleware()[:-1])


class Noting:
    """A layer that notes what passes it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.passed: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed.append(scope.get("path", scope["type"]))
        await self.app(scope, receive, send)


PATHS = {
    "/v1/control/list-runs": True,
    "/v1/control/": True,
    "/v1/fleet/pull-messages": False,
    "/v1/runtime/get-nodes": False,
    "/health": False,
    "/v1/controls": False,
}


def test_only_the_coordinators_calls_pass_a_layer_for_them() -> None:
    reached: list[str] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope.get("path", scope["type"]))

    layer = ForControl(inside, Noting)
    unused: Any = None
    for path in PATHS:
        asyncio.run(layer({"type": "http", "path": path}, unused, unused))
    asyncio.run(layer({"type": "lifespan"}, unused, unused))
    assert reached == [*PATHS, "lifespan"]
    noted: Any = layer._layer
    assert noted.passed == [*(path for path, control in PATHS.items() if control), "lifespan"]


@pytest.mark.parametrize("layer", FOR_CONTROL)
def test_flowers_layers_tell_the_coordinators_calls_by_the_same_path(layer: type[Any]) -> None:
    """`ForControl` decides by the path that Flower's own test looks at."""
    from flwr.superlink.routers.control import middlewares

    assert middlewares._is_control_path(superlink.CONTROL)
    assert not middlewares._is_control_path(superlink.CONTROL.rstrip("/"))
    assert all(path.startswith(superlink.CONTROL) for _, path in middlewares.CONTROL_SENSITIVE_ROUTE_KEYS)
    assert layer.__module__ == middlewares.__name__


def test_flower_still_sets_its_database_by_a_list() -> None:
    settings = vars(sql_mixin)["SQLITE_PRAGMAS"]
    assert ("journal_mode", "WAL") in settings
    assert not {name for name, _ in superlink.DATABASE} & {name for name, _ in settings}
