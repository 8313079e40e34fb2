"""Finding a hub, and what its folder says."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from server.hub import edge
from server.hub.folder import Hub, find_hub, open_hub


class TestFinding:
    def test_the_option_comes_first(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("FEDGLIA_HUB", str(tmp_path / "another"))
        assert find_hub(hub.folder) == hub

    def test_then_the_variable(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEDGLIA_HUB", str(hub.folder))
        assert find_hub(None) == hub

    def test_then_where_one_stands(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEDGLIA_HUB", raising=False)
        monkeypatch.chdir(hub.folder)
        assert find_hub(None) == hub

    def test_else_all_three_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("FEDGLIA_HUB", raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"--hub DIR, set FEDGLIA_HUB=DIR, or change into"):
            find_hub(None)

    def test_a_folder_that_is_no_hub(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no hub\.toml"):
            open_hub(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('address = "hub"', "is not HOST:PORT"),
        ("address = 5", r"hub\.toml: address: "),
        ('listen = "eth0; include x"', "listen: is no IP address"),
        ("colour = 1", r"hub\.toml: colour: "),
        ("ports = {edge = 0, link = 1, health = 2}", r"hub\.toml: ports\.edge: "),
        ("= =", "cannot be read"),
    ],
)
def test_what_a_person_wrote_wrong_is_named(hub: Hub, line: str, said: str) -> None:
    path = hub.folder / "hub.toml"
    key = line.partition("=")[0].strip()
    text = path.read_text().split("\n[ports]")[0] if key == "ports" else path.read_text()
    kept = [old for old in text.splitlines() if not old.startswith(f"{key} =")]
    path.write_text("\n".join([line, *kept]))
    with pytest.raises(InputError, match=said):
        open_hub(hub.folder)


def test_the_services_are_closed_to_the_outside(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "command", lambda folder: ("nginx", str(folder)))
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    link, executor, front = hub.services()
    words = " ".join(link.command)
    assert "--host 127.0.0.1 " in words
    assert "--enable-supernode-auth" in link.command
    assert "--isolation process" in words
    assert "--disable-runtime-dependency-installation" in link.command
    assert "--insecure" not in (*link.command, *executor.command)
    assert f"--superexec-auth-secret-file {hub.folder / 'secret'}" in words
    assert [front.name, executor.name, link.name] == ["edge", "exec", "link"]
    for service in (link, executor):
        assert service.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert service.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert service.environment["FLWR_HOME"] == str(hub.folder / "flower")
        assert service.environment["FEDGLIA_RUNS"] == str(hub.runs_folder)
        assert "127.0.0.1" in service.environment["no_proxy"]
