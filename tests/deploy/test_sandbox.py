"""What the units forbid does not happen under them, and what the programs need does.

systemd itself does not run in tests; the rules on system calls, address families and memory are put on by
`under_unit`. Mounts, users and the firewall of a unit are not tried here.
"""

from __future__ import annotations

import ctypes.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, program

UNDER_UNIT = Path(__file__).with_name("under_unit.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or ctypes.util.find_library("seccomp") is None,
    reason="needs Linux and libseccomp",
)


def command(unit: str, *words: str) -> list[str]:
    """A command under the rules of a unit."""
    program("systemd-analyze")
    return [sys.executable, str(UNDER_UNIT), str(DEPLOY / "systemd" / f"{unit}.service"), *words]


def told(unit: str, script: str) -> str:
    """What a Python script prints under the rules of a unit."""
    asked = command(unit, sys.executable, "-W", "ignore", "-c", script)
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    if "memory: write or execute" in done.stderr:
        pytest.skip("this kernel is older than 6.3")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRIES = """
import ctypes, mmap, socket
libc = ctypes.CDLL(None, use_errno=True)
def allowed(act):
    try:
        act()
    except PermissionError:
        return False
    return True
def call(name):
    ctypes.set_errno(0)
    if getattr(libc, name)(0, 0, 0, 0, 0) < 0 and ctypes.get_errno() == 1:
        raise PermissionError
print(*[name for name, act in {
    "internet": lambda: socket.socket(socket.AF_INET).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "mount": lambda: call("mount"),
    "ptrace": lambda: call("ptrace"),
    "setuid": lambda: call("setuid"),
    "reboot": lambda: call("reboot"),
    "made-code": lambda: mmap.mmap(-1, 4096, prot=7).close(),
}.items() if allowed(act)])
"""


@pytest.mark.parametrize(
    ("unit", "allowed"),
    [
        ("fedglia-hub", "internet"),
        ("fedglia-site-node", "internet"),
        ("fedglia-site-worker", "internet made-code"),
    ],
)
def test_what_is_forbidden_is_refused(unit: str, allowed: str) -> None:
    assert told(unit, TRIES) == allowed


TRAINING = """
import os, signal, torch
torch.set_num_threads(1)
child = os.fork()
network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.InstanceNorm3d(4), torch.nn.Conv3d(4, 2, 1))
optimiser = torch.optim.AdamW(network.parameters())
network(torch.ones(1, 1, 16, 16, 16)).square().mean().backward()
optimiser.step()
if child == 0:
    os._exit(0)
signal.pidfd_send_signal(os.pidfd_open(child), 0)
print(os.waitpid(child, 0)[1], torch.backends.cpu.get_cpu_capability())
"""


def test_a_worker_trains_in_a_fork_with_the_processors_own_instructions() -> None:
    plain = subprocess.run(
        [sys.executable, "-c", TRAINING],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=True,
    )
    assert told("fedglia-site-worker", TRAINING) == plain.stdout.strip()
    assert plain.stdout.startswith("0 ")


def test_the_edge_serves_under_the_hubs_rules() -> None:
    nginx = program("nginx")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o777)
        (folder / "nginx.conf").write_text(
            "daemon off; pid pid; worker_processes 1; error_log stderr; events {}\n"
            "http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;\n"
            "uwsgi_temp_path u; scgi_temp_path s;\n"
            f"server {{ listen 127.0.0.1:{port}; location = /health {{ return 200; }} }} }}\n"
        )
        asked = command("fedglia-hub", nginx, "-e", "stderr", "-p", name, "-c", "nginx.conf")
        assert_serves([*nobody(), *asked], f"http://127.0.0.1:{port}/health")


def nobody() -> list[str]:
    """Makes a command of root somebody else's: nginx of root changes owners, which the unit forbids."""
    if os.geteuid() != 0:
        return []
    return [program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.mark.slow
def test_the_link_serves_under_the_hubs_rules(tmp_path: Path) -> None:
    port = free_port()
    words = ["--insecure", "--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    link = [program("flower-superlink"), *words, "--database", str(tmp_path / "state.db")]
    assert_serves(command("fedglia-hub", *link), f"http://127.0.0.1:{port}/health")


def assert_serves(asked: list[str], url: str) -> None:
    """Start a server, wait until it answers, stop it."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    process = subprocess.Popen(asked, env={**ENVIRONMENT, **quiet})
    try:
        assert answers(url, within_s=40)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        finally:
            process.kill()


def answers(url: str, *, within_s: float) -> bool:
    """Whether a URL answers with 200 in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.1)
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
