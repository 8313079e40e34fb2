"""A site's state by round: what a killed hub may ask again is still there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.state import SiteState


@pytest.fixture
def state(tmp_path: Path) -> SiteState:
    return SiteState(tmp_path / "state")


def moments(value: float) -> dict[str, Tensor]:
    return {"weight/step": torch.tensor(value), "residual": torch.full((2,), value)}


def value(tensors: dict[str, Tensor]) -> float | None:
    return float(tensors["residual"][0]) if tensors else None


def play(state: SiteState, *rounds: int) -> list[float | None]:
    """Rounds in the order in which a hub asks for them; each keeps its own number. Returns what each began
    with."""
    found = []
    for number in rounds:
        found.append(value(state.before(number)))
        state.keep(number, moments(number))
    return found


def kept(state: SiteState) -> list[str]:
    return sorted(path.name for path in state.folder.iterdir())


def test_there_is_no_state_before_the_first_round(state: SiteState) -> None:
    assert state.before(1) == {}
    assert not state.folder.exists()


def test_a_round_begins_with_the_state_of_the_round_before(state: SiteState) -> None:
    assert play(state, 1, 2, 3) == [None, 1, 2]


def test_tensors_come_back_as_they_were(state: SiteState) -> None:
    state.keep(1, moments(0.1))
    found = state.before(2)

    assert found.keys() == moments(0.1).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in moments(0.1).items())


def test_a_round_that_is_asked_again_begins_where_it_began(state: SiteState) -> None:
    assert play(state, 1, 2, 2, 2, 3) == [None, 1, 1, 1, 2]


def test_the_first_round_asked_again_begins_with_nothing(state: SiteState) -> None:
    assert play(state, 1, 1) == [None, None]


def test_after_rounds_without_this_site_it_goes_on_from_its_own_last(state: SiteState) -> None:
    assert play(state, 1, 5, 5) == [None, 1, 1]


def test_only_what_can_still_be_asked_for_is_kept(state: SiteState) -> None:
    """Round 4 was asked for, so round 3 is closed: what preceded it can go."""
    play(state, 1, 2, 3, 4)

    assert kept(state) == ["round-0003.safetensors", "round-0004.safetensors"]


def test_a_kill_between_training_and_keeping_changes_nothing(state: SiteState) -> None:
    play(state, 1)
    state.before(2)

    assert value(state.before(2)) == 1


def test_a_draft_that_a_kill_left_is_no_state_and_is_swept(state: SiteState) -> None:
    play(state, 1)
    (state.folder / ".round-0002.safetensors.12ab.tmp").touch()

    assert value(state.before(3)) == 1
    assert kept(state) == ["round-0001.safetensors"]


def test_rounds_beyond_four_digits_are_in_order(state: SiteState) -> None:
    assert play(state, 9999, 10000, 10001) == [None, 9999, 10000]


def test_nothing_to_keep_leaves_no_file(state: SiteState) -> None:
    state.keep(1, {})

    assert state.before(2) == {}


def test_runs_do_not_share_state(tmp_path: Path) -> None:
    play(SiteState(tmp_path / "one"), 1, 2)

    assert SiteState(tmp_path / "other").before(3) == {}
