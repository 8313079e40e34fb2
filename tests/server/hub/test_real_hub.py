"""A whole hub of real processes, and what an outsider, a site and a kill can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common import processes
from common.fleet import is_admitted
from common.flower import QUIET
from server.hub import running as hub_running
from server.hub.folder import Hub, Ports, open_hub, programs
from server.hub.making import make_hub
from tests.server.hub.conftest import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nginx")]

MIB = 1 << 20


def until(what: str, found: Callable[[], object], *, wait_s: float = 60) -> None:
    """Ask until the answer is true; fails with what was waited for."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if found():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain until {what}")


def fedglia(hub: Hub, *words: object) -> subprocess.CompletedProcess[str]:
    """A command as the shell runs it."""
    asked = [str(programs() / "fedglia"), "hub", *map(str, words), "--hub", str(hub.folder)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=200, check=False)


def pid(hub: Hub, service: str) -> int:
    """Process id of a service that runs."""
    until(f"{service} runs", lambda: processes.states(hub.folder)[service].pid)
    return int(processes.states(hub.folder)[service].pid or 0)


def resident_bytes(process: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


@dataclass(frozen=True)
class Site:
    """A site's key and join file, and nothing of ours besides: its node is Flower's own program."""

    name: str
    folder: Path
    hub: Hub

    @property
    def join(self) -> Path:
        """What it would send."""
        return self.folder / "join.json"

    def node(self) -> subprocess.Popen[bytes]:
        """Flower's SuperNode with this site's key."""
        (self.folder / "secret").write_bytes(os.urandom(48))
        (self.folder / "secret").chmod(0o600)
        words = [
            *(
                str(programs() / "flower-supernode"),
                "--superlink",
                self.hub.address,
                "--isolation",
                "process",
            ),
            *("--root-certificates", str(self.hub.pki / "ca.crt")),
            *("--auth-supernode-private-key", str(self.folder / "key")),
            *("--superexec-auth-secret-file", str(self.folder / "secret")),
            *("--host", "127.0.0.1", "--port", str(free_port())),
        ]
        with (self.folder / "log").open("wb") as output:
            return subprocess.Popen(words, stdout=output, stderr=output, env={**os.environ, **QUIET})

    def is_known(self) -> bool | None:
        """Whether the hub would take this key."""
        key = (self.folder / "key").read_bytes()
        return is_admitted(self.hub.address, key, self.hub.pki / "ca.crt", timeout_s=10)

    def state(self) -> str:
        """What the hub says of it."""
        found = json.loads(fedglia(self.hub, "status", "--json").stdout)["sites"]
        return str(found.get(self.name, {}).get("state"))


def make_site(folder: Path, name: str, hub: Hub) -> Site:
    """A site with a fresh key."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "key").chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    words = {"schema": 1, "site": name, "public_key": public}
    words |= {"fedglia": version("fedglia"), "flwr": version("flwr")}
    (folder / "join.json").write_text(json.dumps(words))
    return Site(name, folder, hub)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever happens, the process is gone afterwards."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)


def made(folder: Path) -> Hub:
    """A hub on free ports."""
    port = free_port()
    hub = make_hub(folder, address=f"localhost:{port}")
    text = (folder / "hub.toml").read_text()
    for old, new in ((hub.ports.link, port + 1), (hub.ports.health, port + 2)):
        text = text.replace(f"= {old}\n", f"= {new}\n")
    (folder / "hub.toml").write_text(text)
    assert open_hub(folder).ports == Ports(edge=port, link=port + 1, health=port + 2)
    return open_hub(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, nginx: None) -> Iterator[Hub]:
    """A hub that runs, started as a coordinator starts it."""
    found = made(tmp_path_factory.mktemp("real") / "hub")
    try:
        started = fedglia(found, "start")
        assert started.returncode == 0, started.stderr
        assert f"the hub answers at {found.address}; admitted: nobody yet" in started.stdout
        yield found
    finally:
        hub_running.stop(found)


@pytest.fixture
def outside(hub: Hub) -> Iterator[httpx.Client]:
    """Somebody who knows the address and the certificate's authority, and nothing else."""
    context = ssl.create_default_context(cafile=str(hub.pki / "ca.crt"))
    with httpx.Client(
        base_url=f"https://{hub.address}", verify=context, timeout=60, trust_env=False
    ) as client:
        yield client


def test_the_coordinators_part_cannot_be_seen_from_outside(hub: Hub, outside: httpx.Client) -> None:
    inside = httpx.post(
        f"https://{hub.link_address}/v1/control/list-nodes",
        verify=ssl.create_default_context(cafile=str(hub.pki / "ca.crt")),
        headers={"content-type": "application/protobuf"},
    )
    assert inside.status_code not in (403, 404)  # there it is, without a password
    for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs"):
        assert outside.post(path).status_code == 404
        assert outside.get(path).status_code == 404


def test_only_the_edge_listens_outside(hub: Hub) -> None:
    groups = {os.getpgid(pid(hub, name)): name for name in ("link", "exec", "edge")}
    supervisor = json.loads((hub.folder / "run" / "services.json").read_text())["supervisor"]
    groups[os.getpgid(supervisor)] = "supervisor"
    assert listeners(groups) == {
        ("edge", hub.listen, hub.ports.edge),  # here loopback too: tests open nothing to the outside
        ("link", "127.0.0.1", hub.ports.link),
        ("link", "127.0.0.1", hub.ports.health),
    }


def test_a_site_is_let_in_when_it_is_admitted_and_out_when_it_is_revoked(hub: Hub, tmp_path: Path) -> None:
    site = make_site(tmp_path / "ssa", "ssa", hub)
    assert site.is_known() is False
    with ended(site.node()) as refused:
        assert refused.wait(timeout=60) != 0
    assert fedglia(hub, "admit", site.join).returncode == 0
    assert site.is_known() is True
    with ended(site.node()) as node:
        until("the site is connected", lambda: site.state() == "connected")
        for _ in range(3):
            assert "in use" in fedglia(hub, "renew").stdout
            time.sleep(3.5)  # a stock node asks every three seconds
        assert node.poll() is None
        assert "retrying" not in (site.folder / "log").read_text()
        began = time.monotonic()
        assert fedglia(hub, "revoke", "ssa").returncode == 0
        assert site.is_known() is False
        node.wait(timeout=30)
        assert time.monotonic() - began < 30
    with ended(site.node()) as refused:
        assert refused.wait(timeout=60) != 0
    assert site.state() == "revoked"
    assert fedglia(hub, "admit", site.join).returncode == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_huge_body_never_reaches_the_superlink(
    hub: Hub, outside: httpx.Client, tmp_path: Path, chunked: bool
) -> None:
    name = "big-chunked" if chunked else "big"
    assert fedglia(hub, "admit", make_site(tmp_path / name, name, hub).join).returncode == 0
    key = (hub.folder / "edge" / "admitted.conf").read_text().split('"')[1]
    headers = {"content-type": "application/protobuf", "flwr-public-key": key}
    if not chunked:
        headers["content-length"] = str(600 * MIB)
    link = pid(hub, "link")
    before = resident_bytes(link)
    answered = None
    with contextlib.suppress(httpx.WriteError):  # the edge hangs up in the middle
        body = (bytes(MIB) for _ in range(600))
        answered = outside.post("/v1/fleet/push-object", headers=headers, content=body).status_code
    assert answered in (413, None)
    assert chunked or answered == 413
    assert pid(hub, "link") == link
    assert resident_bytes(link) - before < 32 * MIB
    line = '"POST /v1/fleet/push-object HTTP/1.1" 413'
    until("it is written down", lambda: line in (hub.folder / "logs" / "edge.log").read_text())


def test_a_killed_process_is_back_and_the_others_stay(hub: Hub, outside: httpx.Client) -> None:
    others = pid(hub, "exec")
    link = pid(hub, "link")
    os.kill(link, signal.SIGKILL)
    statuses = set()

    def answers() -> bool:
        statuses.add(outside.get("/health").status_code)
        return outside.get("/health").status_code == 200 and pid(hub, "link") != link

    until("the SuperLink is back", answers)
    assert statuses <= {200, 502, 504}
    os.kill(pid(hub, "edge"), signal.SIGKILL)
    until("the edge is back", lambda: hub_running.health_problem(hub) is None)
    assert pid(hub, "exec") == others
    assert json.loads(fedglia(hub, "status", "--json").stdout)["services"]["link"]["restarts"] == 1


def test_a_lost_database_and_a_killed_supervisor_cost_no_admission(hub: Hub, tmp_path: Path) -> None:
    site = make_site(tmp_path / "adult-a", "adult-a", hub)
    assert fedglia(hub, "admit", site.join).returncode == 0
    again = fedglia(hub, "start")
    assert again.returncode == 1
    assert "runs already" in again.stderr
    supervisor = json.loads((hub.folder / "run" / "services.json").read_text())["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    until("nothing runs", lambda: not processes.states(hub.folder))
    until("the link is gone", lambda: not listens(hub.ports.link))
    for path in hub.folder.glob("state.db*"):
        path.unlink()
    started = fedglia(hub, "start")
    assert started.returncode == 0, started.stderr
    assert site.is_known() is True


def test_what_is_in_the_way_is_said_before_anything_starts(tmp_path: Path, nginx: None) -> None:
    other = made(tmp_path / "other")
    with socket.create_server(("127.0.0.1", other.ports.link)):
        refused = fedglia(other, "start")
    assert refused.returncode == 2
    assert f"port {other.ports.link} (link) on 127.0.0.1: address already in use" in refused.stderr
    assert not (other.folder / "run" / "services.json").exists()


def test_in_the_foreground_it_ends_with_its_terminal(tmp_path: Path, nginx: None) -> None:
    other = made(tmp_path / "other")
    words = [sys.executable, "-P", str(programs() / "fedglia"), "hub", "start", "--foreground"]
    with ended(subprocess.Popen([*words, "--hub", str(other.folder)])) as process:
        until("it answers", lambda: hub_running.health_problem(other) is None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert not listens(other.ports.edge)
    assert not listens(other.ports.link)


def test_an_address_that_the_certificate_does_not_hold_is_not_believed(hub: Hub) -> None:
    assert hub_running.health_problem(hub) is None
    assert "certificate" in str(
        hub_running.health_problem(replace(hub, address=f"hub.test:{hub.ports.edge}"))
    )


def listeners(groups: Mapping[int, str]) -> set[tuple[str, str, int]]:
    """Name, address and port of everything that the processes of named process groups listen on."""
    sockets = listening_sockets()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            name = groups.get(os.getpgid(int(process.name)))
            opened = {str(file.readlink()) for file in (process / "fd").iterdir()} if name else set()
            found |= {(str(name), *sockets[each]) for each in opened & set(sockets)}
    return found


def listening_sockets() -> dict[str, tuple[str, int]]:
    """Address and port of every TCP socket that listens, by what a process's file descriptor is called."""
    found = {}
    for file, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net", file)
        for words in map(str.split, table.read_text().splitlines()[1:] if table.exists() else ()):
            address, port = words[1].split(":")
            number = bytes.fromhex(address)
            if sys.byteorder == "little":  # the kernel prints words of its own byte order
                number = b"".join(number[at : at + 4][::-1] for at in range(0, len(number), 4))
            if words[3] == "0A":
                where = socket.inet_ntop(family, number).removeprefix("::ffff:")  # an address of IPv4
                found[f"socket:[{words[9]}]"] = (where, int(port, 16))
    return found


def listens(port: int) -> bool:
    """Whether somebody does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
