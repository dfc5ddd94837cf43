"""Which batches are bad: no numbers, jumps, and nothing else."""

from __future__ import annotations

import math

import pytest

from emu3.training.loss_spikes import MAX_CONSECUTIVE, MIN_HISTORY, WINDOW, LossSpikeDetector


def seen(watch: LossSpikeDetector, *losses: float) -> LossSpikeDetector:
    for loss in losses:
        assert watch.fault(loss, 1.0) is None
    return watch


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_bad_from_the_first_step(bad: float) -> None:
    assert "loss" in (LossSpikeDetector().fault(bad, 1.0) or "")
    assert "norm" in (LossSpikeDetector().fault(1.0, bad) or "")


def test_a_jump_is_measured_against_the_median() -> None:
    watch = seen(LossSpikeDetector(spike=3.0), *[2.0] * (MIN_HISTORY - 1), 5.0)
    assert watch.fault(5.9, 1.0) is None
    assert watch.fault(6.1, 1.0) == "the loss jumped to 6.1, more than 3 times the 2"


def test_a_few_losses_say_nothing_yet() -> None:
    seen(LossSpikeDetector(spike=3.0), *[2.0] * (MIN_HISTORY - 1), 50.0)


def test_without_a_threshold_there_are_no_jumps() -> None:
    seen(LossSpikeDetector(), *[2.0] * WINDOW, 1e6)


def test_the_median_looks_back_a_window() -> None:
    watch = seen(LossSpikeDetector(spike=3.0), *[9.0] * WINDOW, *[1.0] * WINDOW)
    assert len(watch.losses) == WINDOW
    assert watch.fault(9.0, 1.0) is not None


def test_a_bad_loss_does_not_move_the_median() -> None:
    watch = seen(LossSpikeDetector(spike=3.0), *[1.0] * MIN_HISTORY)
    before = list(watch.losses)
    assert watch.fault(9.0, 1.0)
    assert watch.fault(math.nan, 1.0)
    assert watch.losses == before


def test_too_many_bad_batches_in_a_row_are_hopeless_and_a_good_one_forgives() -> None:
    watch = LossSpikeDetector()
    for _ in range(MAX_CONSECUTIVE):
        watch.fault(math.nan, 1.0)
    assert not watch.hopeless
    watch.fault(math.nan, 1.0)
    assert watch.hopeless
    seen(watch, 1.0)
    assert not watch.hopeless


def test_it_remembers_across_a_checkpoint() -> None:
    watch, other = (
        seen(LossSpikeDetector(spike=3.0), *[1.0] * MIN_HISTORY),
        LossSpikeDetector(spike=3.0),
    )
    watch.fault(math.nan, 1.0)
    other.load_state_dict(watch.state_dict())
    assert other == watch
    assert other.fault(9.0, 1.0) is not None
