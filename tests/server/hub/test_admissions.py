"""Admissions: what is let in, what never again, and that a kill between two steps loses nothing."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from common.errors import InputError, LockedError, RunError
from server.hub import admissions, control, edge
from server.hub.admissions import admit, load, read_join_file, reconcile, revoke
from server.hub.folder import Hub
from server.hub.making import write_derived
from tests.server.hub.conftest import Joins, SuperLink, public_key


@pytest.fixture
def prepared(hub: Hub) -> Hub:
    """A hub whose edge has its files."""
    write_derived(hub)
    return hub


def let_through(hub: Hub) -> set[str]:
    """What the edge lets through."""
    lines = (hub.folder / "edge" / "admitted.conf").read_text().splitlines()
    return {line.split('"')[1] for line in lines}


def test_an_admitted_site_is_known_everywhere(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    join = read_join_file(joins("ssa"))
    assert admit(prepared, join) == "admitted"
    entry = load(prepared)["ssa"]
    assert superlink.keys == {join.public_key: entry.node_id}
    assert superlink.names[int(entry.node_id or 0)] == "ssa"
    assert let_through(prepared) == {edge.header_of(join.public_key)}
    assert (prepared.folder / "admissions.json").stat().st_mode & 0o777 == 0o600


def test_admitting_the_same_again_changes_nothing(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    join = read_join_file(joins("ssa"))
    admit(prepared, join)
    before = (prepared.folder / "admissions.json").read_bytes()
    assert admit(prepared, join) == "known"
    assert (prepared.folder / "admissions.json").read_bytes() == before
    assert len(superlink.keys) == 1


def test_a_revoked_site_is_refused_for_good(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    join = read_join_file(joins("ssa"))
    admit(prepared, join)
    assert revoke(prepared, "ssa") == "revoked"
    assert superlink.nodes(prepared) == {}
    assert let_through(prepared) == set()
    assert revoke(prepared, "ssa") == "known"
    with pytest.raises(InputError, match="this key was revoked"):
        admit(prepared, join)
    with pytest.raises(InputError, match="this key was revoked"):
        admit(prepared, read_join_file(joins("other", public_key=join.public_key)))


def test_a_new_key_takes_the_name_after_the_old_was_revoked(
    prepared: Hub, superlink: SuperLink, joins: Joins
) -> None:
    old, new = read_join_file(joins("ssa")), read_join_file(joins("ssa"))
    admit(prepared, old)
    with pytest.raises(InputError, match=r"admitted with another key .* fedglia hub revoke ssa"):
        admit(prepared, new)
    revoke(prepared, "ssa")
    assert admit(prepared, new) == "admitted"
    assert let_through(prepared) == {edge.header_of(new.public_key)}
    assert [each["public_key"] for each in load(prepared)["ssa"].former] == [old.public_key]
    with pytest.raises(InputError, match="admitted with another key"):
        admit(prepared, old)
    revoke(prepared, "ssa")
    with pytest.raises(InputError, match="this key was revoked"):
        admit(prepared, old)


def test_one_key_has_one_name(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    join = read_join_file(joins("ssa"))
    admit(prepared, join)
    with pytest.raises(InputError, match="this key is admitted as 'ssa' already"):
        admit(prepared, read_join_file(joins("adult-a", public_key=join.public_key)))


def test_who_was_never_admitted_cannot_be_revoked(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    admit(prepared, read_join_file(joins("ssa")))
    with pytest.raises(InputError, match="sss: was never admitted; admitted: ssa"):
        revoke(prepared, "sss")


def test_a_lost_database_is_filled_again(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    for name in ("ssa", "adult-a", "gone"):
        admit(prepared, read_join_file(joins(name)))
    revoke(prepared, "gone")
    numbers = {name: entry.node_id for name, entry in load(prepared).items()}
    superlink.keys.clear()
    superlink.gone.clear()
    superlink.keys["somebody before"] = 7
    assert reconcile(prepared) == ["ssa: registered", "adult-a: registered"]
    assert set(superlink.keys) == {
        "somebody before",
        *(load(prepared)[n].public_key for n in ("ssa", "adult-a")),
    }
    assert load(prepared)["ssa"].node_id != numbers["ssa"]
    assert reconcile(prepared) == []


def test_what_happens_while_the_hub_is_down_is_told_at_its_start(
    prepared: Hub, superlink: SuperLink, joins: Joins
) -> None:
    admit(prepared, read_join_file(joins("ssa")))
    superlink.up = False
    admit(prepared, read_join_file(joins("adult-a")))
    revoke(prepared, "ssa")
    assert load(prepared)["adult-a"].node_id is None
    assert let_through(prepared) == {edge.header_of(load(prepared)["adult-a"].public_key)}
    superlink.up = True
    assert reconcile(prepared) == ["ssa: unregistered", "adult-a: registered"]
    assert list(superlink.nodes(prepared)) == [load(prepared)["adult-a"].node_id]


def test_a_site_is_admitted_and_revoked_before_the_hub_was_ever_started(hub: Hub, joins: Joins) -> None:
    join = read_join_file(joins("ssa"))
    assert admit(hub, join) == "admitted"
    assert let_through(hub) == {edge.header_of(join.public_key)}
    assert (hub.folder / "edge").stat().st_mode & 0o777 == 0o700
    assert revoke(hub, "ssa") == "revoked"
    assert let_through(hub) == set()


def test_an_edge_that_cannot_be_told_keeps_nobody_in_the_superlink(
    prepared: Hub, superlink: SuperLink, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> bool:
        raise RunError("edge: nginx did not answer")

    admit(prepared, read_join_file(joins("ssa")))
    monkeypatch.setattr(edge, "reload", fails)
    with pytest.raises(RunError, match="nginx did not answer"):
        revoke(prepared, "ssa")
    assert superlink.nodes(prepared) == {}
    assert load(prepared)["ssa"].revoked_at is not None


def test_a_key_that_flower_does_not_take_keeps_nobody_in(
    prepared: Hub, superlink: SuperLink, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("refused", "revoked"):
        admit(prepared, read_join_file(joins(name)))
    number = load(prepared)["refused"].node_id
    monkeypatch.setattr(superlink, "keys", {k: v for k, v in superlink.keys.items() if v != number})

    def refuses(hub: Hub, public_key: str, name: str) -> int:
        raise RunError("flwr supernode: refused")

    monkeypatch.setattr(control, "register", refuses)
    with pytest.raises(RunError, match="refused"):
        revoke(prepared, "revoked")
    assert superlink.nodes(prepared) == {}


def test_killed_before_the_number_was_written_down(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    admit(prepared, read_join_file(joins("adult-a")))
    superlink.dies_after = "register"
    join = read_join_file(joins("ssa"))
    with pytest.raises(KeyboardInterrupt):
        admit(prepared, join)
    assert load(prepared)["ssa"].node_id is None
    superlink.dies_after = ""
    assert admit(prepared, join) == "admitted"
    assert load(prepared)["ssa"].node_id == superlink.keys[join.public_key]


def test_killed_before_it_was_unregistered(prepared: Hub, superlink: SuperLink, joins: Joins) -> None:
    admit(prepared, read_join_file(joins("ssa")))
    superlink.dies_after = "before unregister"
    with pytest.raises(KeyboardInterrupt):
        revoke(prepared, "ssa")
    assert let_through(prepared) == set()
    superlink.dies_after = ""
    assert reconcile(prepared) == ["ssa: unregistered"]
    assert superlink.nodes(prepared) == {}


def test_a_key_that_flower_will_not_take_again_is_explained(
    prepared: Hub, superlink: SuperLink, joins: Joins
) -> None:
    join = read_join_file(joins("ssa"))
    superlink.keys[join.public_key] = 9
    superlink.gone.add(9)
    with pytest.raises(RunError, match=r"move state\.db away"):
        admit(prepared, join)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"schema": 2}, "schema: "),
        ({"site": "../x"}, "site: "),
        ({"site": "Site A"}, "site: "),
        ({"public_key": public_key("ed25519")}, "is of kind 'ssh-ed25519'"),
        ({"public_key": ""}, "is of kind 'nothing'"),
        ({"public_key": "ecdsa-sha2-nistp384"}, "is damaged"),
        ({"public_key": "ecdsa-sha2-nistp384 AAAA"}, "is damaged"),
        ({"public_key": 'ecdsa-sha2-nistp384 ";return 200;"'}, "is damaged"),
        ({"public_key": 5}, "public_key: "),
        ({"more": 1}, "more: "),
    ],
)
def test_a_join_file_that_cannot_be_used_says_why(joins: Joins, words: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_join_file(joins("ssa", **words))


@pytest.mark.parametrize(
    "content", [b"", b"ecdsa-sha2 AAAA", b"[]", b"{}", b"\xff", b"{" * 20_000, b"1" * 20_000]
)
def test_what_is_no_join_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="is no join file"):
        read_join_file(tmp_path / "file")
    with pytest.raises(InputError, match="is no join file"):
        read_join_file(tmp_path)


def test_other_versions_are_named(joins: Joins) -> None:
    assert admissions.version_differences(read_join_file(joins("ssa"))) == []
    (line,) = admissions.version_differences(read_join_file(joins("ssa", flwr="1.40.0")))
    assert line == "flwr 1.40.0 at the site, 1.41.0 here"


def test_a_damaged_record_is_not_guessed_at(prepared: Hub) -> None:
    for content in ("{", "[]", json.dumps({"ssa": {"key": 1}})):
        (prepared.folder / "admissions.json").write_text(content)
        with pytest.raises(InputError, match="is damaged"):
            load(prepared)


def test_two_commands_do_not_write_at_once(
    prepared: Hub, superlink: SuperLink, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions, "_LOCK_WAIT_S", 0.3)
    with (prepared.folder / "admissions.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another command is changing them"):
            admit(prepared, read_join_file(joins("ssa")))
    assert admit(prepared, read_join_file(joins("ssa"))) == "admitted"
