"""What is written down of a reply before it leaves, and what can be read from that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client import accounts, chain, egress
from common import wire
from common.codec import CODECS
from common.errors import RefusedUpdate
from common.wire import Layout
from tests.client.hospital import RUN, TINY, Hospital, hospital, weights_of


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    return hospital(tmp_path / "ssa")


def update(flat: np.ndarray, *, codec: str = "fp32") -> RecordDict:
    import torch

    layout = Layout.of({"a": torch.zeros(flat.size - 1), "b": torch.zeros(1)})
    packed, _ = CODECS[codec].encode(flat.astype(np.float32))
    return wire.pack_weights(packed, layout, round_number=1, weight=2)


class TestALine:
    @pytest.mark.parametrize("codec", CODECS)
    def test_it_says_what_an_update_is(self, codec: str, rng: np.random.Generator) -> None:
        flat = rng.normal(size=5000)
        facts = egress.describe(update(flat, codec=codec))

        assert facts["records"] == [wire.TABLE, wire.WEIGHTS]
        assert (facts["tensors"], facts["values"], facts["weight"]) == (2, 5000, 2)
        assert facts["norm"] == pytest.approx(np.linalg.norm(flat), rel=0.01)
        assert facts["bytes"] >= CODECS[codec].nbytes(5000)
        assert len(facts["sha256"]) == 64

    def test_a_changed_value_is_another_hash(self) -> None:
        one, same, other = (egress.describe(weights_of(1, values=v))["sha256"] for v in (1, 1, 1.0001))

        assert one == same != other

    def test_a_changed_number_is_another_hash(self) -> None:
        hashes = {
            egress.describe(RecordDict({wire.METRICS: wire.pack_metrics({"loss": value})}))["sha256"]
            for value in (0.1, 0.2)
        }

        assert len(hashes) == 2

    def test_an_update_that_does_not_fit_its_own_table_stays(self) -> None:
        content = update(np.ones(5000))
        table = content[wire.TABLE]
        assert isinstance(table, ConfigRecord)
        content[wire.TABLE] = ConfigRecord({**dict(table), "shapes": ["7", "1"]})
        with pytest.raises(RefusedUpdate) as raised:
            egress.describe(content)

        assert raised.value.code == "size"

    def test_an_update_that_diverged_stays(self, site: Hospital) -> None:
        layout = Layout.of(TINY)
        content = weights_of(1)
        array = ArrayRecord({"flat": next(iter(content[wire.WEIGHTS].values()))})
        array["flat"].data = np.full(layout.size, np.nan, dtype="<f4").tobytes()
        content[wire.WEIGHTS] = array
        with pytest.raises(RefusedUpdate) as raised:
            egress.describe(content)

        assert raised.value.code == "not-finite"


class TestSifting:
    def test_a_record_that_has_no_business_there_is_taken_out(self) -> None:
        content = weights_of(1)
        content["scan"] = ConfigRecord({"voxels": b"secret"})
        sifted = egress.sift(content, wire.ROUND, frozenset())

        assert set(sifted.content) == {wire.TABLE, wire.WEIGHTS}
        assert sifted.withheld == ("record scan",)

    def test_an_update_leaves_with_a_round_alone(self) -> None:
        sifted = egress.sift(weights_of(1), wire.EVALUATE, frozenset())

        assert set(sifted.content) == set()

    def test_a_field_that_the_table_does_not_have_is_taken_out(self) -> None:
        content = weights_of(1)
        table = content[wire.TABLE]
        assert isinstance(table, ConfigRecord)
        content[wire.TABLE] = ConfigRecord({**dict(table), "patient": "P-1"})
        sifted = egress.sift(content, wire.ROUND, frozenset())

        assert set(sifted.content[wire.TABLE]) == {*dict(table)}

    @settings(deadline=None)
    @given(
        metrics=st.dictionaries(
            st.sampled_from(["loss", "scores", "validation", "site", "notes", "patient", "kept", "train_s"]),
            st.recursive(
                st.integers(0, 9) | st.text(max_size=3),
                lambda inner: st.dictionaries(st.sampled_from(["dice", "cases", "x"]), inner, max_size=3),
                max_leaves=5,
            ),
        ),
        kind=st.sampled_from(list(egress.MAY_HOLD)),
        allowed=st.frozensets(st.sampled_from(["loss", "dice", "cases", "validation_dice"])),
    )
    def test_nothing_passes_that_no_row_names(
        self, metrics: dict[str, object], kind: str, allowed: frozenset[str]
    ) -> None:
        content = RecordDict({wire.METRICS: wire.pack_metrics(metrics)})
        kept = wire.read_metrics(egress.sift(content, kind, allowed).content)
        rows = egress.MAY_HOLD[kind]

        for key, value in kept.items():
            word = rows[key]
            assert word is None or word in allowed or value == {}
            if key == "scores" and isinstance(value, dict):
                assert all(rows[f"scores.{inner}"] in allowed for inner in value)


class TestSummary:
    def test_it_counts_what_each_run_was_sent(self, site: Hospital) -> None:
        other = "ef" * 16
        site.ask(site.message(wire.HELLO))
        site.ask(site.message(round_number=2))
        site.ask(site.message(run=other))
        site.ask(site.message(plan_toml="x"))
        found = accounts.summary(site.folder)

        assert list(found) == [RUN, other]
        assert (found[RUN].replies, found[RUN].refusals, found[RUN].last_round) == (3, 1, 2)
        assert found[other].replies == 1
        assert found[RUN].plan == site.plan.sha256
        assert sum(sent.nbytes for sent in found.values()) == sum(line["bytes"] for line in site.egress())

    def test_a_byte_flipped_names_the_line(self, site: Hospital) -> None:
        for _ in range(4):
            site.ask(site.message())
        path = site.folder / "egress.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        lines[2] = lines[2].replace(b'"weight":2', b'"weight":3')
        path.write_bytes(b"".join(lines))
        verdict = chain.verify(site.folder / accounts.FILE)

        assert verdict.bad_line == 3
        assert "line 3" in verdict.words
