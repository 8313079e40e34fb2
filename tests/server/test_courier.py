"""Whatever dies or hangs, every wait ends at its deadline, and no answer that came is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import RecordDict

from common import wire
from common.codec import CODECS
from common.errors import RunError, StoppedError
from common.instruction import Instruction
from server import courier as courier_module
from server import link as link_module
from server.answers import Answer
from server.exchange import ask
from server.run import Run, create, opened
from tests.deployed import Site, SuperLink
from tests.stub_sites import LAYOUT, SITES, StubSites, plan_of

FAST, SLOW, THIRD = SITES
DEADLINE_S = 5.0
SOON_S = 1.5
"""What should not wait for the deadline is over by then, also on a busy machine."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GONE_S", 0.3)
    monkeypatch.setattr(link_module, "SURE_S", 0.1)
    monkeypatch.setattr(link_module, "FRESH_S", 0.1)
    monkeypatch.setattr(courier_module, "LIST_S", 0.05)
    monkeypatch.setattr(courier_module, "POLL_S", 0.02)
    monkeypatch.setattr(courier_module, "LONGEST_POLL_S", 0.05)


@pytest.fixture
def hub() -> Iterator[SuperLink]:
    with SuperLink(*SITES) as grid:
        yield grid


class Asked:
    """One call of `ask` for a round, as it goes: answers with the seconds after which they came."""

    def __init__(
        self,
        hub: SuperLink,
        *,
        deadline_s: float = DEADLINE_S,
        quorum: int = len(SITES),
        run: Run | None = None,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        began = time.monotonic()
        nodes = {name: site.node for name, site in hub.sites.items()}
        self.answers: dict[str, Answer] = {}
        self.after_s: dict[str, float] = {}
        answers = ask(
            hub.link(),
            nodes,
            dict.fromkeys(nodes, question()),
            wire.ROUND,
            deadline_s=deadline_s,
            run=run,
            enough=lambda: sum(answer.outcome == "answered" for answer in self.answers.values()) >= quorum,
        )
        for answer in answers:
            assert answer.site not in self.answers
            self.answers[answer.site] = answer
            self.after_s[answer.site] = time.monotonic() - began
            on_answer(answer)
        self.seconds = time.monotonic() - began

    @property
    def outcomes(self) -> dict[str, str]:
        return {site: f"{answer.outcome} {answer.code}".strip() for site, answer in self.answers.items()}


def question() -> RecordDict:
    packed, _ = CODECS["fp32"].encode(np.zeros(LAYOUT.size, dtype=np.float32))
    content = wire.pack_weights(packed, LAYOUT, round_number=1)
    content[wire.INSTRUCTION] = Instruction("1" * 32, plan_of().as_toml(), 1, "0" * 64, False).record()
    return content


def later(seconds: float, action: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def at_work(site: Site, action: Callable[[], object], *, then_s: float, then: Callable[[], object]) -> None:
    """Act as soon as the site has begun to work on a round, and again some seconds after that."""

    def wait() -> None:
        while wire.ROUND not in site.received:
            time.sleep(0.005)
        action()
        time.sleep(then_s)
        then()

    threading.Thread(target=wait, daemon=True).start()


ALL_ANSWERED = dict.fromkeys(SITES, "answered")


class TestSlowSites:
    def test_all_answer(self, hub: SuperLink) -> None:
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert asked.seconds < SOON_S
        assert [hub.sites[name].received for name in SITES] == [[wire.ROUND]] * 3

    def test_a_slow_upload_holds_up_nobody_else(self, hub: SuperLink) -> None:
        hub.sites[FAST].upload_s = 2.0
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert max(asked.after_s[SLOW], asked.after_s[THIRD]) < SOON_S
        assert 2.0 <= asked.after_s[FAST] < 2.0 + SOON_S

    def test_an_upload_that_does_not_end_is_late_at_the_deadline(self, hub: SuperLink) -> None:
        hub.sites[FAST].upload_s = 60.0
        asked = Asked(hub, deadline_s=1.0)
        assert asked.outcomes == {**ALL_ANSWERED, FAST: "late deadline"}
        assert 1.0 <= asked.seconds < 1.0 + SOON_S

    def test_a_straggler_is_late_at_the_deadline(self, hub: SuperLink) -> None:
        hub.sites[SLOW].work_s = 60.0
        asked = Asked(hub, deadline_s=1.0, quorum=2)
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "late deadline"}
        assert 1.0 <= asked.seconds < 1.0 + SOON_S


class TestSitesThatGo:
    def test_with_a_quorum_nobody_waits_for_who_is_gone(self, hub: SuperLink) -> None:
        hub.sites[SLOW].cut(unnoticed_s=0.0)
        asked = Asked(hub, quorum=2)
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "lost offline"}
        assert asked.seconds < SOON_S
        assert hub.pushed == [f"{FAST} {wire.ROUND}", f"{THIRD} {wire.ROUND}"]

    def test_without_a_quorum_the_round_waits_for_who_comes_back(self, hub: SuperLink) -> None:
        hub.sites[SLOW].cut(unnoticed_s=0.0)
        later(1.5, hub.sites[SLOW].come_back)
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert asked.after_s[SLOW] >= 1.5

    def test_without_a_quorum_the_wait_ends_at_the_deadline(self, hub: SuperLink) -> None:
        hub.sites[SLOW].kill(unnoticed_s=0.0)
        asked = Asked(hub, deadline_s=1.0)
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "lost offline"}
        assert 1.0 <= asked.seconds < 1.0 + SOON_S

    def test_a_site_killed_at_work_is_asked_again_when_it_is_back(self, hub: SuperLink) -> None:
        site = hub.sites[SLOW]
        site.work_s = 1.0
        at_work(site, site.kill, then_s=0.6, then=site.come_back)
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received == [wire.ROUND, wire.HELLO, wire.ROUND]

    def test_a_site_killed_in_its_upload_is_asked_again(
        self, hub: SuperLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The half of its reply that came is waited for no longer than the site needs to answer another."""
        monkeypatch.setattr(courier_module, "HALF_REPLY_S", 0.2)
        site = hub.sites[SLOW]
        site.upload_s = 60.0

        def restart() -> None:
            while not site.uploading:
                time.sleep(0.005)
            site.kill(unnoticed_s=0.0)
            site.upload_s = 0.0
            site.come_back()

        threading.Thread(target=restart, daemon=True).start()
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received == [wire.ROUND, wire.HELLO, wire.ROUND]
        assert asked.seconds < SOON_S

    def test_a_site_restarted_between_two_looks_is_asked_again(
        self, hub: SuperLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(courier_module, "POLL_S", 0.5)
        monkeypatch.setattr(courier_module, "LONGEST_POLL_S", 0.5)
        site = hub.sites[SLOW]
        site.work_s = 1.0

        def restart() -> None:
            site.kill(unnoticed_s=0.0)
            site.come_back()

        at_work(site, restart, then_s=0.0, then=lambda: None)
        asked = Asked(hub, deadline_s=10.0)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received == [wire.ROUND, wire.HELLO, wire.ROUND]

    def test_a_stopped_site_whose_question_was_deleted_is_asked_again(self, hub: SuperLink) -> None:
        """It was still on the list when the hub looked for its reply."""
        site = hub.sites[SLOW]
        site.work_s = 1.0
        at_work(site, lambda: site.kill(unnoticed_s=0.0), then_s=0.4, then=site.come_back)
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received.count(wire.ROUND) == 2

    def test_a_line_cut_and_back_costs_no_second_training(self, hub: SuperLink) -> None:
        site = hub.sites[SLOW]
        site.work_s = 1.0
        at_work(site, site.cut, then_s=0.6, then=site.come_back)
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received.count(wire.ROUND) == 1

    def test_a_site_that_dies_each_time_is_given_up(self, hub: SuperLink) -> None:
        site = hub.sites[SLOW]
        site.work_s = 0.2

        def die_again() -> None:
            while len(site.received) < 50:
                if site.received and site.received[-1] == wire.ROUND:
                    site.received.append("died")
                    site.kill(unnoticed_s=0.0)
                    site.come_back()
                time.sleep(0.02)

        threading.Thread(target=die_again, daemon=True).start()
        asked = Asked(hub, deadline_s=20.0)
        site.received += [""] * 50
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "lost keeps-failing"}
        assert hub.pushed.count(f"{SLOW} {wire.ROUND}") == courier_module.MOST_TRIES

    def test_a_refusal_is_final(self) -> None:
        with SuperLink(*SITES, sites=StubSites({SLOW: "refuses"})) as hub:
            asked = Asked(hub)
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "refused plan"}
        assert asked.seconds < SOON_S

    def test_a_node_that_the_superlink_does_not_know_is_not_asked(self, hub: SuperLink) -> None:
        del hub.nodes[hub.sites[SLOW].node]
        asked = Asked(hub)
        assert asked.outcomes == {**ALL_ANSWERED, SLOW: "lost not-sent"}


class TestSuperLinkAway:
    def test_the_wait_ends_at_the_deadline(self, hub: SuperLink) -> None:
        for site in hub.sites.values():
            site.work_s = 0.5
        later(0.2, hub.go_away)
        asked = Asked(hub, deadline_s=1.5)
        assert set(asked.outcomes.values()) == {"late deadline"}
        assert 1.5 <= asked.seconds < 1.5 + SOON_S

    def test_away_from_the_start(self, hub: SuperLink) -> None:
        hub.go_away()
        asked = Asked(hub, deadline_s=0.5)
        assert set(asked.outcomes.values()) == {"lost offline"}
        assert 0.5 <= asked.seconds < 0.5 + SOON_S

    def test_answers_from_before_and_after_are_all_taken(self, hub: SuperLink) -> None:
        hub.sites[SLOW].work_s = 1.0
        hub.sites[THIRD].upload_s = 0.6
        later(0.3, hub.go_away)
        later(1.6, hub.come_back)
        asked = Asked(hub)
        assert asked.outcomes == ALL_ANSWERED
        assert [site.received for site in hub.sites.values()] == [[wire.ROUND]] * 3

    def test_nodes_that_it_calls_offline_when_it_is_back_keep_their_work(self, hub: SuperLink) -> None:
        """Their heartbeats did not get through; their next one does."""
        site = hub.sites[SLOW]
        site.work_s = 1.0
        later(0.2, hub.go_away)

        def return_without_them() -> None:
            site.cut(unnoticed_s=0.0)
            hub.come_back()

        later(0.5, return_without_them)
        later(0.7, site.come_back)
        asked = Asked(hub, quorum=2)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received.count(wire.ROUND) == 1

    def test_a_look_that_no_superlink_answered_proves_no_question_lost(self, hub: SuperLink) -> None:
        """The site was away, came back and answered a small question; then the SuperLink goes for a while."""
        site = hub.sites[SLOW]
        site.work_s = 1.0
        at_work(site, site.cut, then_s=0.4, then=site.come_back)

        def vanish() -> None:
            while wire.HELLO not in site.received:
                time.sleep(0.002)
            hub.go_away()
            time.sleep(0.5)
            hub.come_back()

        threading.Thread(target=vanish, daemon=True).start()
        asked = Asked(hub, deadline_s=10.0)
        assert asked.outcomes == ALL_ANSWERED
        assert site.received.count(wire.ROUND) == 1

    def test_an_error_of_the_superlink_passes(self, hub: SuperLink) -> None:
        hub.sites[SLOW].work_s = 0.5
        request = httpx.Request("POST", "https://localhost/v1/runtime/pull-messages")
        busy = httpx.HTTPStatusError("disk full", request=request, response=httpx.Response(500))
        later(0.2, lambda: hub.failing.extend([busy] * 5))
        assert Asked(hub).outcomes == ALL_ANSWERED

    def test_a_superlink_that_takes_nothing_for_a_while_costs_no_site_its_tries(self, hub: SuperLink) -> None:
        request = httpx.Request("POST", "https://localhost/v1/runtime/push-messages")
        full = httpx.HTTPStatusError("disk full", request=request, response=httpx.Response(500))
        hub.failing.extend([full] * 20)
        assert Asked(hub).outcomes == ALL_ANSWERED

    def test_a_run_that_was_ended_there_ends_here(self, hub: SuperLink) -> None:
        hub.sites[SLOW].work_s = 60.0
        later(0.3, lambda: hub.failing.append(RuntimeError("not running")))
        with pytest.raises(RunError, match="takes no more calls"):
            Asked(hub)


def test_a_stop_ends_the_wait(hub: SuperLink, tmp_path: Path) -> None:
    hub.sites[SLOW].work_s = 60.0
    create(tmp_path / "run", plan_of(), resume=False)
    later(0.3, (tmp_path / "run" / "stop").touch)
    began = time.monotonic()
    with opened(tmp_path / "run") as run, pytest.raises(StoppedError, match="asked to stop"):
        Asked(hub, deadline_s=60.0, run=run)
    assert time.monotonic() - began < SOON_S


def test_what_becomes_of_a_site_is_told(hub: SuperLink, tmp_path: Path) -> None:
    site = hub.sites[SLOW]
    site.work_s = 1.0
    at_work(site, site.kill, then_s=0.6, then=site.come_back)
    create(tmp_path / "run", plan_of(), resume=False)
    told: list[tuple[str, object]] = []
    with opened(
        tmp_path / "run", listen=lambda event: told.append((event["event"], event.get("site")))
    ) as run:
        Asked(hub, run=run)
    assert [kind for kind, name in told if name == SLOW] == [
        "site asked",
        "site away",
        "site back",
        "site asked",
    ]
