"""Making a hub: whole or not at all, closed to others, mended where that can be done."""

from __future__ import annotations

import socket
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from common import certificates
from common.errors import InputError, RunError
from common.flower import bundle
from server.hub.folder import Hub, Ports, open_hub
from server.hub.making import busy_ports, make_hub, repair_certificates, write_derived
from tests.server.hub.conftest import free_port


def modes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777
        for path in [folder, *folder.rglob("*")]
    }


def test_others_can_read_nothing(hub: Hub) -> None:
    found = modes(hub.folder)
    assert found["."] == found["pki"] == found["runs"] == 0o700
    secret = {name for name in found if name.endswith(".key") or name == "secret"}
    assert secret == {"secret", "pki/ca.key", "pki/edge.key", "pki/link.key"}
    assert {found[name] for name in secret} == {0o600}


@pytest.mark.parametrize(
    ("address", "listen", "ports"),
    [
        ("localhost:8443", "127.0.0.1", (8443, 28443, 28444)),
        ("hub.example.org:443", "0.0.0.0", (443, 20443, 20444)),
        ("10.1.2.3:50000", "0.0.0.0", (50000, 30000, 30001)),
        ("127.0.0.2:8443", "127.0.0.2", (8443, 28443, 28444)),
        ("[2001:db8::1]:8443", "[::]", (8443, 28443, 28444)),
        ("[::1]:8443", "[::1]", (8443, 28443, 28444)),
    ],
)
def test_the_settings_follow_from_the_address(
    tmp_path: Path, address: str, listen: str, ports: tuple[int, int, int]
) -> None:
    hub = make_hub(tmp_path / "hub", address=address)
    assert (hub.address, hub.listen) == (address, listen)
    assert (hub.ports.edge, hub.ports.link, hub.ports.health) == ports
    assert tomllib.loads((hub.folder / "hub.toml").read_text())["address"] == address


def test_two_hubs_share_no_secret(tmp_path: Path) -> None:
    first, second = (make_hub(tmp_path / name, address="localhost:8443") for name in "ab")
    for name in ("secret", "pki/ca.key", "pki/ca.crt"):
        assert (first.folder / name).read_bytes() != (second.folder / name).read_bytes()


def test_nothing_is_made_over_something(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a hub already; start it"):
        make_hub(hub.folder, address="localhost:1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="is not empty"):
        make_hub(tmp_path / "full", address="localhost:1")
    with pytest.raises(InputError, match="is a file"):
        make_hub(tmp_path / "full" / "x", address="localhost:1")
    with pytest.raises(InputError, match="is not HOST:PORT"):
        make_hub(tmp_path / "new", address="nonsense")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_filled_and_not_replaced(tmp_path: Path) -> None:
    """A disk that is mounted there cannot be replaced; a new one holds lost+found."""
    mounted = tmp_path / "hub"
    (mounted / "lost+found").mkdir(parents=True)
    mounted.chmod(0o755)
    before = mounted.stat().st_ino
    hub = make_hub(mounted, address="localhost:8443")
    assert mounted.stat().st_ino == before
    assert modes(hub.folder)["."] == 0o700
    assert {path.name for path in mounted.iterdir()} == {"hub.toml", "lost+found", "pki", "runs", "secret"}
    assert repair_certificates(hub) == []


def test_a_kill_before_the_end_leaves_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub").mkdir()
    moved: list[str] = []

    def killed(path: Path, target: Path) -> None:
        moved.append(target.name)
        if target.name == "hub.toml":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        make_hub(tmp_path / "hub", address="localhost:1")
    assert moved[-1] == "hub.toml"
    with pytest.raises(InputError, match="holds no hub"):
        open_hub(tmp_path / "hub")


def test_a_folder_of_another_user_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(InputError, match="is another user's"):
        make_hub(tmp_path / "hub", address="localhost:1")
    assert list((tmp_path / "hub").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise RunError("ca.key: cannot be written (No space left on device)", code="disk")

    monkeypatch.setattr(certificates, "write_atomic", full)
    with pytest.raises(RunError, match="No space left"):
        make_hub(tmp_path / "hub", address="localhost:1")
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_the_certificates_is_mended(hub: Hub) -> None:
    assert repair_certificates(hub) == []
    (hub.pki / "link.crt").unlink()
    (hub.pki / "edge.key").write_text("half a k")
    assert repair_certificates(hub) == ["edge", "link"]
    assert repair_certificates(hub) == []
    (hub.pki / "ca.crt").unlink()
    with pytest.raises(InputError, match=r"ca\.crt: is no certificate"):
        repair_certificates(hub)


def test_the_links_certificate_outlives_the_edges(hub: Hub) -> None:
    assert certificates.expiry(hub.pki / "link.crt").year > certificates.expiry(hub.pki / "edge.crt").year + 5


def test_what_follows_from_the_settings_is_written_anew(hub: Hub) -> None:
    moved = hub.folder.with_name("elsewhere")
    write_derived(hub)
    hub.folder.rename(moved)
    write_derived(open_hub(moved))
    connection = tomllib.loads((moved / "flower" / "config.toml").read_text())["superlink"]["hub"]
    assert connection == {"address": "127.0.0.1:28443", "root-certificates": str(moved / "pki" / "ca.crt")}
    assert (moved / "edge" / "admitted.conf").read_text() == ""


def test_runs_start_with_the_bundle_that_sites_accept(hub: Hub) -> None:
    from flwr.cli.build import build_fab_from_disk

    write_derived(hub)
    assert build_fab_from_disk(hub.folder / "app") == bundle()


def test_ports_that_are_taken_are_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    ports = hub.ports.model_copy(update={"edge": port, "link": port + 1, "health": port + 2})
    ours = replace(hub, ports=ports)
    assert busy_ports(ours) == []
    with socket.create_server(("127.0.0.1", port + 1)):
        (line,) = busy_ports(ours)
    assert line.startswith(f"port {port + 1} (link) on 127.0.0.1: address already in use")

    class Refusing(socket.socket):
        def bind(self, address: object, /) -> None:
            raise PermissionError

    monkeypatch.setattr(socket, "socket", Refusing)
    assert "only root may listen below 1024" in busy_ports(ours)[0]


def test_an_address_that_this_machine_has_not_is_named(hub: Hub) -> None:
    (line,) = busy_ports(replace(hub, listen="[2001:db8::1]", ports=Ports(edge=1024, link=1, health=1)))[:1]
    assert line.startswith("port 1024 (edge) on [2001:db8::1]: ")
    assert "this machine has no such address: change listen in hub.toml" in line
