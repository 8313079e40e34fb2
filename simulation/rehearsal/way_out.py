"""A whole run of sites that have one way out: the hospital's proxy, which alone knows where the hub is.

Where the machine allows it the sites live in a network without any other way; else only the name, which
resolves nowhere, keeps them from going round the proxy.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import tomlkit

from simulation.rehearsal.closed_network import ClosedNetwork, closed_network
from simulation.rehearsal.machines import SiteMachine
from simulation.rehearsal.proxy import Proxy
from simulation.rehearsal.scene import Scene

LOGIN = ("site", "rehearsal")
_PROBE_S = 20.0
_PROBE = """\
import socket, sys
hub = lambda: socket.create_connection(("127.0.0.1", {port}), 3)
name = lambda: socket.getaddrinfo("{host}", 1)
ways = 0
for way in (hub, name):
    try:
        way()
        ways += 1
    except OSError:
        pass
sys.exit(ways)
"""


def move_behind_proxy(scene: Scene) -> None:
    """Stop the sites, and start them where only the proxy is; they move back when the run is over."""
    network = scene.things.enter_context(closed_network())
    proxy = Proxy(
        scene.hub.address,
        names={scene.hub.host: "127.0.0.1"},
        login=LOGIN,
        listener=network.listen() if network else None,
    )
    proxy.start()
    scene.things.callback(proxy.stop)
    scene.facts |= {"proxy": proxy, "network": network}
    for name, site in list(scene.sites.items()):
        site.do("site", "stop")
        scene.things.callback(partial(_move_back, scene, site, _address(site, scene.hub.address)))
        prefix = network.prefix if network else ()
        scene.sites[name] = replace(site, environment={"https_proxy": proxy.url}, prefix=prefix)
        scene.sites[name].do("site", "start")
    scene.facts["by_link"] = _links(scene)  # by now nobody is left who dials them


def describe(scene: Scene) -> str:
    """Nothing is injected here: the way itself is the fault."""
    network: ClosedNetwork | None = scene.facts["network"]
    where = "in a network with no other way out" if network else "the hub's name resolving nowhere else"
    return f"every site behind a CONNECT proxy with a password, {where}"


def faults_of_the_way(scene: Scene) -> Iterator[str]:
    """What shows that some site went another way."""
    proxy: Proxy = scene.facts["proxy"]
    if not proxy.tunnels:
        yield "the proxy let nothing through"
    if _links(scene) != scene.facts["by_link"]:
        yield "a site was seen on its link, beside the proxy"
    network: ClosedNetwork | None = scene.facts["network"]
    if network is not None and not _is_closed(scene, network):
        yield "the closed network has another way out"


def _links(scene: Scene) -> int:
    return sum(link.traffic.connections for link in scene.links.values())


def _is_closed(scene: Scene, network: ClosedNetwork) -> bool:
    probe = _PROBE.format(port=scene.hub.port, host=scene.hub.host)
    command = (*network.prefix, sys.executable, "-c", probe)
    return subprocess.run(command, timeout=_PROBE_S, check=False).returncode == 0


def _move_back(scene: Scene, site: SiteMachine, address: str) -> None:
    scene.sites[site.name].do("site", "stop")
    _address(site, address)
    scene.sites[site.name] = site


def _address(site: SiteMachine, address: str) -> str:
    """Let a site dial another address, as its people would: in site.toml; gives the one before."""
    file = site.folder / "site.toml"
    words = tomlkit.parse(file.read_text())
    hub = words["hub"]
    assert isinstance(hub, dict)
    before = str(hub["address"])
    hub["address"] = address
    file.write_text(tomlkit.dumps(words))
    return before
