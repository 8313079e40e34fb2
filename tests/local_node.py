"""Flower's own local server of a SuperNode, without a hub, and the messages that it would have had of one."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from common import flower, wire
from common.envelope import seal

SECRET = b"s" * 48
NODE = 7

LocalNode = tuple[NodeStateFactory, str]
"""A node's state, and the address of its local interface."""


def node_state() -> NodeStateFactory:
    """The state of a node that the hub has let in."""
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    factory.state().set_node_id(NODE)
    return factory


@contextmanager
def serving() -> Iterator[LocalNode]:
    """A node's local interface on a free port."""
    factory = node_state()
    app = create_app(state_factory=factory, superexec_auth_secret=SECRET)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield factory, f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def put_message(
    factory: NodeStateFactory,
    *,
    ttl: float = 60.0,
    task_type: str = "flwr-clientapp",
    garbled: bytes | None = None,
) -> None:
    """What Flower's loop does when a message came from the hub.

    Args:
        factory: of the node's state.
        ttl: seconds that the message lives.
        task_type: `flwr-agentapp` is one that our worker does not take.
        garbled: what came in place of the message's own object; its hash is right.
    """
    state = factory.state()
    identity = cast(Any, TaskIdentity)
    identity.task_id, identity.run_id, identity.node_id = 1, 5, 1
    run = Run.create_empty(5)
    fab = Fab(flower.bundle_sha256(), flower.bundle(), {})
    run.fab_hash = fab.hash_str
    run.fab_id, run.fab_version = "fedglia/fedglia", "1.0.0"
    context = Context(5, NODE, cast(Any, {}), RecordDict(), cast(Any, {}), series_id=run.series_id)
    state.set_run_series_context(run.series_id, context)
    state.store_run(run)
    state.store_fab(fab)
    assert state.create_task(task_type=task_type, run_id=5, fab_hash=fab.hash_str) is not None
    content = seal(RecordDict({"facts": wire.pack_metrics({"number": 1})}))
    message = Message(content, dst_node_id=NODE, message_type="query.hello", ttl=ttl)
    store = factory.objectstore_factory.store()
    if garbled is None:
        start_client_internal._insert_message(message, state, store)
        return
    key = hashlib.sha256(garbled).hexdigest()
    head = remove_content_from_message(message)
    head.metadata.__dict__["_message_id"] = key
    state.store_message(head)
    store.preregister(5, ObjectTree(object_id=key))
    store.put(key, garbled)
