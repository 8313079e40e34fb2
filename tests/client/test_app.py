"""The site's app: what it answers, what it keeps, and that nothing it lets out says more than it should."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto

from client import adaptation
from client.app import app
from client.site import FEDERATION_VARIABLE, Site, create, locate, open_site
from common import wire
from common.checkpoint import load
from common.codec import CODECS
from common.errors import DataError, SiteError
from common.instruction import Instruction
from common.learning.finetuning import trainable_names
from common.models.network import build
from common.plan import Plan, parse
from common.wire import Layout
from server.domains import first_discriminator
from simulation.grid import HUB_NODE, RUN_ID, assume_identity

CANARY = "MRN-CANARY"
SECRET = f"{CANARY} /secret/path"
SITE_NODE = HUB_NODE + 1
KINDS = (wire.HELLO, wire.RECEIVE, wire.ROUND, wire.EVALUATE, wire.ADAPT, wire.ALONE)


def plan_of(**changes: object) -> Plan:
    data: dict[str, Any] = {
        "schema": 1,
        "name": "client",
        "task": {"spacing_mm": 4.0},
        "model": {"start": "scratch"},
        "adaptation": {"local_steps": 2, "adapt_steps": 2, "patch": 16},
        "rounds": {"count": 3, "quorum": 1},
        "sites": {"adult-a": {}, "ssa": {}},
    }
    return parse(data, origin="client").override({key.replace("__", "."): v for key, v in changes.items()})


@dataclass(frozen=True)
class Hub:
    """What the hub would send to one site, and what comes back."""

    site: Site
    plan: Plan
    start: Mapping[str, torch.Tensor]

    @property
    def words(self) -> Instruction:
        digest = wire.digest(wire.flatten(self.start, Layout.of(self.start)))
        return Instruction("ab" * 16, self.plan.as_toml(), 0, digest, new_head=True)

    @property
    def layout(self) -> Layout:
        names = trainable_names(build(self.plan, seed=0), self.plan.adaptation.trains, new_head=True)
        return Layout.of({name: self.start[name] for name in names})

    @property
    def aligned_layout(self) -> Layout:
        """With a discriminator of two domains behind what trains."""
        return self.layout.followed_by(Layout.of(self.discriminator))

    @property
    def discriminator(self) -> dict[str, torch.Tensor]:
        return first_discriminator(self.plan, domains=2)

    def aligned_round(self, round_number: int, *, domain: int) -> tuple[RecordDict, str]:
        """A round's message to a site of a domain, and its kind."""
        words = replace(self.words, round_number=round_number, domain=domain, domains=2)
        flat = wire.flatten({**self.start, **self.discriminator}, self.aligned_layout)
        packed, _ = CODECS["fp32"].encode(flat)
        content = wire.pack_weights(packed, self.aligned_layout, round_number=round_number)
        content[wire.INSTRUCTION] = words.record()
        return content, wire.ROUND

    def content(self, kind: str, words: Instruction) -> RecordDict:
        if kind == wire.HELLO:
            return RecordDict({wire.INSTRUCTION: words.record()})
        layout = Layout.of(self.start) if kind == wire.RECEIVE else self.layout
        packed, _ = CODECS["fp32"].encode(wire.flatten(self.start, layout))
        content = wire.pack_weights(packed, layout, round_number=words.round_number)
        content[wire.INSTRUCTION] = words.record()
        return content

    def send(self, content: RecordDict, kind: str, *, ttl: float = 60.0) -> Message:
        assume_identity(HUB_NODE)
        message = Message(content, SITE_NODE, kind, ttl=ttl)
        message.metadata.__dict__["_message_id"] = "question"
        config = {"site-dir": str(self.site.folder)}
        context = Context(RUN_ID, SITE_NODE, cast(Any, config), RecordDict(), cast(Any, {}))
        assume_identity(SITE_NODE)
        return app(message, context)

    def ask(self, kind: str, *, round_number: int = 0) -> RecordDict:
        words = replace(self.words, round_number=round_number)
        return self.send(self.content(kind, words), kind).content

    def train(self, round_number: int) -> np.ndarray:
        """The update of a round."""
        payload = wire.read_weights(self.ask(wire.ROUND, round_number=round_number), self.layout)
        return payload.flat


@pytest.fixture
def hub(tmp_path: Path, tiny_cohorts: dict[str, Path]) -> Hub:
    return hub_of(tmp_path, tiny_cohorts)


def hub_of(tmp_path: Path, cohorts: dict[str, Path], *, site: str = "ssa", plan: Plan | None = None) -> Hub:
    folder = tmp_path / site
    create(folder, name=site, data=cohorts[site])
    wanted = plan or plan_of()
    return Hub(open_site(folder), wanted, build(wanted, seed=5).state_dict())


def aligned(tmp_path: Path, cohorts: dict[str, Path]) -> Hub:
    return hub_of(tmp_path, cohorts, plan=plan_of(alignment__method="dann"))


def site_log(hub: Hub) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (hub.site.folder / "site.log").read_text().splitlines()]


class TestAnswers:
    def test_hello_says_counts_and_facts_but_no_name_of_a_case(self, hub: Hub) -> None:
        reply = hub.ask(wire.HELLO)
        facts = wire.read_metrics(reply)

        assert facts["site"] == "ssa"
        assert facts["patients"] == {"train": 1, "val": 0, "test": 1}
        assert facts["knows_start"] is False
        text = json.dumps(facts)
        assert not [case for case in hub.site.cohort.cases if case.name in text or case.patient in text]

    def test_the_first_model_is_kept_under_its_digest(self, hub: Hub) -> None:
        assert wire.read_metrics(hub.ask(wire.RECEIVE)) == {"received": hub.words.start}
        assert wire.read_metrics(hub.ask(wire.HELLO))["knows_start"] is True

    def test_a_round_gives_an_update_of_what_trains(self, hub: Hub) -> None:
        hub.ask(wire.RECEIVE)
        reply = hub.ask(wire.ROUND, round_number=1)
        payload = wire.read_weights(reply, hub.layout)
        numbers = wire.read_metrics(reply)

        assert (payload.round_number, payload.weight) == (1, 1)
        assert np.linalg.norm(payload.flat) > 0
        assert numbers.keys() == {"loss", "validation_dice", "train_s", "precision"}
        assert numbers["validation_dice"] is None
        assert wire.read_metrics(reply, wire.TIMES)["busy_s"] >= numbers["train_s"]

    def test_frozen_parameters_do_not_travel(self, tmp_path: Path, tiny_cohorts: dict[str, Path]) -> None:
        hub = hub_of(tmp_path, tiny_cohorts, plan=plan_of(adaptation__trains="head"))
        hub.ask(wire.RECEIVE)
        payload = wire.read_weights(hub.ask(wire.ROUND, round_number=1), hub.layout)

        assert {name.split(".")[0] for name, _, _ in payload.layout.entries} == {"head"}

    def test_an_aligned_round_sends_the_discriminator_and_keeps_it_out_of_the_kept_model(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        hub = aligned(tmp_path, tiny_cohorts)
        hub.ask(wire.RECEIVE)
        reply = hub.send(*hub.aligned_round(2, domain=1)).content
        flat = wire.read_weights(reply, hub.aligned_layout).flat
        hub.ask(wire.ADAPT)
        kept = load(hub.site.folder / "models" / "kept.safetensors").tensors
        state = load(next((hub.site.folder / "state").rglob("*.safetensors"))).tensors

        assert np.abs(flat[: hub.layout.size]).max() > 0
        assert np.abs(flat[hub.layout.size :]).max() > 0
        assert wire.read_metrics(reply)["domain_loss"] == pytest.approx(np.log(2), abs=0.5)
        assert kept.keys() == hub.start.keys()
        assert {name for name in state if name.startswith("discriminator.")}

    def test_an_aligned_round_that_is_asked_twice_gives_the_same_update_bit_for_bit(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        hub = aligned(tmp_path, tiny_cohorts)
        hub.ask(wire.RECEIVE)
        updates = [
            wire.read_weights(hub.send(*hub.aligned_round(number, domain=0)).content, hub.aligned_layout).flat
            for number in (1, 2, 2)
        ]

        assert updates[1].tobytes() == updates[2].tobytes()
        assert updates[0].tobytes() != updates[1].tobytes()

    @pytest.mark.parametrize("codec", ["fp32", "int8"])
    def test_a_round_that_is_asked_twice_gives_the_same_update_bit_for_bit(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path], codec: str
    ) -> None:
        """With moments kept and, in int8, what the codec still owes."""
        hub = hub_of(tmp_path, tiny_cohorts, plan=plan_of(aggregation__codec=codec))
        hub.ask(wire.RECEIVE)
        first, again = hub.train(1), hub.train(1)
        second, second_again = hub.train(2), hub.train(2)

        assert first.tobytes() == again.tobytes()
        assert second.tobytes() == second_again.tobytes()
        assert first.tobytes() != second.tobytes()

    def test_the_final_stages_answer_what_the_summary_needs(self, hub: Hub) -> None:
        hub.ask(wire.RECEIVE)
        judged = wire.read_metrics(hub.ask(wire.EVALUATE))
        adapted = wire.read_metrics(hub.ask(wire.ADAPT))

        assert judged["scores"]["dice"].keys() == {"NCR", "ED", "ET", "TC", "WT", "mean"}
        for name in ("dice", "hd95_mm", "assd_mm", "nsd", "rule", "lesion_dice", "lesion_hd95_mm"):
            assert judged["scores"]["cases"][0][name].keys() == {"NCR", "ED", "ET", "TC", "WT"}
        assert adapted["kept"] == "federated"  # nobody to validate on
        assert (hub.site.folder / "models" / "kept.safetensors").is_file()
        assert len(list((hub.site.folder / "predictions").glob("*.nii.gz"))) == 1


class TestRefusals:
    def test_a_first_model_of_another_digest_is_refused_and_not_kept(self, hub: Hub) -> None:
        other = replace(hub.words, start="0" * 64)
        reply = hub.send(hub.content(wire.RECEIVE, other), wire.RECEIVE).content

        assert wire.read_refusal(reply) == "start"
        assert not list(hub.site.folder.glob("models/*"))

    @pytest.mark.parametrize("kind", [wire.ROUND, wire.EVALUATE, wire.ADAPT, wire.ALONE])
    def test_without_the_first_model_nothing_is_done(self, hub: Hub, kind: str) -> None:
        assert wire.read_refusal(hub.ask(kind, round_number=1)) == "no-start"

    def test_weights_of_other_parameters_are_refused(self, hub: Hub) -> None:
        hub.ask(wire.RECEIVE)
        whole = hub.content(wire.RECEIVE, replace(hub.words, round_number=1))
        head_only = replace(hub, plan=plan_of(adaptation__trains="head"))
        whole[wire.INSTRUCTION] = replace(head_only.words, round_number=1).record()

        assert wire.read_refusal(hub.send(whole, wire.ROUND).content) == "names"

    @pytest.mark.parametrize(
        "change",
        [
            {"stage": "before"},
            {"run": None},
            {"run": "../../etc"},
            {"start": "zz" * 32},
            {"round": "1"},
            {"round": True},
            {"round": -1},
            {"new_head": 1},
        ],
        ids=str,
    )
    def test_an_instruction_in_unknown_words_is_refused(self, hub: Hub, change: dict[str, object]) -> None:
        words = wire.read_metrics(RecordDict({wire.INSTRUCTION: hub.words.record()}), wire.INSTRUCTION)
        record = wire.pack_metrics({**words, **change})

        assert wire.read_refusal(hub.send(RecordDict({wire.INSTRUCTION: record}), wire.HELLO).content) == (
            "malformed"
        )

    @pytest.mark.parametrize("missing", ["run", "plan", "round", "start", "new_head"])
    def test_an_instruction_that_lacks_a_part_is_refused(self, hub: Hub, missing: str) -> None:
        words = wire.read_metrics(RecordDict({wire.INSTRUCTION: hub.words.record()}), wire.INSTRUCTION)
        del words[missing]
        content = RecordDict({wire.INSTRUCTION: wire.pack_metrics(words)})

        assert wire.read_refusal(hub.send(content, wire.HELLO).content) == "malformed"

    @pytest.mark.parametrize("toml", ["not = [toml", "schema = 1", 'name = "x"\nrm = "-rf"'])
    def test_a_plan_that_is_none_is_refused(self, hub: Hub, toml: str) -> None:
        words = replace(hub.words, plan_toml=toml)

        assert wire.read_refusal(hub.send(hub.content(wire.HELLO, words), wire.HELLO).content) == "plan"

    def test_a_message_after_its_deadline_is_not_begun(self, hub: Hub) -> None:
        reply = hub.send(hub.content(wire.RECEIVE, hub.words), wire.RECEIVE, ttl=1e-9)

        assert wire.read_refusal(reply.content) == "expired"
        assert not list(hub.site.folder.glob("models/*"))

    def test_a_plan_that_aligns_and_an_instruction_that_names_no_domain(
        self, tmp_path: Path, tiny_cohorts: dict[str, Path]
    ) -> None:
        hub = aligned(tmp_path, tiny_cohorts)
        hub.ask(wire.RECEIVE)

        assert wire.read_refusal(hub.ask(wire.ROUND, round_number=1)) == "malformed"

    @pytest.mark.parametrize(
        "change",
        [
            {"domain": 2, "domains": 2},
            {"domain": -1, "domains": 2},
            {"domain": True, "domains": 2},
            {"domain": None, "domains": 2},
            {"domain": 0, "domains": 10**9},
            {"domain": 0, "domains": "2"},
            {"domain": 0},
            {"domains": 2},
        ],
        ids=str,
    )
    def test_a_domain_that_is_none_is_refused(self, hub: Hub, change: dict[str, object]) -> None:
        words = wire.read_metrics(RecordDict({wire.INSTRUCTION: hub.words.record()}), wire.INSTRUCTION)
        content = RecordDict({wire.INSTRUCTION: wire.pack_metrics({**words, **change})})

        assert wire.read_refusal(hub.send(content, wire.HELLO).content) == "malformed"

    def test_an_empty_message_is_refused(self, hub: Hub) -> None:
        assert wire.read_refusal(hub.send(RecordDict(), wire.HELLO).content) == "malformed"


class CanaryError(Exception):
    """An error whose own name could be a patient's."""


def chained() -> Exception:
    error = RuntimeError("harmless")
    error.__cause__ = ValueError(SECRET)
    return error


FAULTS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError(SECRET),
    "KeyError": lambda: KeyError(SECRET),
    "OSError": lambda: OSError(2, SECRET, "/secret/path/MRN-CANARY.nii.gz"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    "DataError": lambda: DataError(SECRET),
    "chained": chained,
    "MemoryError": lambda: MemoryError(SECRET),
    "own class": lambda: type("MRN-CANARY", (CanaryError,), {})(),
}
INSIDE = {
    wire.HELLO: "describe",
    wire.ROUND: "train_round",
    wire.EVALUATE: "judge",
    wire.ADAPT: "adapt",
    wire.ALONE: "train_alone",
}


class TestNothingLeaks:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_words_of_an_error_stay_in_the_sites_own_log(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setattr(adaptation, "describe", raising(FAULTS[fault]))
        reply = hub.send(hub.content(wire.HELLO, hub.words), wire.HELLO)
        (line,) = site_log(hub)

        assert_silent(reply)
        assert line["id"] == wire.read_correlation(reply.content)
        assert CANARY in line["error"]

    @pytest.mark.parametrize("kind", INSIDE)
    def test_every_handler_keeps_its_words(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        hub.ask(wire.RECEIVE)
        monkeypatch.setattr(adaptation, INSIDE[kind], raising(FAULTS["ValueError"]))
        content = hub.content(kind, replace(hub.words, round_number=1))

        assert_silent(hub.send(content, kind))
        assert CANARY in site_log(hub)[-1]["error"]

    def test_the_code_of_an_error_raised_on_purpose_is_told(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adaptation, "describe", raising(lambda: DataError(SECRET, code="not-a-file")))

        assert wire.read_refusal(hub.ask(wire.HELLO)) == "not-a-file"

    def test_each_refusal_has_an_id_of_its_own(self, hub: Hub) -> None:
        ids = {wire.read_correlation(hub.ask(wire.EVALUATE)) for _ in range(3)}

        assert len(ids) == 3
        assert ids == {line["id"] for line in site_log(hub)}

    def test_a_log_that_cannot_be_written_does_not_hold_the_refusal_back(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The words then go to this machine's own log."""
        (hub.site.folder / "site.log").mkdir()
        monkeypatch.setattr(adaptation, "describe", raising(FAULTS["ValueError"]))
        reply = hub.send(hub.content(wire.HELLO, hub.words), wire.HELLO)

        assert_silent(reply)
        assert CANARY in caplog.text

    def test_a_folder_that_is_gone_is_not_told_by_its_path(self, hub: Hub) -> None:
        words = f'name = "ssa"\ndata = "/secret/path/{CANARY}"\n'
        (hub.site.folder / "site.toml").write_text(words)
        reply = hub.send(hub.content(wire.HELLO, hub.words), wire.HELLO)

        assert_silent(reply)
        assert wire.read_refusal(reply.content) == "no-case"

    @pytest.mark.parametrize("text", [None, "name = ", 'name = "ssa"'])
    def test_a_site_without_a_usable_site_toml_refuses(self, hub: Hub, text: str | None) -> None:
        file = hub.site.folder / "site.toml"
        if text is None:
            file.unlink()
        else:
            file.write_text(text)

        assert wire.read_refusal(hub.ask(wire.HELLO)) == "site"


class TestSiteFolder:
    def test_it_reads_back_as_it_was_made(self, tmp_path: Path) -> None:
        for _ in range(2):
            create(tmp_path / "ssa", name="ssa", data=tmp_path / "scans", degrade="ssa-1.5T")
        site = open_site(tmp_path / "ssa")

        assert site == Site("ssa", tmp_path / "ssa", tmp_path / "scans", "ssa-1.5T")
        assert tomllib.loads((tmp_path / "ssa" / "site.toml").read_text())["data"] == str(tmp_path / "scans")
        assert [path.name for path in (tmp_path / "ssa").iterdir()] == ["site.toml"]

    def test_a_node_names_its_folder(self, tmp_path: Path) -> None:
        create(tmp_path / "ssa", name="ssa", data=tmp_path)

        assert locate({"site-dir": str(tmp_path / "ssa")}).name == "ssa"

    def test_a_numbered_node_counts_the_folders_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("ssa", "adult-a", "adult-b"):
            create(tmp_path / name, name=name, data=tmp_path)
        (tmp_path / "aaa").mkdir()  # no site: it has no site.toml
        monkeypatch.setenv(FEDERATION_VARIABLE, str(tmp_path))

        names = [locate({"partition-id": number}).name for number in range(3)]
        assert names == ["adult-a", "adult-b", "ssa"]

    def test_a_node_that_says_neither_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(FEDERATION_VARIABLE, raising=False)
        with pytest.raises(SiteError, match="set site-dir"):
            locate({"partition-id": 0})


def raising(make: Callable[[], Exception]) -> Callable[..., None]:
    def fail(*arguments: object, **named: object) -> None:
        raise make()

    return fail


def assert_silent(reply: Message) -> None:
    """The reply refuses, and holds nothing else of what was raised, however it is looked at."""
    sent = message_to_proto(reply).SerializeToString() + repr(reply.__dict__).encode()

    assert set(reply.content) == {wire.REFUSAL, wire.TIMES}
    for word in (CANARY, "secret", "CanaryError", "Traceback"):
        assert word.encode() not in sent
    assert "/" not in repr(reply.content)  # no path; in the bytes a time may hold one by chance
