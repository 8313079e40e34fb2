"""The rule for convergence, on curves whose answer can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.study.task_transfer.convergence import averaged, converged, first_reach

unit = st.floats(0, 1, allow_nan=False)


def test_average_is_over_the_last_five_epochs() -> None:
    assert averaged([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_step_converges_when_the_whole_window_is_beyond_it() -> None:
    """0 for 10 epochs, then 0.8: the average is 0.8 from epoch 15 on, and 0.64 before."""
    found = converged([0.0] * 10 + [0.8] * 20)
    assert (found.epoch, found.censored) == (15, False)
    assert found.best == pytest.approx(0.8)


def test_the_earliest_epoch_is_the_fifth() -> None:
    assert converged([0.7] * 10).epoch == 5


def test_five_further_epochs_are_needed() -> None:
    """The average reaches its best at epoch 15: with 20 epochs five follow, with 19 only four."""
    assert converged([0.0] * 10 + [0.8] * 10).epoch == 15
    late = converged([0.0] * 10 + [0.8] * 9)
    assert (late.epoch, late.censored) == (19, True)


def test_a_run_that_leaves_the_band_has_not_converged_yet() -> None:
    """A dip of 0.1 in one epoch moves the average by 0.02, out of the band, for the five epochs it is in.

    Averages are 0.8 for epochs 5 to 11, 0.78 for 12 to 16, 0.8 from 17. Epochs 5 and 6 still have five
    further ones inside the band; cut to begin later, only epoch 17 has.
    """
    curve = [0.8] * 11 + [0.7] + [0.8] * 18
    assert converged(curve).epoch == 5
    assert converged(curve[4:]).epoch == 17 - 4


def test_a_curve_at_zero_never_converges() -> None:
    assert converged([0.0] * 30).censored


def test_a_falling_loss_is_read_the_other_way_round() -> None:
    assert converged([1.0] * 10 + [0.4] * 20, falling=True).epoch == 15
    assert converged(list(np.linspace(1, 0.1, 30)), falling=True).censored


def test_first_reach() -> None:
    curve = [0.0] * 10 + [0.8] * 10
    assert first_reach(curve, 0.6) == 14
    assert first_reach(curve, 0.9) is None


def test_too_few_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="the rule needs 10"):
        converged([0.5] * 9)


@given(st.lists(unit, min_size=10, max_size=40))
def test_what_the_rule_says_holds_for_what_it_found(curve: list[float]) -> None:
    found, means = converged(curve), averaged(curve)
    if found.censored:
        assert found.epoch == len(curve)
        return
    after = means[found.epoch - 5 : found.epoch + 1]
    assert len(after) == 6
    assert after[0] >= 0.99 * means.max()
    assert np.abs(after - after[0]).max() <= 0.01


@given(st.lists(unit, min_size=10, max_size=40), st.integers(1, 10))
def test_waiting_first_moves_convergence_by_the_wait_at_most(curve: list[float], wait: int) -> None:
    """Epochs at 0 before the curve never bring convergence forward."""
    later = converged([0.0] * wait + curve)
    assert later.censored or later.epoch >= converged(curve).epoch
