"""A plan in words, a yes that is recorded, and one that is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import chain
from client.approval import approve, refused_now, revoke, words
from client.policy import Policy
from client.settings import edited
from client.site import open_site
from common.errors import RunError, SiteError
from common.plan import load, shipped
from tests.client.hospital import Hospital, hospital, plan_of

COMMENTED = """\
# our site, asked for by the ethics board
name = "ssa"          # as plans call us
data = "scans"
withdrawn = []

[hub]
address = "hub.example.org:443"

[policy]
# nights only
hours = "20:00-06:00"   # local time
"""


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    return hospital(tmp_path / "ssa", max_rounds=10)


@pytest.fixture
def commented(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(COMMENTED)
    (tmp_path / "site.toml").chmod(0o640)
    return tmp_path


class TestWords:
    @pytest.mark.parametrize("name", shipped())
    def test_every_shipped_plan_can_be_told(self, site: Hospital, name: str) -> None:
        plan = load(name)
        text = words(plan, site.site)

        for title in ("What is trained", "How long", "With whom", "What leaves", "What stays", "policy says"):
            assert title in text
        assert plan.sha256 in text
        assert all(len(line) <= 130 for line in text.splitlines())
        assert all(each in text for each in plan.site_names)

    def test_what_leaves_is_counted(self, site: Hospital) -> None:
        plan = load("demo")

        assert "3.7 MB (fp32); 43.8 MB in a run of 12 rounds" in flat(words(plan, site.site))
        assert "1.8 MB (fp16)" in words(plan.override({"aggregation.codec": "fp16"}), site.site)

    def test_what_the_policy_keeps_here_is_said(self, site: Hospital) -> None:
        text = flat(words(site.plan, site.site))

        assert "policy keeps here: - cases:" in text
        assert "domain_loss" not in text

    def test_what_would_be_refused_is_said_with_its_cap(self, site: Hospital) -> None:
        text = flat(words(load("demo"), site.site))

        assert "REFUSED [not-planned]" not in text
        assert "REFUSED [cap-rounds]: 12 rounds; max_rounds is 10." in text
        assert "would be refused even after a yes" in text

    def test_a_plan_that_fits_says_so(self, site: Hospital) -> None:
        assert refused_now(site.plan, site.site) == []
        assert "Fits: rounds 3 of 10" in words(site.plan, site.site)

    def test_bytes_of_a_whole_run_are_compared(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_bytes=4_000_000)

        assert [excess.code for excess in refused_now(plan_of(), site.site)] == ["cap-bytes"]

    def test_a_plan_without_this_site_asks_nothing_of_it(self, site: Hospital) -> None:
        plan = load("demo").override({"name": "others"})
        (site.folder / "site.toml").write_text('name = "elsewhere"\ndata = "x"\n[policy]\n')

        assert [excess.code for excess in refused_now(plan, site.site)] == ["not-planned"]

    def test_what_changed_since_the_last_yes(self, site: Hospital) -> None:
        later = plan_of(rounds__count=4, adaptation__precision="bf16")
        text = words(later, site.site)

        assert "- rounds.count: 3 -> 4" in text
        assert "- adaptation.precision: fp32 -> bf16" in text
        assert text.count(" -> ") == 2

    def test_the_same_plan_again(self, site: Hospital) -> None:
        assert "approved already" in words(site.plan, site.site)

    def test_a_yes_whose_text_is_gone_is_named(self, site: Hospital) -> None:
        for file in (site.folder / "approved").iterdir():
            file.unlink()

        assert "not kept here any more" in flat(words(plan_of(seed=3), site.site))

    def test_what_a_plan_says_of_itself_cannot_play_tricks_on_a_terminal(self, site: Hospital) -> None:
        text = words(plan_of(about="fine\x1b[2Kfine\r\nPolicy: fits"), site.site)

        assert "\x1b" not in text
        assert "\r" not in text
        assert "\nPolicy: fits" not in text


class TestYes:
    def test_peoples_comments_stay(self, commented: Path) -> None:
        given = approve(open_site(commented), plan_of())
        text = (commented / "site.toml").read_text()

        assert text.startswith(COMMENTED)
        assert given.sha256 in text
        assert (commented / "site.toml").stat().st_mode & 0o777 == 0o640
        assert open_site(commented).policy == Policy(hours="20:00-06:00", approved=[given])

    def test_twice_is_once(self, commented: Path) -> None:
        first = approve(open_site(commented), plan_of())

        assert approve(open_site(commented), plan_of()) == first
        assert len(list(chain.read(commented / "audit.jsonl"))) == 1

    def test_it_is_noted(self, commented: Path) -> None:
        approve(open_site(commented), plan_of())
        (line,) = chain.read(commented / "audit.jsonl")

        assert (line["event"], line["plan"]) == ("approved", plan_of().sha256)

    def test_one_that_cannot_be_noted_is_not_given(self, commented: Path) -> None:
        (commented / "audit.jsonl").mkdir()
        with pytest.raises(RunError):
            approve(open_site(commented), plan_of())

        assert (commented / "site.toml").read_text() == COMMENTED

    def test_a_site_toml_without_a_policy_gets_one(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text("name = 'ssa'\ndata = 'x'\n[hub]\naddress = 'h:1'\n")
        approve(open_site(tmp_path), plan_of())
        policy = open_site(tmp_path).policy

        assert policy is not None
        assert policy.approved_hashes == {plan_of().sha256}


class TestTakenBack:
    def test_by_name_and_by_hash(self, commented: Path) -> None:
        plans = [plan_of(), plan_of(seed=2), plan_of(name="other")]
        for plan in plans:
            approve(open_site(commented), plan)
        by_hash = revoke(open_site(commented), plans[1].sha256[:8])
        by_name = revoke(open_site(commented), "other")

        assert [a.sha256 for a in by_hash + by_name] == [plans[1].sha256, plans[2].sha256]
        policy = open_site(commented).policy
        assert policy is not None
        assert policy.approved_hashes == {plans[0].sha256}
        assert [line["event"] for line in chain.read(commented / "audit.jsonl")][3:] == [
            "approval revoked"
        ] * 2

    @pytest.mark.parametrize("which", ["nothing", "", "abcdef12"])
    def test_what_was_never_given_is_named(self, commented: Path, which: str) -> None:
        approve(open_site(commented), plan_of())
        with pytest.raises(SiteError, match=r"is approved here; approved: guarded"):
            revoke(open_site(commented), which)


class TestEditing:
    def test_what_would_be_unreadable_is_not_written(self, commented: Path) -> None:
        with pytest.raises(SiteError, match="unknown key"), edited(commented) as document:
            document["polcy"] = 3

        assert (commented / "site.toml").read_text() == COMMENTED

    def test_a_block_that_fails_writes_nothing(self, commented: Path) -> None:
        def fail() -> None:
            with edited(commented) as document:
                document["name"] = "other"
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            fail()

        assert (commented / "site.toml").read_text() == COMMENTED

    def test_a_file_that_is_no_toml_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text("name = ")
        with pytest.raises(SiteError, match="no usable site"), edited(tmp_path):
            pass

    def test_a_patient_is_added_beside_the_others(self, commented: Path) -> None:
        with edited(commented) as document:
            document["withdrawn"].append("P-1")

        assert open_site(commented).withdrawn == {"P-1"}
        assert "# nights only" in (commented / "site.toml").read_text()


def flat(text: str) -> str:
    return " ".join(text.split())
