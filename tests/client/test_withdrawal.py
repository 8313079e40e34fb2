"""A patient who withdrew is in no message from the next one on, and nobody else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import adaptation, withdrawal
from client.adaptation import Bench
from client.app import app
from client.settings import edited
from client.site import Site
from common import wire
from common.data.phantom.writer import write_cohort
from common.data.splits import Split
from common.errors import DataError
from common.models.network import build
from tests.client.hospital import Hospital, app_of, hospital, plan_of, replied


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "ssa"
    return write_cohort(folder, site="ssa", cases=8, seed=1, spacing_mm=4.0)


@pytest.fixture
def site(tmp_path: Path, cohort: Path) -> Site:
    return Site("ssa", tmp_path, cohort)


def patients(split: Split) -> dict[str, set[str]]:
    return {part: {case.patient for case in getattr(split, part)} for part in ("train", "val", "test")}


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_who_withdrew_is_gone_and_the_others_stay_where_they_were(site: Site, part: str) -> None:
    before = patients(site.split(plan_of()))
    gone = sorted(before[part])[0]
    after = patients(replace(site, withdrawn=frozenset({gone})).split(plan_of()))

    assert after == {name: members - {gone} for name, members in before.items()}
    assert before != after


def test_the_weight_follows(site: Site) -> None:
    before = Bench(site, plan_of())
    gone = before.split.train[0].patient
    after = Bench(replace(site, withdrawn=frozenset({gone})), plan_of())

    assert after.weight == before.weight - 1
    assert gone not in {case.patient for case in after.split.train}
    assert adaptation.describe(after.site, plan_of())["patients"]["train"] == after.weight


def test_no_training_patient_left_is_refused(site: Site) -> None:
    trained = patients(site.split(plan_of()))["train"]
    with pytest.raises(DataError, match="every training patient withdrew") as raised:
        replace(site, withdrawn=frozenset(trained)).split(plan_of())

    assert raised.value.code == "data"


def test_no_test_patient_left_gives_no_scores(site: Site) -> None:
    tested = patients(site.split(plan_of()))["test"]
    bench = Bench(replace(site, withdrawn=frozenset(tested)), plan_of())

    assert adaptation.judge(bench, build(plan_of(), seed=0)) == {
        "cases": [],
        "dice": {},
        "hd95_mm": {},
        "empty": {},
    }


def test_a_patient_who_is_not_there_is_named(site: Site) -> None:
    somebody = site.cohort.patients[0]
    misspelt = replace(site, withdrawn=frozenset({somebody, "P-O1"}))

    assert misspelt.unknown_withdrawn == ("P-O1",)


def test_it_holds_from_the_next_message_on(tmp_path: Path, cohort: Path) -> None:
    """The same run, the same worker: site.toml is read for each message."""
    here = hospital(tmp_path / "ssa", data=cohort)
    split = here.site.split(here.plan)
    counts = []
    for gone in ([], [split.train[0].patient], sorted({case.patient for case in split.train})):
        with edited(here.folder) as document:
            document["withdrawn"] = gone
        reply = here.ask(here.message(wire.HELLO), app)
        refused = wire.read_refusal(reply)
        counts.append(refused or wire.read_metrics(reply)["patients"]["train"])

    assert counts == [len(split.train), len(split.train) - 1, "data"]


def leaving(here: Hospital, patient: str, kept: list[Path]) -> ClientApp:
    """An app during which a patient withdraws, and that then prepares the scans as it saw them before."""

    def run(message: Message, context: Context) -> Message:
        before = here.site
        withdrawal.withdraw(before, patient)
        (case,) = [case for case in before.cohort.cases if case.patient == patient]
        before.prepared(here.plan, (case,))
        (here.folder / "predictions").mkdir(exist_ok=True)
        for name in (case.name, "other"):
            (here.folder / "predictions" / f"{name}.nii.gz").write_text("map")
        kept.extend([*entries(here), here.folder / "predictions" / f"{case.name}.nii.gz"])
        return replied(message)

    return app_of(run)


def entries(here: Hospital) -> list[Path]:
    return sorted((here.folder / "cache").glob("*.safetensors"))


def test_a_message_that_is_at_work_leaves_nothing_of_who_withdrew_meanwhile(
    tmp_path: Path, cohort: Path
) -> None:
    here = hospital(tmp_path / "ssa", data=cohort)
    kept: list[Path] = []
    here.ask(here.message(), leaving(here, here.site.cohort.patients[0], kept))

    assert len(kept) == 2
    assert not any(path.exists() for path in kept)
    assert (here.folder / "predictions" / "other.nii.gz").exists()
    assert not (here.folder / withdrawal.NOTE).exists()


def test_what_a_killed_message_left_goes_before_the_next(tmp_path: Path, cohort: Path) -> None:
    here = hospital(tmp_path / "ssa", data=cohort)
    first, second = here.site.cohort.patients[:2]
    for patient in (first, second):
        withdrawal.withdraw(here.site, patient)
    (here.folder / "predictions").mkdir()
    names = [case.name for case in here.site.cohort.cases if case.patient in (first, second)]
    maps = [here.folder / "predictions" / f"{name}.nii.gz" for name in (*names, "other")]
    for path in (*maps, here.folder / "cache" / "left.safetensors"):
        path.write_text("left by a kill")
    seen: list[bool] = []

    def looking(message: Message, context: Context) -> Message:
        seen.extend(path.exists() for path in maps)
        return replied(message)

    here.ask(here.message(), app_of(looking))

    assert seen == [*(False for _ in names), True]
    assert entries(here) == []


def test_scans_that_are_gone_take_every_label_map_along(tmp_path: Path, cohort: Path) -> None:
    here = hospital(tmp_path / "ssa", data=cohort)
    withdrawal.withdraw(here.site, "P-gone", gone=True)
    withdrawal.withdraw(here.site, here.site.cohort.patients[0])
    (here.folder / "predictions").mkdir()
    (here.folder / "predictions" / "any.nii.gz").write_text("map")
    withdrawal.finish(here.folder)

    assert list((here.folder / "predictions").iterdir()) == []
