"""The doctor finds what is wrong, and says how to mend it: one injected fault after another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from client import audit
from client.cli import site as commands
from client.doctor import contact, installation, machine, running
from client.doctor.findings import Finding
from client.doctor.subject import Subject, subject
from client.doctor.table import CHECKS, Row, _made, examine
from client.join import init_site
from client.settings import edited, policy_of
from client.trust import trust
from common import certificates
from common.errors import SiteError
from common.flower import bundle_sha256
from common.processes import ServiceState
from tests.client.stub_hub import StubHub, serving

ROOT = Path(__file__).resolve().parents[2]
SAYS = (
    f"version={version('fedglia')} flwr={version('flwr')} torch={version('torch').split('+')[0]} "
    f"python=3.{sys.version_info.minor} bundle={bundle_sha256()}"
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass
class World:
    """A site in order, and its hub; a fault is put into one of them."""

    folder: Path
    hub: StubHub
    patch: pytest.MonkeyPatch

    def edit(self, old: str, new: str) -> None:
        """Change site.toml."""
        file = self.folder / "site.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHub]:
    with serving(tmp_path_factory.mktemp("pki")) as hub:
        yield hub


@pytest.fixture
def world(
    tmp_path: Path, served: StubHub, tiny_cohorts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> World:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(contact, "MEASURED_FOR_S", 0.0)
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:{os.environ['PATH']}")
    for name, value in vars(StubHub(served.pki)).items():
        if name not in ("pki", "address"):
            setattr(served, name, value)
    served.says = SAYS
    site = tmp_path / "site"
    policy: dict[str, object] = {"minimum_sites": 3}
    init_site(site, hub=served.address, name="adult-a", data=tiny_cohorts["adult-a"], policy=policy)
    trust(site, served.address, ca=served.ca)
    with edited(site) as document:
        policy_of(document)["approved"] = [{"plan": "demo", "sha256": "ab" * 32, "when": ""}]
    return World(site, served, monkeypatch)


def look(world: World, code: str, *, timeout_s: float = 5.0) -> list[Finding]:
    (row,) = [row for row in CHECKS if row.code == code]
    patient = replace(subject(world.folder), timeout_s=timeout_s)
    return [Finding(said.level, code, said.text, said.mend) for said in _made(row, patient)]


# A site that is in order


def test_a_site_in_order_has_no_fault(world: World) -> None:
    """Every check is made, and what is worth knowing on this machine is no failure."""
    found = list(examine(subject(world.folder)))

    assert [finding for finding in found if finding.level == "FAIL"] == []
    assert {finding.code for finding in found} == {row.code for row in CHECKS}
    here = {"gpu", "processes", "disk", "memory", "shared-memory", "data"}
    assert {finding.code for finding in found if finding.level == "WARN"} <= here
    assert sum(finding.code == "data" and finding.level == "PASS" for finding in found) == 4
    step = next(finding for finding in found if finding.code == "step")
    assert step.text.startswith("one training step on one case took ")
    assert list((world.folder / "cache").iterdir()) == []


def test_the_first_contact_is_made_by_a_check_and_said(world: World) -> None:
    (world.folder / "hub-ca.crt").unlink()
    first, second = look(world, "hub"), look(world, "hub")

    assert [finding.level for finding in first] == ["WARN", "PASS"]
    assert world.hub.fingerprint in first[0].text
    assert "on the telephone" in first[0].mend
    assert [finding.level for finding in second] == ["PASS"]


# Faults


def open_key(world: World) -> None:
    (world.folder / "key").chmod(0o644)


def lose_key(world: World) -> None:
    (world.folder / "key").unlink()


def spoil_key(world: World) -> None:
    (world.folder / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")


def swap_key(world: World) -> None:
    for name in ("key", "key.pub"):
        (world.folder / name).unlink()
    told = world.folder / "join-adult-a.json"
    told.rename(world.folder / "kept.json")
    data = subject(world.folder).site.data
    init_site(world.folder, hub=world.hub.address, name="adult-a", data=data)
    (world.folder / "kept.json").rename(told)


def open_folder(world: World) -> None:
    world.folder.chmod(0o755)


def no_approval(world: World) -> None:
    with edited(world.folder) as document:
        policy_of(document)["approved"] = []


def two_sites(world: World) -> None:
    world.edit("minimum_sites = 3", "minimum_sites = 2")


def cut_record(world: World) -> None:
    audit.note(world.folder, "withdrawn", {"patients": 1})
    file = world.folder / "audit.jsonl"
    file.write_text(file.read_text().replace('"patients":1', '"patients":0'))


def leave_draft(world: World) -> None:
    draft = world.folder / "cache" / ".x.safetensors.12ab.tmp"
    draft.touch()
    os.utime(draft, (1, 1))


def leave_state(world: World) -> None:
    run = world.folder / "state" / ("ab" * 16)
    run.mkdir()
    os.utime(run, (1, 1))


def crash(world: World) -> None:
    record = {"supervisor": 1, "services": {"node": {"pid": 1}}}
    (world.folder / "run" / "services.json").write_text(json.dumps(record))


def no_room(world: World) -> None:
    world.patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5e8))


def little_room(world: World) -> None:
    world.patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5e9))


def small_shared(world: World) -> None:
    world.patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e7))


def no_memory(world: World) -> None:
    table = world.folder / "meminfo"
    table.write_text("MemTotal:       2000000 kB\nMemFree: 1 kB\nMemAvailable:    500000 kB\n")
    world.patch.setattr(machine, "MEMORY_FILE", table)


def small_container(world: World) -> None:
    limit = world.folder / "memory.max"
    limit.write_text("3000000000\n")
    world.patch.setattr(machine, "LIMIT_FILES", (limit,))


def read_only(world: World) -> None:
    def refuse(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    world.patch.setattr("tempfile.TemporaryFile", refuse)


def no_gpu(world: World) -> None:
    world.patch.setattr("torch.cuda.is_available", lambda: False)


def small_gpu(world: World) -> None:
    world.patch.setattr("torch.cuda.is_available", lambda: True)
    world.patch.setattr("torch.cuda.get_device_name", lambda index: "Old Card")
    world.patch.setattr(
        "torch.cuda.get_device_properties", lambda index: SimpleNamespace(total_memory=2_000_000_000)
    )


def old_python(world: World) -> None:
    world.patch.setattr("sys.version_info", (3, 10, 2, "final", 0))


def other_flower(world: World) -> None:
    world.patch.setattr(installation, "version", lambda name: "1.40.0" if name == "flwr" else version(name))


def foreign_package(world: World) -> None:
    owners = {"client": ["fedglia"], "common": ["fedglia", "shared-things"]}
    world.patch.setattr(installation, "packages_distributions", lambda: owners)


def launcher(world: World) -> None:
    programs = world.folder / "bin"
    programs.mkdir()
    (programs / "flwr-clientapp").touch(mode=0o755)
    world.patch.setattr(installation, "environment", lambda name, folder: {"PATH": str(programs)})


def not_on_path(world: World) -> None:
    world.patch.setenv("PATH", "/nowhere")


def taken_port(world: World) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    world.patch.setattr(running, "HELD", taken, raising=False)  # until the test ends
    port = subject(world.folder).site.runtime_port
    world.edit(f"runtime_port = {port}", f"runtime_port = {taken.getsockname()[1]}")


def hub_away(world: World) -> None:
    world.edit(world.hub.address, "127.0.0.1:1")


def hub_unwell(world: World) -> None:
    world.hub.status = 503


def name_unknown(world: World) -> None:
    world.edit(world.hub.address, "hub.invalid:443")

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    world.patch.setattr("socket.getaddrinfo", unknown)


def bad_proxy(world: World) -> None:
    world.edit(world.hub.address, "hub.example:443")
    world.patch.setenv("https_proxy", "http://:3128")


def socks_proxy(world: World) -> None:
    world.edit(world.hub.address, "hub.example:443")
    world.patch.setenv("all_proxy", "socks5://proxy:1080")


def proxy_away(world: World) -> None:
    world.edit(world.hub.address, "hub.example:443")
    world.patch.setenv("https_proxy", "http://me:geheim@127.0.0.1:1")


def proxy_refuses(world: World) -> None:
    """A proxy that wants a password: here anything that answers CONNECT with 407."""
    server = socket.create_server(("127.0.0.1", 0))
    world.patch.setattr(running, "HELD", server, raising=False)  # until the test ends

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = server.accept()
                with caller:
                    caller.recv(4096)
                    caller.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    world.edit(world.hub.address, "hub.example:443")
    world.patch.setenv("https_proxy", f"http://me:geheim@127.0.0.1:{server.getsockname()[1]}")


def other_authority(world: World) -> None:
    (world.folder / "other").mkdir()
    certificates.make_authority(world.folder / "other", "another hub")
    (world.folder / "hub-ca.crt").write_bytes((world.folder / "other" / "ca.crt").read_bytes())


def spoil_authority(world: World) -> None:
    (world.folder / "hub-ca.crt").write_text("hello")


def site_ahead(world: World) -> None:
    world.hub.ahead_s = -6.0


def site_behind(world: World) -> None:
    world.hub.ahead_s = 3.0


def versions_unsaid(world: World) -> None:
    world.hub.says = None


def flower_differs(world: World) -> None:
    world.hub.says = SAYS.replace("flwr=1.41.0", "flwr=1.42.0")


def bundle_differs(world: World) -> None:
    world.hub.says = SAYS.replace(bundle_sha256(), "00" * 32)


def torch_differs(world: World) -> None:
    world.hub.says = SAYS.replace("torch=", "torch=9")


def not_admitted(world: World) -> None:
    world.hub.key = "unknown"


def signature_refused(world: World) -> None:
    world.hub.key = "clock"


def restless(world: World) -> None:
    (world.folder / "logs" / "node.log").write_text("INFO fine\nERROR: Exit Code: 305\n[code: 2004] Failed\n")
    state = ServiceState(pid=os.getpid(), started_at=0.0, restarts=7, last_exit=1)
    world.patch.setattr(running, "states", lambda folder: {"node": state, "worker": replace(state, pid=None)})


def not_heard(world: World) -> None:
    state = ServiceState(pid=os.getpid(), started_at=0.0, restarts=0, last_exit=None)
    world.patch.setattr(running, "states", lambda folder: {"node": state, "worker": state})
    (world.folder / "run" / "last-poll.json").write_text(json.dumps({"time": time.time() - 600, "ok": True}))


def data_gone(world: World) -> None:
    world.edit(str(subject(world.folder).site.data), str(world.folder / "no-scans"))


def one_patient(world: World) -> None:
    few = world.folder.parent / "few"
    few.mkdir()
    data = subject(world.folder).site.data
    (few / "a").symlink_to(sorted(path for path in data.iterdir() if path.is_dir())[0])
    world.edit(str(data), str(few))


def misspelt_withdrawal(world: World) -> None:
    world.edit("withdrawn = []", 'withdrawn = ["P-OO1"]')


FAULTS: list[tuple[Callable[[World], None], str, str, str, str]] = [
    (open_key, "key", "FAIL", "can be read by other users", "chmod 600"),
    (lose_key, "key", "FAIL", "there is no file key", "be admitted anew"),
    (spoil_key, "key", "FAIL", "its key cannot be read", "be admitted anew"),
    (swap_key, "key", "FAIL", "not the one in the join file", "fedglia site init"),
    (open_folder, "folder", "WARN", "other users", "chmod 700"),
    (no_approval, "policy", "WARN", "no plan is approved", "fedglia site approve PLAN"),
    (two_sites, "policy", "WARN", "minimum_sites is 2", "minimum_sites = 3"),
    (cut_record, "records", "FAIL", "line 1 was changed", "move audit.jsonl and audit.head away"),
    (leave_draft, "leftovers", "WARN", "1 half-written file", "fedglia site start"),
    (leave_state, "leftovers", "WARN", "the state of 1 run", "fedglia site start"),
    (crash, "leftovers", "WARN", "did not stop in order", "fedglia site start"),
    (no_room, "disk", "FAIL", "0.5 GB are free", "make room"),
    (little_room, "disk", "WARN", "5.0 GB are free", "make room"),
    (read_only, "disk", "FAIL", "cannot be written (Read-only", "chown"),
    (small_shared, "shared-memory", "WARN", "0.01 GB of shared memory", "--shm-size"),
    (no_memory, "memory", "FAIL", "0.5 of 2.0 GB", "end other programs"),
    (small_container, "memory", "WARN", "max_memory_gb is 16", "max_memory_gb = 2.4"),
    (no_gpu, "gpu", "WARN", "no GPU", "nvidia-smi"),
    (small_gpu, "gpu", "WARN", "Old Card, 2 GB", "adaptation.patch"),
    (old_python, "python", "FAIL", "3.11 to 3.13 are needed", "Python 3.11"),
    (other_flower, "packages", "FAIL", "flwr 1.40.0; ==1.41.0 is needed", "pip install -c constraints.txt"),
    (
        foreign_package,
        "names",
        "FAIL",
        "shared-things has a folder named common",
        "pip uninstall shared-things",
    ),
    (launcher, "programs", "FAIL", "flwr-clientapp can be started by its name", "remove it"),
    (not_on_path, "programs", "WARN", "not on the PATH", "export PATH="),
    (taken_port, "port", "FAIL", "cannot be used", "runtime_port"),
    (hub_away, "hub", "FAIL", "127.0.0.1:1 cannot be reached", "[hub] address in site.toml"),
    (hub_unwell, "hub", "FAIL", "status 503", "fedglia hub status"),
    (name_unknown, "name", "FAIL", "hub.invalid: no address is known", "getent hosts hub.invalid"),
    (bad_proxy, "proxy", "FAIL", "no address of a proxy", "export https_proxy="),
    (socks_proxy, "proxy", "FAIL", "a SOCKS proxy cannot be used", "HTTP proxy"),
    (proxy_away, "proxy", "FAIL", "the proxy http://127.0.0.1:1 takes no connection", "port in https_proxy"),
    (proxy_away, "hub", "WARN", "the way to the hub is not known", "mend proxy and name first"),
    (proxy_refuses, "hub", "FAIL", "the proxy does not let this machine through", "user and password"),
    (other_authority, "hub", "FAIL", "another authority than the pinned", "fedglia site trust --replace"),
    (spoil_authority, "hub", "FAIL", "hub-ca.crt cannot be used", "fedglia site trust"),
    (site_ahead, "clock", "FAIL", "ahead of the hub's; from 5 s", "set-ntp true"),
    (site_behind, "clock", "WARN", "behind the hub's", "set-ntp true"),
    (versions_unsaid, "versions", "WARN", "does not say which versions", "contact"),
    (flower_differs, "versions", "FAIL", "the hub runs 1.42.0", "install the version"),
    (bundle_differs, "versions", "FAIL", "every run would be refused", "install the version"),
    (torch_differs, "versions", "WARN", "results may differ", "install the version"),
    (
        not_admitted,
        "admission",
        "FAIL",
        "does not know this site's key",
        "fedglia hub admit join-adult-a.json",
    ),
    (signature_refused, "admission", "FAIL", "does not accept the time", "mend the clock"),
    (restless, "processes", "WARN", "started again 7 times: the hub does not let it in", "node.log"),
    (restless, "processes", "FAIL", "the worker ended", "worker.log"),
    (not_heard, "heard", "FAIL", "last answered 10 min ago", "node.log"),
    (data_gone, "data", "FAIL", "no such file or folder", "correct data in site.toml"),
    (one_patient, "patients", "FAIL", "1 labelled patient", "label more patients"),
    (data_gone, "step", "FAIL", "no training step is possible", "fedglia data check"),
    (misspelt_withdrawal, "withdrawn", "WARN", "P-OO1", "compare withdrawn"),
]


@pytest.mark.parametrize(
    ("inject", "code", "level", "words", "mend"), FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_fault_is_found_and_its_mend_is_named(
    world: World, inject: Callable[[World], None], code: str, level: str, words: str, mend: str
) -> None:
    if inject is not no_gpu:  # which is how this machine may be
        assert not [found for found in look(world, code) if found.level == level and words in found.text]
    inject(world)
    told = [finding for finding in look(world, code) if finding.level == level and words in finding.text]

    assert len(told) == 1, look(world, code)
    assert mend in told[0].mend


def test_every_kind_of_check_has_a_fault_that_it_finds() -> None:
    assert {row.code for row in CHECKS} - {code for _, code, *_ in FAULTS} == {"cores", "certificate"}


@pytest.mark.parametrize(
    ("days", "code", "level", "words"),
    [
        (10, "certificate", "WARN", "in 10 days"),
        (0, "hub", "FAIL", "has ended by this machine's clock"),
    ],
)
def test_a_certificate_that_ends_is_named(
    world: World, tmp_path: Path, days: int, code: str, level: str, words: str
) -> None:
    with serving(tmp_path / "pki", days=days) as ending:
        world.edit(world.hub.address, ending.address)
        trust(world.folder, ending.address, ca=ending.ca, replace=True)
        told = [finding for finding in look(world, code) if words in finding.text]

    assert [(finding.level, "fedglia hub renew" in finding.mend) for finding in told] == [(level, True)]


def test_a_certificate_for_another_name_is_named(world: World, tmp_path: Path) -> None:
    with serving(tmp_path / "pki", hosts=("hub.example.org",)) as other:
        world.edit(world.hub.address, other.address)
        trust(world.folder, other.address, ca=other.ca, replace=True)
        (found,) = look(world, "hub")

    assert found.level == "FAIL"
    assert "not for the name 127.0.0.1" in found.text
    assert "[hub] address" in found.mend


def test_one_fault_on_the_way_is_one_failure(world: World) -> None:
    """What could not be looked at for it is a warning that says so."""
    bad_proxy(world)
    found = [finding for finding in examine(subject(world.folder), quick=True) if finding.level == "FAIL"]

    assert [finding.code for finding in found] == ["proxy"]


def test_processes_that_units_or_containers_run_are_no_fault(world: World) -> None:
    taken_port(world)
    (world.folder / "run" / "last-poll.json").write_text(json.dumps({"time": time.time(), "ok": True}))

    found = [finding for code in ("port", "processes", "heard") for finding in look(world, code)]
    assert [finding.level for finding in found] == ["PASS"] * 3


def test_no_password_of_a_proxy_is_shown(world: World) -> None:
    proxy_away(world)

    told = " ".join(
        f"{finding.text} {finding.mend}" for code in ("proxy", "name", "hub") for finding in look(world, code)
    )
    assert "http://127.0.0.1:1" in told
    assert "geheim" not in told


def test_a_proxy_that_is_away_is_the_proxys_also_at_first_contact(world: World) -> None:
    (world.folder / "hub-ca.crt").unlink()
    proxy_away(world)

    proxy, hub = (finding for code in ("proxy", "hub") for finding in look(world, code))
    assert (proxy.level, hub.level, hub.mend) == ("FAIL", "FAIL", "mend proxy and name first")


def test_the_clock_is_measured_finer_than_the_hub_tells_it(world: World) -> None:
    world.patch.setattr(contact, "MEASURED_FOR_S", 1.1)
    world.hub.ahead_s = -1.7

    found = contact.ask(world.hub.address, world.hub.ca)
    assert found.ahead_s is not None
    assert abs(found.ahead_s - 1.7) < 0.2


# Never hang


def test_a_hub_that_never_answers_does_not_hold_a_check_up(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        world.edit(world.hub.address, f"127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        (found,) = look(world, "hub", timeout_s=0.3)

    assert (found.level, time.monotonic() - began < 3) == ("FAIL", True)
    assert "cannot be reached" in found.text


def test_name_servers_that_never_answer_do_not_hold_a_check_up(world: World) -> None:
    def slow(*arguments: object, **options: object) -> list[object]:
        time.sleep(1.5)
        return []

    world.patch.setattr("socket.getaddrinfo", slow)
    began = time.monotonic()
    (found,) = look(world, "name", timeout_s=0.2)

    assert (found.level, time.monotonic() - began < 1) == ("FAIL", True)
    assert "no answer within 0.2 s" in found.text


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(world: World) -> None:
    def broken(looked_at: Subject) -> Iterator[object]:
        raise ZeroDivisionError("by nothing")
        yield

    (said,) = _made(Row("x", "the weather", broken), subject(world.folder))  # type: ignore[arg-type]
    assert said.level == "FAIL"
    assert "the weather could not be looked at (ZeroDivisionError: by nothing)" in said.text


def test_the_handbook_has_a_line_for_every_code() -> None:
    page = (ROOT / "docs" / "site-handbook.md").read_text()
    table = page.split("| code | looks at |", 1)[1].split("\n\n", 1)[0]

    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == [row.code for row in CHECKS]


# The command


def run(world: World, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(commands, ["check", "--quick", "--site", str(world.folder), *words])
    return done.exit_code, done.output


def test_the_command_ends_with_0_or_1_and_speaks_json(world: World) -> None:
    status, text = run(world)
    assert status == 0, text
    assert "PASS  admission      the hub knows the key of adult-a" in text
    not_admitted(world)
    status, text = run(world, "--json")
    assert status == 1
    rows = json.loads(text)
    assert set(rows[0]) == {"level", "code", "text", "mend"}
    assert [row["code"] for row in rows if row["level"] == "FAIL"] == ["admission"]
    assert not {row.code for row in CHECKS if row.slow} & {row["code"] for row in rows}


def test_a_site_toml_that_cannot_be_read_is_an_error_of_its_own(world: World) -> None:
    text = (world.folder / "site.toml").read_text()
    for spoilt in ("name = ", text.split("[hub]")[0]):
        (world.folder / "site.toml").write_text(spoilt)
        with pytest.raises(SiteError) as refused:
            subject(world.folder)
        assert refused.value.exit_status == 2


def test_whatever_fails_or_warns_says_how_to_mend_it(world: World) -> None:
    for inject in (open_key, open_folder, no_memory, flower_differs, not_admitted, data_gone):
        inject(world)
    found = list(examine(subject(world.folder)))

    assert [finding for finding in found if finding.level != "PASS" and not finding.mend] == []
    assert {finding.code for finding in found if finding.level == "FAIL"} >= {
        *("key", "memory", "versions", "admission", "data", "step")
    }
