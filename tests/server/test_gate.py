from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from common.codec import CODECS
from common.errors import RefusedUpdate, RunError
from common.wire import Layout, pack_weights
from server.gate import MAX_NORM, Expectation, Spool, Update, admit, check_reply, judge

LAYOUT = Layout.of({"encoder.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)})
EXPECTED = Expectation(LAYOUT, round_number=4, max_weight=10)
DELTA = np.array([3, 0, 0, 0, 0, 0, 0, 4], dtype=np.float32)
GOOD = Update("ssa", 4, LAYOUT, DELTA, weight=10)


def reply(delta: np.ndarray = DELTA, *, round_number: int = 4, weight: int = 10) -> RecordDict:
    packed, _ = CODECS["fp32"].encode(delta)
    return pack_weights(packed, LAYOUT, round_number=round_number, weight=weight)


def layout(**shapes: tuple[int, ...]) -> Layout:
    return Layout.of({name.replace("_", "."): torch.zeros(shape) for name, shape in shapes.items()})


def test_a_good_reply_is_admitted_with_its_norm() -> None:
    update, norm = admit(reply(), EXPECTED, site="ssa")

    assert (update.site, update.round_number, update.weight) == ("ssa", 4, 10)
    assert update.delta.tolist() == DELTA.tolist()
    assert norm == 5.0


@pytest.mark.parametrize(
    ("code", "update"),
    [
        ("round", replace(GOOD, round_number=3)),
        ("names", replace(GOOD, layout=layout(encoder_weight=(2, 3)))),
        ("names", replace(GOOD, layout=layout(encoder_weight=(2, 3), head_bias=(2,), zzz=(1,)))),
        ("shape", replace(GOOD, layout=layout(encoder_weight=(3, 2), head_bias=(2,)))),
        (
            "dtype",
            replace(GOOD, layout=Layout(tuple((n, s, "float16") for n, s, _ in LAYOUT.entries))),
        ),
        ("dtype", replace(GOOD, delta=DELTA.astype(np.float64))),
        ("size", replace(GOOD, delta=DELTA[:7])),
        ("size", replace(GOOD, delta=DELTA.reshape(2, 4))),
        ("weight", replace(GOOD, weight=0)),
        ("weight", replace(GOOD, weight=-50)),
        ("weight", replace(GOOD, weight=11)),
        ("weight", replace(GOOD, weight=10**9)),
        ("weight", replace(GOOD, weight=math.nan)),  # type: ignore[arg-type]
        ("weight", replace(GOOD, weight=True)),
        ("not-finite", replace(GOOD, delta=np.where(DELTA == 3, np.nan, DELTA).astype(np.float32))),
        ("not-finite", replace(GOOD, delta=np.where(DELTA == 3, np.inf, DELTA).astype(np.float32))),
        ("norm", replace(GOOD, delta=DELTA * np.float32(MAX_NORM))),
    ],
)
def test_each_fault_has_its_code_and_names_the_site(code: str, update: Update) -> None:
    with pytest.raises(RefusedUpdate, match=r"^site ssa: ") as caught:
        check_reply(update, EXPECTED)

    assert caught.value.code == code


def test_a_second_answer_is_a_duplicate() -> None:
    with pytest.raises(RefusedUpdate, match="site ssa: has already answered") as caught:
        admit(reply(), EXPECTED, site="ssa", answered=("adult-a", "ssa"))

    assert caught.value.code == "duplicate"


def test_a_reply_that_cannot_be_read_is_refused_by_site() -> None:
    with pytest.raises(RefusedUpdate, match=r"^site adult-b: the message has no record") as caught:
        admit(RecordDict(), EXPECTED, site="adult-b")

    assert caught.value.code == "malformed"


def test_judge_refuses_what_is_out_of_proportion() -> None:
    refused = judge({"a": 1.0, "b": 1.2, "c": 12.1}, factor=10)

    assert list(refused) == ["c"]
    assert refused["c"] == "its update has norm 12.1, more than 10 times the round's median 1.2"


def test_judge_needs_a_majority_and_a_scale() -> None:
    assert judge({"a": 1.0, "b": 1e5}) == {}
    assert judge({}) == {}
    assert judge({"a": 0.0, "b": 0.0, "c": 5.0}) == {}


def test_judge_seldom_refuses_an_honest_site() -> None:
    # Unlike hospitals send updates of unlike length: log-normal, a factor of 2 is one sigma.
    rng = np.random.default_rng(7)
    refused = sites = 0
    for _ in range(200):
        count = int(rng.integers(3, 10))
        norms = np.exp(rng.normal(scale=math.log(2), size=count))
        refused += len(judge({str(site): float(norm) for site, norm in enumerate(norms)}))
        sites += count

    assert refused / sites < 0.01


def test_the_spool_gives_back_what_it_got(tmp_path: Path, rng: np.random.Generator) -> None:
    flat = rng.normal(size=1000).astype(np.float32)
    spool = Spool(tmp_path / "spool")
    assert spool.sites() == ()
    spool.add("ssa", flat, weight=7, norm=1.5)
    spool.add("adult.b-2", flat[:3], weight=1, norm=0.5)

    assert spool.sites() == ("adult.b-2", "ssa")
    update = Spool(tmp_path / "spool").open("ssa")
    assert (update.weight, update.norm, len(update)) == (7, 1.5, 1000)
    assert update[:].tobytes() == flat.tobytes()
    assert update[990:2000].tobytes() == flat[990:].tobytes()
    assert update[5:5].size == 0


def test_the_spool_takes_one_update_a_site_until_cleared(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add("ssa", DELTA, weight=1, norm=5.0)
    with pytest.raises(RefusedUpdate) as caught:
        spool.add("ssa", DELTA, weight=1, norm=5.0)
    assert caught.value.code == "duplicate"

    spool.clear()
    assert list(tmp_path.iterdir()) == []
    spool.add("ssa", DELTA, weight=1, norm=5.0)
    assert spool.sites() == ("ssa",)


@pytest.mark.parametrize("site", ["../ssa", "", "a/b", ".hidden", "x" * 65])
def test_the_spool_refuses_names_that_are_paths(tmp_path: Path, site: str) -> None:
    with pytest.raises(RunError, match="is no name for a site"):
        Spool(tmp_path).add(site, DELTA, weight=1, norm=5.0)


def test_a_missing_or_short_file_is_named(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(RunError, match="site ssa: no update of it waits"):
        spool.open("ssa")
    spool.add("ssa", DELTA, weight=1, norm=5.0)
    (tmp_path / "ssa.f32").write_bytes(b"\0" * 12)

    with pytest.raises(RunError, match="site ssa: its spooled update was cut short"):
        spool.open("ssa")[:]


def test_a_full_disk_leaves_no_half_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"cannot be kept \(No space left") as caught:
        Spool(tmp_path).add("ssa", DELTA, weight=1, norm=5.0)

    assert caught.value.code == "disk"
    assert list(tmp_path.iterdir()) == []
