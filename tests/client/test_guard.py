"""The guard: what is not allowed never runs, is noted once, and is told to the hub by a code."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import accounts, chain, egress, guard, orders
from client.app import app as real_app
from client.approval import approve, revoke
from client.spending import spent
from common import instruction, wire
from common.codec import CODECS
from common.errors import RunError
from common.flower import bundle, bundle_sha256
from common.models.network import build
from common.plan import Plan, parse
from common.wire import Layout, digest, flatten
from tests.client.hospital import (
    KINDS,
    RUN,
    START,
    Bundle,
    Hospital,
    app_of,
    content_of,
    hospital,
    plan_of,
    replied,
    tracing_app,
    weights_of,
)

CANARY = "MRN-CANARY"


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    return hospital(tmp_path / "ssa")


def assert_refused(site: Hospital, message: Message, code: str, *, bundle: Bundle | None = None) -> None:
    """Refused with a code, one line in each record, and nothing run."""
    before = len(site.audit()), len(site.egress())
    content = site.ask(message, bundle=bundle)
    line = site.audit()[-1]

    assert wire.read_refusal(content) == code
    assert set(content) == {wire.REFUSAL}
    assert not site.canary.exists()
    assert (len(site.audit()), len(site.egress())) == (before[0] + 1, before[1] + 1)
    assert (line["code"], line["id"]) == (code, wire.read_correlation(content))
    assert site.egress()[-1]["id"] == line["id"]
    assert line["id"] in (site.folder / "site.log").read_text()


class TestWhatIsAllowed:
    @pytest.mark.parametrize("kind", KINDS)
    def test_an_approved_plans_messages_are_carried_out(self, tmp_path: Path, kind: str) -> None:
        site = hospital(tmp_path / "ssa", plan=plan_of(evaluation__local_only=True))

        assert site.code(site.message(kind)) is None
        assert site.canary.exists()
        assert site.audit() == []
        assert [line["type"] for line in site.egress()] == [kind]

    def test_the_app_is_given_this_sites_folder_whatever_the_context_said(self, site: Hospital) -> None:
        site.ask(site.message())

        assert site.canary.read_text() == "ran"

    def test_its_answer_comes_back(self, site: Hospital) -> None:
        content = site.ask(site.message())

        assert set(content) == {wire.TABLE, wire.WEIGHTS, wire.METRICS, wire.TIMES}
        assert wire.read_metrics(content) == {"loss": 0.5}

    def test_a_bundle_of_our_own_passes(self, site: Hospital) -> None:
        assert site.code(site.message(), bundle=(bundle(), bundle_sha256())) is None

    def test_a_yes_holds_from_the_next_message_on_and_so_does_taking_it_back(self, site: Hospital) -> None:
        other = replace(site, plan=plan_of(seed=7))
        codes = [other.code(other.message())]
        approve(site.site, other.plan)
        codes.append(other.code(other.message(run="ef" * 16)))
        revoke(site.site, other.plan.sha256[:12])
        codes.append(other.code(other.message(run="ef" * 16)))

        assert codes == ["unapproved", None, "unapproved"]


Change = Callable[[Hospital], Message]

MUTATIONS: dict[str, tuple[str, Change]] = {
    "another seed": ("unapproved", lambda s: replace(s, plan=plan_of(seed=2)).message()),
    "one more step": ("unapproved", lambda s: replace(s, plan=plan_of(adaptation__local_steps=3)).message()),
    "no TOML": ("plan", lambda s: s.message(plan_toml="seed = ")),
    "an unknown key": ("plan", lambda s: s.message(plan_toml=s.plan.as_toml() + "\n[shell]\nrm = 1\n")),
    "no plan at all": ("plan", lambda s: s.message(plan_toml="")),
    "a round too many": ("not-planned", lambda s: s.message(round_number=4)),
    "round nought": ("not-planned", lambda s: s.message(round_number=0)),
    "alone": ("not-planned", lambda s: s.message(wire.ALONE)),
    "a domain": ("not-planned", lambda s: s.message(domain=0, domains=2)),
    "a run that is a path": ("malformed", lambda s: s.message(run="../../etc")),
    "a start that is a path": ("malformed", lambda s: s.message(start="../../etc")),
    "a negative round": ("malformed", lambda s: s.message(round_number=-1)),
    "a round that is a text": ("malformed", lambda s: s.message(round_number="1")),
    "a word too many": ("malformed", lambda s: with_words(s, shell="rm")),
    "a word too few": ("malformed", lambda s: with_words(s, start=None)),
    "another schema": ("schema", lambda s: with_schema(s, 2)),
    "no instruction": ("malformed", lambda s: s.message(content=weights_of(1))),
    "no weights": ("malformed", lambda s: s.message(content=content_of(wire.HELLO, s.words))),
    "a record too many": ("malformed", lambda s: with_record(s)),
    "weights that are none": ("malformed", lambda s: with_words_for_weights(s)),
    "an error": ("malformed", lambda s: with_error(s)),
    "an unknown action": ("unknown-type", lambda s: retyped(s, "train.shell")),
    "no action": ("unknown-type", lambda s: retyped(s, "train")),
    "an older kind": ("unknown-type", lambda s: retyped(s, "get_parameters")),
    "too late": ("expired", lambda s: aged(s, by_s=61.0)),
    "no time at all": ("expired", lambda s: aged(s, by_s=float("nan"))),
    "from the future": ("expired", lambda s: aged(s, by_s=-3600.0)),
    "a life of a day": ("not-planned", lambda s: s.message(ttl=86400.0)),
    "a life without end": ("not-planned", lambda s: s.message(ttl=float("nan"))),
}


def with_words(site: Hospital, **changes: object) -> Message:
    words = wire.read_metrics(RecordDict({wire.INSTRUCTION: site.words.record()}), wire.INSTRUCTION)
    changed = {key: value for key, value in {**words, **changes}.items() if value is not None}
    content = content_of(wire.ROUND, site.words)
    content[wire.INSTRUCTION] = wire.pack_metrics(changed)
    return site.message(content=content)


def with_schema(site: Hospital, number: int) -> Message:
    message = site.message()
    record = message.content[wire.INSTRUCTION]
    message.content[wire.INSTRUCTION] = ConfigRecord({**record, "schema": number})  # type: ignore[dict-item]
    return message


def with_record(site: Hospital) -> Message:
    message = site.message()
    message.content["shell"] = ConfigRecord({"run": "rm"})
    return message


def with_words_for_weights(site: Hospital) -> Message:
    message = site.message()
    message.content[wire.WEIGHTS] = ConfigRecord({"flat": "rm"})
    return message


def with_error(site: Hospital) -> Message:
    message = site.message()
    message.__dict__.update(_content=None, _error=Error(code=0, reason="x"))
    return message


def retyped(site: Hospital, kind: str) -> Message:
    message = site.message()
    message.metadata.__dict__["_message_type"] = kind
    return message


def aged(site: Hospital, *, by_s: float) -> Message:
    message = site.message()
    message.metadata.created_at -= by_s
    return message


def unread(*_: object, **__: object) -> Plan:
    pytest.fail("the plan was read")


class TestRefusedBeforeAnythingRuns:
    @pytest.mark.parametrize("name", MUTATIONS)
    def test_a_message_that_was_changed(self, site: Hospital, name: str) -> None:
        code, change = MUTATIONS[name]

        assert_refused(site, change(site), code)

    def test_a_message_that_nobody_waits_for_has_no_plan_read(
        self, site: Hospital, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = aged(site, by_s=61.0)
        monkeypatch.setattr(instruction, "parse", unread)

        assert_refused(site, message, "expired")

    def test_the_record_of_a_message_that_was_given_up_names_its_plan_without_reading_it(
        self, site: Hospital, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = site.message()
        site.ask(message)
        monkeypatch.setattr(instruction, "parse", unread)
        guard.refuse(site.folder, message, RunError("x", code="worker-died"), by="worker")

        assert [line["plan"] for line in site.audit()] == [site.plan.sha256]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_plan_changed_by_any_byte_is_another_plan_or_the_same_by_its_hash(
        self, site: Hospital, data: st.DataObject
    ) -> None:
        """A changed space or comment is the same plan; whatever means something else is refused."""
        site.canary.unlink(missing_ok=True)
        text = site.plan.as_toml()
        at = data.draw(st.integers(0, len(text) - 1))
        byte = data.draw(st.characters(min_codepoint=9, max_codepoint=126))
        message = site.message(plan_toml=text[:at] + byte + text[at + 1 :], run="ef" * 16)
        code = site.code(message)

        assert code in {None, "plan", "unapproved"}
        assert site.canary.exists() == (code is None)
        if code is None:
            assert instruction.read(message.content).plan.sha256 == site.plan.sha256

    @pytest.mark.parametrize(
        ("policy", "code"),
        [
            ({"max_rounds": 2}, "cap-rounds"),
            ({"max_steps": 8}, "cap-steps"),
            ({"max_bytes": 1000}, "cap-bytes"),
            ({"minimum_sites": 3}, "minimum-sites"),
            ({"releases": ["0" * 64]}, "release"),
        ],
        ids=lambda value: str(value),
    )
    def test_what_is_over_a_cap(self, tmp_path: Path, policy: dict[str, Any], code: str) -> None:
        site = hospital(tmp_path / "ssa", **policy)

        assert_refused(site, site.message(), code)

    def test_a_release_that_the_policy_names_may_start_a_run(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", releases=[START])

        assert site.code(site.message()) is None

    def test_work_outside_the_hours(self, tmp_path: Path) -> None:
        later, end = (datetime.now() + timedelta(hours=h) for h in (2, 3))
        site = hospital(tmp_path / "ssa", hours=f"{later:%H:%M}-{end:%H:%M}")

        assert_refused(site, site.message(), "hours")

    def test_a_plan_without_this_site(self, tmp_path: Path) -> None:
        plan = plan_of()
        others = parse_without(plan, "ssa")
        site = hospital(tmp_path / "ssa", plan=others)

        assert_refused(site, site.message(), "not-planned")

    def test_a_site_without_a_policy_allows_nothing(self, site: Hospital) -> None:
        (site.folder / "site.toml").write_text(f'name = "ssa"\ndata = "{site.folder}"\n')

        assert_refused(site, site.message(), "unapproved")

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (None, "site"),
            ("name = ", "site"),
            ('name = "ssa"', "site"),
            ("[policy]\nmax_round = 3", "policy"),
        ],
    )
    def test_a_site_toml_that_cannot_be_read(self, site: Hospital, text: str | None, code: str) -> None:
        file = site.folder / "site.toml"
        if text is None:
            file.unlink()
        else:
            head = "" if code == "site" else f'name = "ssa"\ndata = "{site.folder}"\n'
            file.write_text(head + text)

        assert_refused(site, site.message(), code)


def parse_without(plan: Plan, name: str) -> Plan:
    data = plan.as_dict()
    del data["sites"][name]
    return parse(data, origin="test")


def zipped(**files: bytes) -> bytes:
    """Our bundle with more in it."""
    out = io.BytesIO(bundle())
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return out.getvalue()


def bomb(nbytes: int) -> bytes:
    """An archive of a megabyte or so that would unpack to `nbytes`."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("pyproject.toml", "w", force_zip64=True) as entry,
    ):
        for _ in range(nbytes >> 20):
            entry.write(bytes(1 << 20))
    return out.getvalue()


def changed_by_a_byte() -> bytes:
    content = bytearray(bundle())
    content[len(content) // 2] ^= 1
    return bytes(content)


BUNDLES: dict[str, Callable[[], bytes]] = {
    "with code": lambda: zipped(canary__py=b"open('canary', 'w')"),
    "with other settings": lambda: zipped(more__toml=b"x = 1"),
    "changed by a byte": changed_by_a_byte,
    "cut": lambda: bundle()[:-1],
    "empty": lambda: b"",
    "no archive": lambda: b"\x00" * 100,
}


class TestBundles:
    @pytest.mark.parametrize("name", BUNDLES)
    def test_any_bundle_but_ours_is_refused_whatever_it_claims_to_be(self, site: Hospital, name: str) -> None:
        assert_refused(site, site.message(), "bundle", bundle=(BUNDLES[name](), bundle_sha256()))

    def test_ours_under_another_name_is_refused(self, site: Hospital) -> None:
        assert_refused(site, site.message(), "bundle", bundle=(bundle(), "0" * 64))

    def test_a_bomb_is_not_unpacked(self, site: Hospital) -> None:
        content = bomb(3 << 29)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()

        assert_refused(site, site.message(), "bundle", bundle=(content, "0" * 64))
        assert time.perf_counter() - began < 1.0
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB
        assert len(content) > 1 << 20


class TestSumsOverARun:
    def test_a_round_asked_for_again_and_again_ends_at_the_cap_of_steps(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_steps=9)
        codes = [site.code(site.message()) for _ in range(5)]

        assert codes == [None, None, None, None, "cap-steps"]

    def test_a_run_sends_no_more_than_it_may(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_bytes=66_000)
        codes = []
        for _ in range(40):
            codes.append(site.code(site.message()))
            if codes[-1]:
                break
        sent = [line["bytes"] for line in site.egress() if "code" not in line]

        assert codes[-1] == "cap-bytes"
        assert codes.index("cap-bytes") > 0
        assert sum(sent) <= 66_000

    def test_a_reply_that_turns_out_larger_than_what_is_left_stays(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_bytes=70_000)
        large = tracing_app(lambda m, c: replied(m, scores={"dice": {str(i): i for i in range(9000)}}))

        assert site.code(site.message(wire.EVALUATE), large) == "cap-bytes"
        assert [line["code"] for line in site.audit()] == ["cap-bytes"]

    def test_hours_of_work_are_counted(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_hours=1e-5)

        def slow(message: Message, context: Context) -> Message:
            time.sleep(0.05)
            return replied(message)

        assert [site.code(site.message(), app_of(slow)) for _ in range(2)] == [None, "cap-hours"]

    def test_a_plan_may_be_run_so_often(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_runs=2)
        codes = [site.code(site.message(run=f"{run:032x}")) for run in (1, 2, 1, 3)]

        assert codes == [None, None, None, "cap-runs"]

    def test_a_run_that_was_refused_leaves_no_folder(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", max_runs=1)
        site.ask(site.message())
        codes = [site.code(site.message(run=f"{run:032x}")) for run in range(30)]
        folders = [path.name for path in (site.folder / "state").iterdir() if path.is_dir()]

        assert set(codes) == {"cap-runs"}
        assert folders == [RUN]

    def test_a_run_cannot_change_its_plan(self, site: Hospital) -> None:
        other = replace(site, plan=plan_of(seed=7))
        approve(site.site, other.plan)

        assert [site.code(site.message()), other.code(other.message())] == [None, "not-planned"]

    def test_a_run_starts_from_one_model(self, site: Hospital) -> None:
        """Else a hub could fill the disk with models under one approved plan."""
        codes = [site.code(site.message(wire.RECEIVE, start=f"{start:064x}")) for start in (1, 1, 2)]

        assert codes == [None, None, "not-planned"]

    def test_a_kill_in_the_middle_leaves_the_most_that_it_may_have_cost(self, site: Hospital) -> None:
        class Kill(BaseException):
            pass

        def killed(message: Message, context: Context) -> Message:
            raise Kill

        with pytest.raises(Kill):
            site.ask(site.message(), app_of(killed))
        sums = spent(site.folder / "state" / RUN)

        assert sums is not None
        assert (sums.steps, sums.rounds) == (2, (1,))
        assert 50 < sums.seconds <= 60
        assert sums.bytes_up >= 12

    def test_an_answer_costs_what_it_took(self, site: Hospital) -> None:
        site.ask(site.message())
        site.ask(site.message(wire.ADAPT))
        sums = spent(site.folder / "state" / RUN)

        assert sums is not None
        assert (sums.steps, sums.rounds) == (2 + 3, (1,))
        assert 0 < sums.seconds < 5
        assert sums.bytes_up == sum(line["bytes"] for line in site.egress())

    def test_sums_that_were_damaged_stop_the_run(self, site: Hospital) -> None:
        site.ask(site.message())
        site.canary.unlink()
        (site.folder / "state" / RUN / "spent.json").write_text('{"steps": -5}')

        assert_refused(site, site.message(), "ledger")


@pytest.mark.slow
def test_a_site_killed_anywhere_never_forgets_what_it_sent(site: Hospital, rng: np.random.Generator) -> None:
    """What left has its line, the record is whole, and the run's sums are never less than its lines say."""
    left, free = os.pipe()
    for _ in range(25):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    site.ask(site.message())
                    os.write(free, b".")  # it left
            finally:
                os._exit(1)
        time.sleep(float(rng.uniform(0.01, 0.3)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(free)
    answers = len(os.read(left, 1 << 16))
    lines = site.egress()
    sums = spent(site.folder / "state" / RUN)

    assert answers > 25
    assert answers <= len(lines) <= answers + 25
    assert chain.verify(site.folder / accounts.FILE).bad_line is None
    assert sums is not None
    assert sums.steps >= 2 * len(lines)
    assert sums.bytes_up >= sum(line["bytes"] for line in lines)


class TestItNeverRaises:
    @pytest.mark.parametrize("kind", KINDS[:-1])
    def test_what_an_app_raises_stays_here(self, site: Hospital, kind: str) -> None:
        def failing(message: Message, context: Context) -> Message:
            raise ValueError(f"{CANARY} /secret/path")

        reply = site.ask(site.message(kind), app_of(failing))
        (line,) = site.audit()

        assert wire.read_refusal(reply) == "internal"
        logged = json.loads((site.folder / "site.log").read_text())
        assert CANARY in logged["error"]
        assert datetime.strptime(logged["time"], "%Y-%m-%d %H:%M:%S%z").tzinfo is not None
        assert line["id"] == wire.read_correlation(reply)
        for text in (repr(reply), json.dumps(site.audit()), json.dumps(site.egress())):
            assert CANARY not in text
            assert "secret" not in text

    def test_an_error_of_flowers_own_does_not_leave(self, site: Hospital) -> None:
        def failing(message: Message, context: Context) -> Message:
            return Message(Error(code=1, reason=f"{CANARY} /secret/path"), reply_to=message)

        message = site.message()
        context = Context(1, 1, {}, RecordDict(), {})
        reply = guard.answer(site.folder, message, context, app_of(failing))

        assert wire.read_refusal(reply.content) == "internal"
        assert CANARY.encode() not in message_to_proto(reply).SerializeToString()

    def test_an_error_whose_code_holds_words_is_told_as_internal(self, site: Hospital) -> None:
        def failing(message: Message, context: Context) -> Message:
            raise RunError("x", code=f"{CANARY} /secret/path")

        assert site.code(site.message(), app_of(failing)) == "internal"

    def test_a_refusal_of_the_app_is_noted_once_and_keeps_its_id(self, site: Hospital) -> None:
        def refusing(message: Message, context: Context) -> Message:
            content = wire.pack_refusal("no-start", correlation="abc123")
            content["words"] = ConfigRecord({"text": CANARY})
            return Message(content, reply_to=message)

        reply = site.ask(site.message(), app_of(refusing))
        (line,) = site.audit()

        assert set(reply) == {wire.REFUSAL}
        assert (line["code"], line["id"], line["by"]) == ("no-start", "abc123", "site")

    @pytest.mark.parametrize("record", ["audit.jsonl", "egress.jsonl", "site.log", "state"])
    def test_a_record_that_cannot_be_written(self, site: Hospital, record: str) -> None:
        """Nothing trains where a record cannot be read; a log is none, so nothing is withheld for it."""
        path = site.folder / record
        path.unlink(missing_ok=True)
        if record == "state":
            path.write_text("no folder")
        else:
            path.mkdir()
        code = site.code(site.message())

        assert code == (None if record == "site.log" else "disk")

    def test_a_full_disk_lets_no_update_out(self, site: Hospital) -> None:
        site.ask(site.message())
        with full_disk():
            content = site.ask(site.message())

        assert set(content) == {wire.REFUSAL}
        assert wire.read_refusal(content) == "disk"
        assert len(site.egress()) == 1
        assert chain.verify(site.folder / accounts.FILE).bad_line is None
        assert site.code(site.message()) is None

    def test_a_record_that_was_cut_stops_every_answer(self, site: Hospital) -> None:
        for _ in range(3):
            site.ask(site.message())
        path = site.folder / "egress.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

        assert site.code(site.message()) == "ledger"


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("record", ["egress.jsonl", "audit.jsonl"])
def test_a_byte_changed_in_a_records_first_line_stops_every_answer(site: Hospital, record: str) -> None:
    """It ends where its head says, so lines can still be added: what is refused is noted."""
    approve(site.site, plan_of(seed=7))
    for _ in range(2):
        assert site.code(site.message()) is None
    file = site.folder / record
    site.canary.unlink()
    at = file.read_bytes().index(b"T")
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + b" " + whole[at + 1 :])

    for kind in (wire.ROUND, wire.HELLO):
        assert_refused(site, site.message(kind), "ledger")
    assert "line 1 was changed" in site.audit()[-1]["words"]
    assert f"{record}" in site.audit()[-1]["words"]


class TestWhatLeaves:
    def test_a_metric_that_the_policy_keeps_here_stays(self, tmp_path: Path) -> None:
        site = hospital(tmp_path / "ssa", metrics=["train_s"])
        said = {"loss": 0.5, "train_s": 1.0, "patient": CANARY, "validation_dice": 0.5}
        reply = site.ask(site.message(), tracing_app(lambda m, c: replied(m, **said)))
        (line,) = site.egress()

        assert wire.read_metrics(reply) == {"train_s": 1.0}
        assert wire.read_metrics(reply, wire.TIMES) == {}
        assert line["metrics"] == ["train_s"]
        assert set(line["withheld"]) == {"loss", "patient", "validation_dice", "busy_s"}

    def test_the_scores_of_single_cases_stay_unless_the_policy_lets_them_out(self, tmp_path: Path) -> None:
        scores = {"scores": {"cases": [{"dice": 0.1}], "dice": {"mean": 0.1}, "names": [CANARY]}}
        kept = {}
        for name, site in {
            "usual": hospital(tmp_path / "usual"),
            "more": hospital(tmp_path / "more", metrics=["cases"]),
        }.items():
            app = tracing_app(lambda m, c: replied(m, **scores))
            kept[name] = set(wire.read_metrics(site.ask(site.message(wire.EVALUATE), app))["scores"])

        assert kept == {"usual": {"dice"}, "more": {"cases"}}

    def test_what_the_hub_needs_stays_in_place_when_its_content_is_kept_here(self, tmp_path: Path) -> None:
        """A table of the final stages is there, and empty; else the hub would take the reply for damaged."""
        site = hospital(tmp_path / "ssa", metrics=["loss"])
        said = {
            "scores": {"dice": {"mean": 1}},
            "validation": {"adapted": 1},
            "kept": "adapted",
            "train_s": 1,
        }
        reply = site.ask(site.message(wire.ADAPT), tracing_app(lambda m, c: replied(m, **said)))

        assert wire.read_metrics(reply) == {"scores": {}, "validation": {}, "kept": "adapted"}

    def test_every_message_that_is_known_says_what_its_answer_may_hold(self) -> None:
        assert set(egress.MAY_HOLD) == set(orders.HOLDS) == set(KINDS)

    def test_the_apps_own_answers_lose_nothing_but_the_cases(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        """The table of what may leave and what `client.app` says must not part ways."""
        plan = plan_of(evaluation__local_only=True)
        site = hospital(tmp_path / "ssa", data=tiny_cohorts["ssa"], plan=plan)
        start = build(plan, seed=5).state_dict()
        layout = Layout.of(start)
        packed, _ = CODECS["fp32"].encode(flatten(start, layout))
        for number, kind in enumerate(KINDS):
            words = replace(
                site.words, start=digest(flatten(start, layout)), round_number=int(kind == wire.ROUND)
            )
            content = content_of(wire.HELLO, words)
            if number:
                content = RecordDict({**content, **wire.pack_weights(packed, layout, round_number=number)})
            assert site.code(site.message(kind, content=content), real_app) is None, kind

        withheld = {line["type"]: line["withheld"] for line in site.egress()}
        judged = [withheld.pop(kind) for kind in (wire.EVALUATE, wire.ADAPT, wire.ALONE)]
        assert judged == [["scores.cases"]] * 3
        assert set(map(tuple, withheld.values())) == {()}
        assert site.audit() == []


class TestGpu:
    def test_a_site_may_forbid_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        site = hospital(tmp_path / "ssa", gpu="forbid")
        seen: list[str] = []

        def looking(message: Message, context: Context) -> Message:
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
            return replied(message)

        site.ask(site.message(), app_of(looking))
        assert seen == [""]

    def test_one_that_is_open_already_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        site = hospital(tmp_path / "ssa", gpu="forbid")

        assert_refused(site, site.message(), "gpu")

    def test_a_share_of_its_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shares: list[float] = []
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", shares.append)
        site = hospital(tmp_path / "ssa", gpu_memory_share=0.25)
        site.ask(site.message())

        assert shares == [0.25]
