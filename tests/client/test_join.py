"""A site folder from nothing: made once, never over what is there, and bound to one hub."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from client import services, template
from client.cli import site
from client.join import connection, find_site, init_site, public_key
from client.policy import Policy
from client.site import open_site
from client.trust import UnreachableError, expected_fingerprint, pinned_fingerprint, trust
from common import certificates
from common.errors import InputError, SiteError
from tests.client.stub_hub import StubHub, serving

HUB = "hub.example.org:443"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def made(tmp_path: Path, data: Path) -> Path:
    folder = tmp_path / "site"
    init_site(folder, hub=HUB, name="site-b", data=data)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHub]:
    with serving(tmp_path_factory.mktemp("pki")) as hub:
        yield hub


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_secret_is_for_this_user_alone(made: Path) -> None:
    assert {name: mode(made / name) for name in ("key", "secret", "site.toml")} == {
        "key": 0o600,
        "secret": 0o600,
        "site.toml": 0o600,
    }
    assert mode(made) == 0o700
    assert len((made / "secret").read_bytes()) == 64


def test_the_join_file_names_the_key_and_holds_no_secret(made: Path) -> None:
    told = json.loads((made / "join-site-b.json").read_text())

    assert sorted(told) == ["fedglia", "flwr", "public_key", "schema", "site"]
    assert (told["schema"], told["site"]) == (1, "site-b")
    assert told["public_key"].startswith("ecdsa-sha2-nistp384 ")
    assert told["public_key"] == (made / "key.pub").read_text().strip() == public_key(made)
    serialization.load_ssh_public_key(told["public_key"].encode())


def test_site_toml_is_a_site_with_the_default_policy(made: Path, data: Path) -> None:
    opened = open_site(made)

    assert (opened.name, opened.data, opened.hub, opened.policy) == ("site-b", data, HUB, Policy())
    assert connection(made).address == HUB
    assert connection(made).runtime_port == opened.runtime_port in range(20000, 30000)


def test_every_default_in_site_toml_is_the_policys(made: Path) -> None:
    """A line uncommented as it stands changes nothing."""
    text = (made / "site.toml").read_text()
    keys = [key for key in Policy.model_fields if key != "approved"]
    for key in keys:
        assert f"\n# {key} = " in text, key
        text = text.replace(f"\n# {key} = ", f"\n{key} = ")
    (made / "site.toml").write_text(text)

    assert set(keys) == set(tomllib.loads(text)["policy"])
    assert open_site(made).policy == Policy()


def test_a_policy_can_be_given(tmp_path: Path, data: Path) -> None:
    given = template.parsed_policy(["max_rounds=20", "hours=20:00-06:00", 'days=["sat"]', "max_hours=3"])
    init_site(tmp_path / "site", hub=HUB, name="a", data=data, policy=given)

    assert open_site(tmp_path / "site").policy == Policy(
        max_rounds=20, hours="20:00-06:00", days=["sat"], max_hours=3.0
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_round=3", "did you mean 'max_rounds'"),
        ("max_rounds=many", "max_rounds"),
        ("max_rounds", "give KEY=VALUE"),
        ("approved=[]", "approve plans later"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(setting: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        template.parsed_policy([setting])


@pytest.mark.parametrize("text", ['quo"te', "back\\slash", "tab\tnew\nline", "ünï", "del\x7f"])
def test_any_text_survives_site_toml(text: str) -> None:
    assert tomllib.loads(f"x = {template.as_toml(text)}") == {"x": text}


def test_made_again_nothing_changes(made: Path, data: Path) -> None:
    before = {path: path.read_bytes() for path in made.iterdir() if path.is_file()}

    assert init_site(made, hub=HUB, name="site-b", data=data) == ()
    assert {path: path.read_bytes() for path in made.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("lost", ["key.pub", "secret", "site.toml", "join-site-b.json"])
def test_what_a_kill_kept_from_being_made_is_made(made: Path, data: Path, lost: str) -> None:
    key = (made / "key").read_bytes()
    (made / lost).unlink()

    assert init_site(made, hub=HUB, name="site-b", data=data) == (lost,)
    assert (made / "key").read_bytes() == key


@pytest.mark.parametrize("moved", [("key",), ("key", "key.pub"), ("key", "join-site-b.json")])
def test_a_new_key_its_public_half_and_the_join_file_agree(
    made: Path, data: Path, moved: tuple[str, ...]
) -> None:
    before = public_key(made)
    for name in moved:
        (made / name).unlink()
    words = ["init", str(made), "--hub", "127.0.0.1:1", "--name", "site-b", "--data", str(data)]
    (made / "site.toml").write_text((made / "site.toml").read_text().replace(HUB, "127.0.0.1:1"))
    said = CliRunner().invoke(site, words).output
    told = json.loads((made / "join-site-b.json").read_text())["public_key"]

    assert told == (made / "key.pub").read_text().strip() == public_key(made) != before
    assert f"read out the key: {certificates.key_fingerprint(told)}" in said
    assert "made in " in said
    assert "key, key.pub, join-site-b.json" in said


def test_a_comment_that_a_person_wrote_stays(made: Path, data: Path) -> None:
    file = made / "site.toml"
    file.write_text("# ours\n" + file.read_text())
    init_site(made, hub=HUB, name="site-b", data=data)

    assert file.read_text().startswith("# ours\n")


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("hub", "elsewhere:443")])
def test_a_site_does_not_become_another(made: Path, data: Path, key: str, value: str) -> None:
    words = {"hub": HUB, "name": "site-b", key: value}

    with pytest.raises(SiteError, match=f"its {key} is .* nothing was changed"):
        init_site(made, data=data, hub=words["hub"], name=words["name"])


@pytest.mark.parametrize("name", ["", "Site B", "a" * 33, "-a", "../x", "ssä"])
def test_a_name_that_plans_cannot_use_is_refused(tmp_path: Path, data: Path, name: str) -> None:
    with pytest.raises(InputError, match="plans name a site by"):
        init_site(tmp_path / "site", hub=HUB, name=name, data=data)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    "address",
    ["", "hub", "hub:", "hub:0", "hub:70000", ":443", "https://hub:443", "a b:1", "::1:443", "[]:1", "a]:1"],
)
def test_what_is_no_address_is_refused(tmp_path: Path, data: Path, address: str) -> None:
    with pytest.raises(InputError, match="is not HOST:PORT"):
        init_site(tmp_path / "site", hub=address, name="a", data=data)


def test_a_data_folder_that_is_missing_or_around_the_site_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="no such folder of scans"):
        init_site(tmp_path / "site", hub=HUB, name="a", data=tmp_path / "nowhere")
    with pytest.raises(InputError, match="lies inside the folder of scans"):
        init_site(data / "site", hub=HUB, name="a", data=data)
    assert list(data.iterdir()) == []


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, data: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(SiteError, match="is not empty and no site"):
        init_site(tmp_path / "home", hub=HUB, name="a", data=data)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


# Finding a site


def test_a_site_is_found_by_option_variable_or_working_directory(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDGLIA_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_site(made) == made
    with pytest.raises(SiteError, match="give --site DIR, set FEDGLIA_SITE, or work in"):
        find_site(None)
    monkeypatch.setenv("FEDGLIA_SITE", str(made))
    assert find_site(None) == made
    with pytest.raises(SiteError, match="scans: is no site folder"):
        find_site(tmp_path / "scans")
    monkeypatch.delenv("FEDGLIA_SITE")
    monkeypatch.chdir(made)
    assert find_site(None) == made


def test_a_newer_layout_is_left_alone(made: Path, data: Path) -> None:
    (made / "format").write_text("2\n")
    with pytest.raises(SiteError, match=r"written by a newer FedGlia .*nothing was changed"):
        find_site(made)
    with pytest.raises(SiteError, match="written by a newer FedGlia"):
        init_site(made, hub=HUB, name="site-b", data=data)


# Trust

OTHER = ":".join(["AB"] * 32)


def test_the_first_contact_is_believed_and_stays(made: Path, hub: StubHub) -> None:
    first = trust(made, hub.address)

    assert (first.how, first.fingerprint) == ("at first contact", hub.fingerprint)
    assert (made / "hub-ca.crt").read_text() == hub.ca.read_text()
    assert trust(made, "127.0.0.1:1").how == "pinned before"  # asks nobody


def test_a_fingerprint_or_a_file_makes_the_first_contact_strict(made: Path, hub: StubHub) -> None:
    with pytest.raises(SiteError, match="authority is not the one that is expected"):
        trust(made, hub.address, fingerprint="AB:" * 31 + "AB")
    assert pinned_fingerprint(made) is None
    assert trust(made, "127.0.0.1:1", ca=hub.ca, fingerprint=hub.fingerprint.lower()).how == "from the file"
    assert pinned_fingerprint(made) == hub.fingerprint


def test_a_fingerprint_is_kept_while_the_hub_is_away(made: Path, hub: StubHub) -> None:
    with pytest.raises(UnreachableError):
        trust(made, "127.0.0.1:1", fingerprint=OTHER)
    with pytest.raises(SiteError, match="authority is not the one that is expected"):
        trust(made, hub.address)
    with pytest.raises(InputError, match="authority is not the one that is expected"):
        trust(made, hub.address, ca=hub.ca)
    assert pinned_fingerprint(made) is None
    assert trust(made, hub.address, fingerprint=hub.fingerprint).how == "as the fingerprint says"
    (made / "hub-ca.crt").unlink()
    assert trust(made, hub.address).how == "as the fingerprint says"


def test_what_the_site_expects_follows_what_a_person_accepts(
    made: Path, hub: StubHub, tmp_path: Path
) -> None:
    certificates.make_authority(tmp_path, "before")
    before = certificates.fingerprint((tmp_path / "ca.crt").read_bytes())
    trust(made, hub.address, ca=tmp_path / "ca.crt", fingerprint=before)
    trust(made, hub.address, fingerprint=hub.fingerprint, replace=True)

    assert expected_fingerprint(made) == hub.fingerprint


def test_a_site_toml_that_cannot_be_read_believes_nobody(made: Path, hub: StubHub) -> None:
    (made / "site.toml").write_text("[hub")
    with pytest.raises(SiteError, match=r"no usable site\.toml"):
        trust(made, hub.address)
    assert pinned_fingerprint(made) is None


def test_another_authority_later_is_refused_until_a_person_says_so(
    made: Path, hub: StubHub, tmp_path: Path
) -> None:
    certificates.make_authority(tmp_path, "before")
    trust(made, hub.address, ca=tmp_path / "ca.crt")
    before = pinned_fingerprint(made)

    with pytest.raises(SiteError, match=r"(?s)a proxy that opens TLS.*site trust --replace --fingerprint"):
        trust(made, hub.address, fingerprint=hub.fingerprint)
    with pytest.raises(SiteError, match="authority is not the one"):
        trust(made, hub.address, ca=hub.ca)
    with pytest.raises(InputError, match="to replace the pinned authority"):
        trust(made, hub.address, replace=True)
    assert pinned_fingerprint(made) == before
    trust(made, hub.address, fingerprint=hub.fingerprint, replace=True)
    assert pinned_fingerprint(made) == hub.fingerprint


def test_a_hub_that_is_away_is_no_hub_that_lies(made: Path) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        trust(made, "127.0.0.1:1")


@pytest.mark.parametrize("file", ["leaf", "text", "missing"])
def test_a_file_that_is_no_authority_is_refused(made: Path, hub: StubHub, tmp_path: Path, file: str) -> None:
    given = {"leaf": hub.pki / "edge.crt", "text": tmp_path / "x.crt", "missing": tmp_path / "none"}[file]
    (tmp_path / "x.crt").write_text("hello")
    with pytest.raises(InputError, match="is no certificate of an authority"):
        trust(made, hub.address, ca=given)


# The commands


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(site, [str(word) for word in words])


def test_init_says_what_it_made_and_what_comes_next(tmp_path: Path, data: Path, hub: StubHub) -> None:
    words = ("init", tmp_path / "site", "--hub", hub.address, "--name", "a", "--data", data)
    first, again = run(*words), run(*words)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert f"SHA-256 {hub.fingerprint}" in first.output
    assert "on the telephone" in first.output
    assert "join-a.json to the coordinator" in first.output
    assert "nothing was changed" in again.output


def test_init_without_the_hub_is_no_error(tmp_path: Path, data: Path) -> None:
    done = run("init", tmp_path / "site", "--hub", "127.0.0.1:1", "--name", "a", "--data", data)

    assert done.exit_code == 0
    assert "no contact with the hub yet" in done.output
    assert (tmp_path / "site" / "key").is_file()


def test_init_keeps_the_fingerprint_for_a_hub_that_answers_later(
    tmp_path: Path, data: Path, hub: StubHub
) -> None:
    words = ("init", tmp_path / "site", "--hub", "127.0.0.1:1", "--name", "a", "--data", data)
    done = run(*words, "--fingerprint", OTHER)

    assert done.exit_code == 0
    assert f"must show the authority {OTHER}" in done.output
    with pytest.raises(SiteError, match="authority is not the one that is expected"):
        trust(tmp_path / "site", hub.address)
    file = tmp_path / "site" / "site.toml"
    file.write_text(file.read_text().replace("127.0.0.1:1", hub.address))
    with pytest.raises(SiteError, match="authority is not the one that is expected"):
        list(services.prepare(tmp_path / "site"))


@pytest.mark.parametrize(
    ("option", "value"), [("--fingerprint", "AA:BB:CC"), ("--hub-ca", "none.crt"), ("--hub-ca", "x.crt")]
)
def test_init_makes_nothing_where_what_it_is_to_believe_cannot_be_read(
    tmp_path: Path, data: Path, option: str, value: str
) -> None:
    (tmp_path / "x.crt").write_text("hello")
    given = value if option == "--fingerprint" else tmp_path / value
    words = ("init", tmp_path / "site", "--hub", "127.0.0.1:1", "--name", "a", "--data", data)

    assert isinstance(run(*words, option, given).exception, InputError)
    assert not (tmp_path / "site").exists()


def test_trust_can_be_shown_and_set(made: Path, hub: StubHub) -> None:
    file = made / "site.toml"
    file.write_text(file.read_text().replace(HUB, hub.address))

    assert (
        f"as the fingerprint says: SHA-256 {hub.fingerprint}"
        in run("trust", "--site", made, "--fingerprint", hub.fingerprint).output
    )
    assert "pinned before" in run("trust", "--site", made).output
