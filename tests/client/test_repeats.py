"""Equal refusals without end take a bounded number of lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client import repeats
from common import wire
from tests.client.hospital import Hospital, hospital


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    return hospital(tmp_path / "ssa")


def lines(site: Hospital) -> list[int]:
    files = ("audit.jsonl", "egress.jsonl", "site.log")
    return [len((site.folder / file).read_text().splitlines()) for file in files]


def test_the_first_are_noted_and_then_each_power_of_ten(tmp_path: Path) -> None:
    noted = [found.times for _ in range(1001) if (found := repeats.count(tmp_path, "plan", "ab")).noted]

    assert noted == [*range(1, 21), 100, 1000]


def test_a_flood_of_messages_that_nobody_approved_does_not_fill_the_disk(site: Hospital) -> None:
    replies = [site.ask(site.message(plan_toml="seed = ")) for _ in range(105)]
    ids = [wire.read_correlation(reply) for reply in replies]

    assert {wire.read_refusal(reply) for reply in replies} == {"plan"}
    assert lines(site) == [1 + 21, 21, 21]  # and the approval
    assert [line.get("times") for line in site.audit()][-2:] == [None, 100]
    assert set(ids) == {line["id"] for line in site.egress()}
    assert set(ids[20:99]) == {ids[19]}


def test_another_code_or_run_is_noted_by_itself(site: Hospital) -> None:
    for _ in range(25):
        site.ask(site.message(plan_toml="seed = "))
    before = lines(site)
    site.ask(site.message(plan_toml="seed = ", run="ef" * 16))
    site.ask(site.message(round_number=99))

    assert lines(site) == [count + 2 for count in before]


def test_runs_without_end_are_counted_together(tmp_path: Path) -> None:
    noted = sum(repeats.count(tmp_path, "plan", f"{run:032x}").noted for run in range(500))

    assert noted <= repeats.RUNS + repeats.EACH + 2
    assert len(json.loads((tmp_path / repeats.FILE).read_text())["seen"]) == repeats.RUNS + 1


def test_it_begins_anew_after_an_hour_and_where_the_clock_went_back(tmp_path: Path) -> None:
    for _ in range(30):
        repeats.count(tmp_path, "plan", "ab")
    for by_s in (-3601.0, 3600.0):
        words = json.loads((tmp_path / repeats.FILE).read_text())
        (tmp_path / repeats.FILE).write_text(json.dumps({**words, "since": words["since"] + by_s}))

        assert repeats.count(tmp_path, "plan", "ab").times == 1


@pytest.mark.parametrize("text", ["", "[]", '{"since": 1}', '{"since": 9e99, "seen": {"a": 1}}'])
def test_a_damaged_count_is_no_reason_to_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / repeats.FILE).write_text(text)

    assert repeats.count(tmp_path, "plan", "ab").noted


def test_where_nothing_can_be_counted_each_is_noted(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")

    assert all(repeats.count(tmp_path, "plan", "ab").noted for _ in range(30))


def test_words_from_outside_are_short_and_steer_no_terminal(site: Hospital) -> None:
    keys = "".join(f'"\\u001b]0;owned\\u0007\\u202e{number}" = 1\n' for number in range(900))
    site.ask(site.message(plan_toml=keys))
    (line,) = site.audit()

    assert line["code"] == "plan"
    assert len(line["words"]) <= 500
    assert line["words"].isprintable()
    assert len((site.folder / "site.log").read_text()) < 4000
