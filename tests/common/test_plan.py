from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common import plan as plans
from common.errors import PlanError
from common.models.unet import PRESETS
from common.plan import PATCH_SIDES, Plan, parse

SHIPPED = ("demo", "glioma", "hospitals", "smoke")
SMALLEST = {"schema": 1, "name": "small", "rounds": {"quorum": 1}, "sites": {"one": {}}}


def small(**parts: object) -> Plan:
    """The smallest plan, with parts replaced."""
    return parse({**SMALLEST, **parts}, origin="test")


def refusal(**parts: object) -> str:
    """The words with which the smallest plan with these parts is refused."""
    with pytest.raises(PlanError) as caught:
        small(**parts)
    return str(caught.value)


def keys_of(part: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and field of each key below a part of the plan."""
    for name, field in part.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def values_of(kind: object, bounds: list[Any]) -> st.SearchStrategy[Any]:
    """Values of a field's type within its bounds; at most a million where it names none."""
    low, high = 0, 1_000_000
    open_low = open_high = False
    for bound in bounds:
        match bound:
            case annotated_types.Ge(ge):
                low = typing.cast(int, ge)
            case annotated_types.Gt(gt):
                low, open_low = typing.cast(int, gt), True
            case annotated_types.Lt(lt):
                high, open_high = typing.cast(int, lt), True
            case annotated_types.Le(le):
                high = typing.cast(int, le)
    if kind is int:
        return st.integers(low + open_low, high - open_high)
    return st.floats(low, high, exclude_min=open_low, exclude_max=open_high)


JOINED: dict[str, st.SearchStrategy[Any]] = {
    "rounds.quorum": st.integers(1, 3),
    "adaptation.patch": st.sampled_from(PATCH_SIDES["nano"]),
    "evaluation.val_share": st.floats(0.01, 0.59),
    "evaluation.test_share": st.floats(0.01, 0.69),
}
"""Numbers that a rule joins to another key: what they may be beside the defaults."""

NUMBERS = {
    key: (field.annotation, list(field.metadata))
    for key, field in keys_of(Plan)
    if field.annotation in (int, float)
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_plan_loads_and_reads_back_to_the_same_hash(name: str) -> None:
    plan = plans.load(name)
    again = parse(tomllib.loads(plan.as_toml()), origin="round trip")
    assert again == plan
    assert again.sha256 == plan.sha256


def test_every_shipped_plan_says_what_it_is_for() -> None:
    assert tuple(plans.shipped()) == SHIPPED
    assert all(about for about in plans.shipped().values())


def test_the_plan_for_hospitals_makes_no_scan_up_and_trains_nobody_alone() -> None:
    plan = plans.load("hospitals")
    assert all(site.phantom is None for site in plan.sites.values())
    assert not plan.evaluation.local_only
    assert plan.rounds.quorum < len(plan.sites)


def test_spelling_comments_and_order_of_keys_do_not_change_the_hash(tmp_path: Path) -> None:
    text = 'schema = 1\nname = "x"\n[rounds]\nquorum = 1\ndeadline_s = 60\ncount = 3\n[sites.a]\n'
    other = (
        '# a comment\nname = "x"\nschema = 1\n[sites]\na = {}\n'
        "[rounds]\ncount = 3\ndeadline_s = 60.0\nquorum = 1\n"
    )
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text(other)
    assert plans.load(tmp_path / "one.toml").sha256 == plans.load(tmp_path / "two.toml").sha256


def test_sites_in_another_order_are_another_plan() -> None:
    """Their updates are folded in that order, and sums of floats depend on it."""
    one, other = (small(sites={name: {} for name in names}) for names in (("a", "b"), ("b", "a")))

    assert (one.site_names, other.site_names) == (("a", "b"), ("b", "a"))
    assert one.sha256 != other.sha256


def test_a_default_written_out_does_not_change_the_hash() -> None:
    assert small(adaptation={"local_steps": 30}).sha256 == small().sha256


def test_the_order_of_sites_is_kept() -> None:
    plan = small(sites={"zeta": {}, "alpha": {}, "mid": {}})
    assert plan.site_names == ("zeta", "alpha", "mid")
    assert parse(tomllib.loads(plan.as_toml()), origin="again").site_names == ("zeta", "alpha", "mid")


def test_total_steps_are_those_of_all_rounds() -> None:
    assert small(rounds={"quorum": 1, "count": 4}, adaptation={"local_steps": 25}).total_steps == 100


@pytest.mark.parametrize(
    ("parts", "nearest"),
    [
        ({"adaptatoin": {}}, "adaptation"),
        ({"adaptation": {"localsteps": 3}}, "adaptation.local_steps"),
        ({"rounds": {"quorum": 1, "deadline": 3}}, "rounds.deadline_s"),
        ({"sites": {"one": {"phantoms": "ssa"}}}, "sites.one.phantom"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(parts: dict[str, Any], nearest: str) -> None:
    said = refusal(**parts)
    assert "unknown key" in said
    assert f"did you mean '{nearest}'?" in said


def test_an_unknown_key_like_no_other_is_answered_with_those_there_are() -> None:
    assert refusal(task={"zzz": 1}) == "test: unknown key 'task.zzz'; known here: kind, spacing_mm"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"rounds": {"quorum": 1, "count": "3"}}, "'rounds.count': must be a whole number; found '3'"),
        ({"rounds": {"quorum": 1, "count": 3.5}}, "'rounds.count': must be a whole number"),
        ({"rounds": {"quorum": 1, "count": True}}, "'rounds.count': must be a whole number"),
        ({"rounds": {"quorum": 1, "deadline_s": True}}, "'rounds.deadline_s': must be a number"),
        ({"adaptation": {"augment": 1}}, "'adaptation.augment': must be true or false"),
        ({"about": 3}, "'about': must be a text"),
        ({"adaptation": 3}, "'adaptation': must be a table"),
        ({"sites": {"one": 3}}, "'sites.one': must be a table"),
        ({"sites": 3}, "'sites': must be a table"),
        ({"task": {"spacing_mm": 9}}, "'task.spacing_mm'"),
        ({"adaptation": {"batch_size": 1}}, "'adaptation.batch_size'"),
        ({"privacy": {"method": "dp"}}, "'privacy.method'"),
        ({"schema": 2}, "'schema'"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_its_key(parts: dict[str, Any], words: str) -> None:
    assert words in refusal(**parts)


@pytest.mark.parametrize("key", ["name", "sites"])
def test_what_must_be_said_is_missed_by_name(key: str) -> None:
    data = {known: value for known, value in SMALLEST.items() if known != key}
    with pytest.raises(PlanError, match=f"'{key}' is missing"):
        parse(data, origin="test")


def test_a_plan_without_a_site_is_refused() -> None:
    assert "'sites'" in refusal(sites={})


@pytest.mark.parametrize("name", ["A", "a_b", "", "-a", "a" * 33, "a/b", "../a", "a b", "a\n"])
def test_a_site_name_that_cannot_name_a_folder_is_refused(name: str) -> None:
    shown = name.replace("\n", "?")
    assert f"'sites.{shown}'" in refusal(sites={name: {}})


def test_of_many_faults_a_few_are_told_and_none_steers_a_terminal() -> None:
    told = refusal(**{f"\x1b[2J\u202e{'k' * 500}{number}": 1 for number in range(100)})

    assert told.endswith("and 95 more")
    assert len(told) < 2500
    assert told.replace("\n", "").isprintable()


def test_a_quorum_that_can_never_be_met_is_refused() -> None:
    assert "rounds.quorum is 2, but the plan names 1 site(s)" in refusal(rounds={"quorum": 2})


@pytest.mark.parametrize(
    ("preset", "loss", "patch"),
    [("nano", "paper", 48), ("base", "public-code", 48), ("ren2024", "paper", 128)],
)
def test_the_published_losses_suit_every_preset(preset: str, loss: str, patch: int) -> None:
    plan = small(model={"preset": preset}, adaptation={"loss": loss, "patch": patch})
    assert plan.adaptation.loss == loss


def test_a_loss_that_is_not_the_presets_is_refused() -> None:
    said = refusal(model={"preset": "ren2024"}, adaptation={"loss": "cross-entropy-dice", "patch": 128})
    assert "adaptation.loss: preset ren2024 is trained with 'paper' or 'public-code'" in said


@pytest.mark.parametrize("trains", ["all", "frozen-decoder"])
def test_an_encoder_that_trains_can_be_aligned(trains: str) -> None:
    plan = small(alignment={"method": "dann"}, adaptation={"trains": trains})
    assert plan.alignment.domains == "field-strength"


@pytest.mark.parametrize("trains", ["head", "norms", "frozen-encoder"])
def test_an_encoder_that_stays_as_it_is_cannot_be_aligned(trains: str) -> None:
    said = refusal(alignment={"method": "dann-no-reversal"}, adaptation={"trains": trains})
    assert f"'dann-no-reversal' moves the encoder, which adaptation.trains '{trains}' leaves as it is" in said


def test_one_site_is_not_aligned_with_itself() -> None:
    said = refusal(alignment={"method": "dann", "domains": "site"})
    assert "needs two domains or more, and the plan names one site" in said


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"folds": 1}, "folds is 1: give 2 or more, or 0"),
        ({"folds": 3, "fold": 3}, "fold is 3, but there are 3 folds, counted from 0"),
        ({"fold": 1}, "fold is 1, but there are 0 folds"),
    ],
)
def test_a_fold_that_is_not_there_is_refused(site: dict[str, int], words: str) -> None:
    assert words in refusal(sites={"one": site})


@pytest.mark.parametrize(("preset", "patch"), [("nano", 50), ("base", 40), ("ren2024", 64), ("ren2024", 144)])
def test_a_patch_that_the_network_cannot_take_is_refused(preset: str, patch: int) -> None:
    loss = "paper" if preset == "ren2024" else "cross-entropy-dice"
    said = refusal(model={"preset": preset}, adaptation={"loss": loss, "patch": patch})
    assert f"adaptation.patch is {patch}: preset {preset} takes" in said


def test_patches_are_multiples_of_each_presets_divisor() -> None:
    assert {preset: sides.step for preset, sides in PATCH_SIDES.items()} == {
        name: preset.divisor for name, preset in PRESETS.items()
    }
    choices = typing.get_args(plans.Model.model_fields["preset"].annotation)
    assert set(choices) == set(PRESETS)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    said = refusal(evaluation={"val_share": 0.5, "test_share": 0.4})
    assert "must leave a tenth of the patients for training" in said


@pytest.mark.parametrize("start", ["healthy", "glioma", "scratch", f"sha256:{'0a' * 32}"])
def test_a_first_model_is_shipped_fresh_or_named_by_its_hash(start: str) -> None:
    assert small(model={"start": start}).model.start == start


@pytest.mark.parametrize(
    "start", ["healthly", "/models/a.safetensors", f"sha256:{'0A' * 32}", "sha256:", "glioma\n"]
)
def test_a_first_model_is_never_a_path(start: str) -> None:
    assert "'model.start': must be 'healthy', 'glioma', 'scratch'" in refusal(model={"start": start})


def test_an_override_changes_the_hash_and_nothing_else() -> None:
    plan = plans.load("smoke")
    changed = plan.override({"rounds.count": 3, "sites.ssa.cases": 5})
    assert changed.sha256 != plan.sha256
    assert changed.rounds.count == 3
    assert changed.sites["ssa"].cases == 5
    assert changed.override({"rounds.count": 2, "sites.ssa.cases": 3}) == plan


def test_no_override_is_no_change() -> None:
    plan = plans.load("demo")
    assert plan.override({}).sha256 == plan.sha256


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("adaptation.localsteps", "did you mean 'adaptation.local_steps'?"),
        ("round.count", "unknown key 'round'"),
        ("name.x", "'name.x' is not a key: 'name' holds a value"),
        ("sites.ssa.fantom", "did you mean 'sites.ssa.phantom'?"),
    ],
)
def test_an_override_of_an_unknown_key_is_refused(key: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        plans.load("smoke").override({key: 3})
    assert words in str(caught.value)


@given(data=st.data(), key=st.sampled_from(sorted(NUMBERS)))
def test_any_number_in_the_plan_can_be_overridden_and_reads_back(data: st.DataObject, key: str) -> None:
    plan = parse({**SMALLEST, "sites": {f"site-{n}": {} for n in range(3)}}, origin="test")
    value = data.draw(JOINED[key] if key in JOINED else values_of(*NUMBERS[key]))
    changed = plan.override({key: value})
    again = parse(tomllib.loads(changed.as_toml()), origin="again")
    found: Any = again
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value
    assert again.sha256 == changed.sha256
    assert (changed.sha256 == plan.sha256) == (changed == plan)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[[[", "not a TOML file"), (b"\xff\xfe", "cannot be read"), (b"", "'name' is missing")],
)
def test_a_file_that_is_no_plan_is_refused_by_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(PlanError) as caught:
        plans.load(tmp_path / "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "../demo", "plans/demo", "demo.toml", "."])
def test_a_plan_that_is_not_there_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(PlanError, match="shipped plan: demo, glioma, hospitals, smoke"):
        plans.load(name)


def test_a_file_beside_me_wins_over_a_shipped_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text('schema = 1\nname = "mine"\n[rounds]\nquorum = 1\n[sites.a]\n')
    assert plans.load("demo").name == "mine"


def test_every_key_says_what_it_is() -> None:
    keys = [*keys_of(Plan), *keys_of(plans.SitePlan)]
    assert [key for key, field in keys if not field.description] == []


def test_a_patch_may_have_three_edges() -> None:
    paper = small(model={"preset": "ren2024"}, adaptation={"loss": "paper", "patch": [128, 192, 128]})
    assert paper.adaptation.patch_sides == (128, 192, 128)
    assert parse(paper.as_dict(), origin="again").sha256 == paper.sha256
    assert small(adaptation={"patch": 32}).adaptation.patch_sides == (32, 32, 32)
    least = refusal(model={"preset": "ren2024"}, adaptation={"loss": "paper", "patch": [64, 64, 64]})
    assert "one of three edges is 128 or more" in least
    assert "'adaptation.patch" in refusal(adaptation={"patch": [32, 32]})
