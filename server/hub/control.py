"""The coordinator's side of Flower: its own `flwr` command, and for what is asked often the SuperLink itself.

A command starts a process, which takes about a second; who is registered is asked in this one, in
hundredths of that. Each call ends by a deadline. That the hub is not running is found out first, and said in
words.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import datetime
from shlex import quote
from typing import TYPE_CHECKING, Any

from common.errors import RunError
from server.hub.folder import Hub, programs

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo

LIMIT_S = 60.0
_KNOCK_S = 3.0
_IN_USE = "already in use"
_LIST_NODES = "/v1/control/list-nodes"


def start_run(hub: Hub, run_name: str) -> str:
    """Start the ServerApp on the run directory of this name; returns Flower's number of the run.

    Raises:
        RunError: the hub is not running, or Flower refuses.
    """
    answer = _flwr(hub, "run", str(hub.folder / "app"), "hub", "-c", f"run={json.dumps(run_name)}")
    return str(answer["run-id"])


def stop_run(hub: Hub, run_id: str) -> None:
    """End a run at once, its ServerApp with it.

    Raises:
        RunError: the hub is not running, or the run has ended already.
    """
    _flwr(hub, "stop", run_id, "hub")


def list_runs(hub: Hub) -> list[dict[str, Any]]:
    """Every run that Flower knows, the latest first; its keys are those of `flwr ls --format json`.

    Raises:
        RunError: the hub is not running.
    """
    runs = _flwr(hub, "ls", "hub").get("runs", [])
    return sorted(runs, key=lambda run: str(run["pending-at"]), reverse=True)


def nodes(hub: Hub) -> dict[int, str]:
    """Number -> status of every site that is registered: "registered" (never came), "online" or "offline".

    Those that were unregistered are left out.

    Raises:
        RunError: the hub is not running.
    """
    return {node.node_id: node.status for node in _registered(hub)}


def registered_since(hub: Hub, moment: str) -> list[int]:
    """Numbers of the sites that were registered at or after `moment` ("2026-01-31T12:00:00+00:00", UTC).

    Raises:
        RunError: the hub is not running.
    """
    first = datetime.fromisoformat(moment).replace(microsecond=0)
    return [node.node_id for node in _registered(hub) if datetime.fromisoformat(node.registered_at) >= first]


def register(hub: Hub, public_key: str, name: str) -> int | None:
    """Make a key known under a site's name; returns Flower's number of it, None where the key is known.

    Raises:
        RunError: the hub is not running, or Flower refuses the key.
    """
    with tempfile.NamedTemporaryFile("w", dir=hub.folder, prefix=".key.", suffix=".tmp") as file:
        file.write(public_key + "\n")
        file.flush()
        try:
            answer = _flwr(hub, "supernode", "register", file.name, "hub", "--name", name)
        except RunError as error:
            if _IN_USE in str(error).lower():
                return None
            raise
    return int(answer["node-id"])


def unregister(hub: Hub, node_id: int) -> None:
    """Forget a site: its next call is refused. Its key can never be registered again.

    Raises:
        RunError: the hub is not running, or knows no such site.
    """
    _flwr(hub, "supernode", "unregister", str(node_id), "hub")


def is_up(hub: Hub) -> bool:
    """Whether something listens where the SuperLink does."""
    try:
        with socket.create_connection(("127.0.0.1", hub.ports.link), timeout=_KNOCK_S):
            return True
    except OSError:
        return False


def _registered(hub: Hub) -> Iterable[NodeInfo]:
    """What `flwr supernode ls` shows, asked without a process: sites that are registered now."""
    import httpx
    from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    _check_up(hub)
    question = ListNodesRequest().SerializeToString()
    headers = dict.fromkeys(("accept", "content-type"), "application/protobuf")
    try:
        context = ssl.create_default_context(cafile=str(hub.pki / "ca.crt"))
        with httpx.Client(verify=context, timeout=LIMIT_S, trust_env=False) as client:
            answer = client.post(
                f"https://{hub.link_address}{_LIST_NODES}", content=question, headers=headers
            )
        answer.raise_for_status()
        found = ListNodesResponse.FromString(answer.content).nodes_info
    except httpx.TimeoutException:
        raise _slow() from None
    except (OSError, httpx.HTTPError, DecodeError) as error:
        raise RunError(f"the link does not say who is registered: {error}", code="flower") from None
    return [node for node in found if node.status != "unregistered"]


def _check_up(hub: Hub) -> None:
    if not is_up(hub):
        raise RunError(
            f"the hub is not running; start it: fedglia hub start --hub {quote(str(hub.folder))}",
            code="hub-down",
        )


def _slow() -> RunError:
    return RunError(
        f"the hub did not answer within {LIMIT_S:.0f} s; look at logs/link.log in the hub's folder",
        code="hub-slow",
    )


def _flwr(hub: Hub, *words: str) -> dict[str, Any]:
    """Run one `flwr` command and read its JSON."""
    _check_up(hub)
    asked = [str(programs() / "flwr"), *words, "--format", "json"]
    try:
        done = subprocess.run(
            asked,
            env=_environment(hub),
            cwd=hub.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _slow() from None
    return _answer(words, done)


def _environment(hub: Hub) -> dict[str, str]:
    return {**os.environ, **hub.environment(), "NO_COLOR": "1", "COLUMNS": "1000"}


def _answer(words: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    said = f"flwr {words[0]}"
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        detail = (done.stderr or done.stdout).strip().splitlines()
        raise RunError(f"{said}: {detail[-1] if detail else 'no answer'}", code="flower") from None
    if not isinstance(answer, dict) or not answer.get("success"):
        reason = str(answer.get("error-message", "")) if isinstance(answer, dict) else ""
        lines = [line for line in reason.splitlines() if line.strip()]  # what was printed before is in it too
        raise RunError(f"{said}: {lines[-1] if lines else 'refused without a reason'}", code="flower")
    return answer
