"""The two processes: do they run, do they stay up, has the hub heard them, is their port free."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject
from client.services import NAMES
from client.status import heard_s, is_heard, spoken, why
from common.processes import states

RESTLESS = 3


def check_processes(subject: Subject) -> Iterator[Said]:
    """Do the node and the worker run, and do they stay up?"""
    folder = subject.folder
    found = states(folder)
    if not found:
        if _fresh(subject):
            yield passed("the node is heard; containers or units run the processes")
        else:
            yield warned("the site does not run", "fedglia site start")
        return
    for name in NAMES:
        state = found.get(name)
        log = f"see {folder}/logs/{name}.log"
        if state is None or state.pid is None:
            yield failed(f"the {name} ended and is started again and again: {why(folder, name)}", log)
        elif state.restarts >= RESTLESS:
            yield warned(f"the {name} was started again {state.restarts} times: {why(folder, name)}", log)
        else:
            yield passed(f"the {name} runs")


def check_heard(subject: Subject) -> Iterator[Said]:
    """Has the hub answered the node lately?"""
    heard = heard_s(subject.folder)
    if heard is not None and _fresh(subject):
        yield passed(f"the hub answered the node {spoken(heard)} ago")
    elif not states(subject.folder):
        yield passed("not looked at: the site does not run")
    else:
        last = "has not answered the node yet" if heard is None else f"last answered {spoken(heard)} ago"
        yield failed(
            f"the hub {last}",
            "mend what failed above; a node that came from another machine is let in after 20 s; see "
            f"{subject.folder}/logs/node.log",
        )


def check_port(subject: Subject) -> Iterator[Said]:
    """Is the port between the two processes free for them?"""
    port = subject.site.runtime_port
    if states(subject.folder) or _fresh(subject):
        yield passed(f"port {port} on 127.0.0.1 is the node's")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            yield failed(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror})",
                "set another runtime_port in [hub] of site.toml",
            )
            return
    yield passed(f"port {port} on 127.0.0.1 is free")


def _fresh(subject: Subject) -> bool:
    return is_heard(subject.folder)
