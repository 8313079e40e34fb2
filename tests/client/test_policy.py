"""[policy] of site.toml: defaults that a small plan fits into, limits that hold, errors that name the key."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.policy import METRICS, Policy, excesses, parse_policy, steps_of
from client.site import open_site
from common.errors import SiteError
from common.plan import load, shipped
from tests.client.hospital import plan_of

MONDAY = datetime(2026, 3, 2)


class TestKeys:
    def test_nothing_said_allows_every_shipped_plan(self) -> None:
        for name in shipped():
            assert list(excesses(Policy(), load(name))) == [], name

    def test_every_key_says_what_it_is_for(self) -> None:
        assert all(field.description for field in Policy.model_fields.values())

    def test_scores_of_single_cases_stay_here_unless_somebody_says_so(self) -> None:
        assert set(Policy().metrics) == set(METRICS) - {"cases"}

    def test_nothing_is_approved_from_the_start(self) -> None:
        assert Policy().approved_hashes == frozenset()

    def test_a_whole_number_is_a_number(self) -> None:
        assert parse_policy({"max_hours": 3, "max_memory_gb": 2}).memory_bytes == 2_000_000_000

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ({"max_round": 3}, "unknown key 'max_round'; did you mean 'max_rounds'?"),
            ({"rm": "-rf"}, "unknown key 'rm'; known here: approved, "),
            ({"max_rounds": 0}, "'max_rounds'"),
            ({"max_rounds": "3"}, "'max_rounds'"),
            ({"max_hours": -1}, "'max_hours'"),
            ({"gpu": "maybe"}, "'gpu'"),
            ({"gpu_memory_share": 1.5}, "'gpu_memory_share'"),
            ({"hours": "8-18"}, "'hours': must be two different times of day"),
            ({"hours": "08:00-08:00"}, "'hours': must be two different times of day"),
            ({"hours": "08:00-24:00"}, "'hours': must be two different times of day"),
            ({"days": ["monday"]}, "'days.0'"),
            ({"metrics": ["voxels"]}, "'metrics.0'"),
            ({"releases": ["abc"]}, "'releases.0'"),
            ({"approved": [{"plan": "x", "sha265": "0" * 64}]}, "did you mean 'sha256'?"),
        ],
        ids=str,
    )
    def test_a_wrong_one_is_named(self, words: dict[str, Any], told: str) -> None:
        with pytest.raises(SiteError) as raised:
            parse_policy(words)

        assert told in str(raised.value)
        assert raised.value.code == "policy"


class TestHours:
    def test_always_where_nothing_is_said(self) -> None:
        assert all(Policy().is_open(MONDAY + timedelta(hours=h)) for h in range(7 * 24))

    @pytest.mark.parametrize(
        ("hours", "days", "at", "is_open"),
        [
            ("08:00-18:00", [], (0, 8, 0), True),
            ("08:00-18:00", [], (0, 7, 59), False),
            ("08:00-18:00", [], (0, 18, 0), False),
            ("20:00-06:00", [], (0, 23, 0), True),
            ("20:00-06:00", [], (0, 5, 59), True),
            ("20:00-06:00", [], (0, 12, 0), False),
            ("20:00-06:00", ["sat"], (5, 21, 0), True),
            ("20:00-06:00", ["sat"], (6, 5, 0), True),  # Saturday's night
            ("20:00-06:00", ["sat"], (5, 5, 0), False),  # Friday's night
            ("20:00-06:00", ["sat"], (6, 21, 0), False),
            ("", ["sat", "sun"], (5, 12, 0), True),
            ("", ["sat", "sun"], (0, 12, 0), False),
        ],
    )
    def test_a_window_and_its_days(
        self, hours: str, days: list[Any], at: tuple[int, int, int], is_open: bool
    ) -> None:
        day, hour, minute = at
        moment = MONDAY + timedelta(days=day, hours=hour, minutes=minute)

        assert Policy(hours=hours, days=days).is_open(moment) == is_open

    @settings(deadline=None)
    @given(start=st.integers(0, 1439), length=st.integers(1, 1439), minute=st.integers(0, 7 * 1440 - 1))
    def test_a_window_and_the_one_that_is_left_fill_the_day(
        self, start: int, length: int, minute: int
    ) -> None:
        """Every minute is in one of the two, and no minute in both."""

        def text(at: int) -> str:
            return f"{at % 1440 // 60:02d}:{at % 60:02d}"

        one = Policy(hours=f"{text(start)}-{text(start + length)}")
        other = Policy(hours=f"{text(start + length)}-{text(start)}")
        moment = MONDAY + timedelta(minutes=minute)

        assert one.is_open(moment) != other.is_open(moment)


class TestExcesses:
    @pytest.mark.parametrize(
        ("policy", "code"),
        [
            ({"max_rounds": 2}, "cap-rounds"),
            ({"max_steps": 8}, "cap-steps"),
            ({"max_bytes": 99}, "cap-bytes"),
            ({"minimum_sites": 3}, "minimum-sites"),
        ],
        ids=str,
    )
    def test_each_cap_is_named_with_both_numbers(self, policy: dict[str, Any], code: str) -> None:
        (excess,) = excesses(parse_policy(policy), plan_of(), bytes_up=100)
        (key, value), *_ = policy.items()

        assert excess.code == code
        assert f"{key} is {value}" in excess.words

    def test_a_plan_at_the_caps_fits(self) -> None:
        policy = Policy(max_rounds=3, max_steps=9, max_bytes=100, minimum_sites=2)

        assert list(excesses(policy, plan_of(), bytes_up=100)) == []

    def test_training_alone_counts(self) -> None:
        assert steps_of(plan_of()) == 3 * 2 + 3
        assert steps_of(plan_of(evaluation__local_only=True)) == 2 * (3 * 2 + 3)


class TestSiteToml:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("polcy = 1", "unknown key 'polcy'; did you mean 'policy'?"),
            ("withdrawn = 3", "'withdrawn' must be a list"),
            ("withdrawn = [3]", "write patients in quotes"),
            ("hub = 'x'", "'hub' must be a table"),
            ("[hub]\nadress = 'x'", "unknown key 'hub.adress'; did you mean 'address'?"),
            ("[hub]\nruntime_port = true", "'hub.runtime_port' must be a whole number"),
            ("[policy]\nmax_round = 3", "did you mean 'max_rounds'?"),
        ],
    )
    def test_a_wrong_key_is_named(self, tmp_path: Path, line: str, told: str) -> None:
        (tmp_path / "site.toml").write_text(f"name = 'ssa'\ndata = 'scans'\n{line}\n")
        with pytest.raises(SiteError) as raised:
            open_site(tmp_path)

        assert told in str(raised.value)

    def test_a_deployed_site(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text(
            "name = 'ssa'\ndata = 'scans'\nwithdrawn = ['P-1']\n"
            "[hub]\naddress = 'hub.example.org:443'\nruntime_port = 20001\n[policy]\nmax_rounds = 3\n"
        )
        site = open_site(tmp_path)

        assert (site.hub, site.runtime_port) == ("hub.example.org:443", 20001)
        assert site.withdrawn == {"P-1"}
        assert site.policy == Policy(max_rounds=3)

    def test_a_hub_without_a_policy_has_the_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "site.toml").write_text("name = 'ssa'\ndata = 'scans'\n[hub]\naddress = 'h:1'\n")

        assert open_site(tmp_path).policy == Policy()
