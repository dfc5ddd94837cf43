"""Detection of non-finite losses and of loss spikes."""

from __future__ import annotations

import math

import pytest

from emu3.training.loss_spikes import MAX_CONSECUTIVE, MIN_HISTORY, WINDOW, LossSpikeDetector


def with_losses(detector: LossSpikeDetector, *losses: float) -> LossSpikeDetector:
    for loss in losses:
        assert detector.check(loss, 1.0) is None
    return detector


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_values_are_detected_from_the_first_step(bad: float) -> None:
    assert "loss" in (LossSpikeDetector().check(bad, 1.0) or "")
    assert "norm" in (LossSpikeDetector().check(1.0, bad) or "")


def test_spike_is_measured_against_the_median() -> None:
    detector = with_losses(LossSpikeDetector(factor=3.0), *[2.0] * (MIN_HISTORY - 1), 5.0)
    assert detector.check(5.9, 1.0) is None
    assert detector.check(6.1, 1.0) == "the loss is 6.1, more than 3 times the median 2"


def test_no_spike_before_min_history() -> None:
    with_losses(LossSpikeDetector(factor=3.0), *[2.0] * (MIN_HISTORY - 1), 50.0)


def test_no_spike_with_an_infinite_factor() -> None:
    with_losses(LossSpikeDetector(), *[2.0] * WINDOW, 1e6)


def test_median_is_over_the_window() -> None:
    detector = with_losses(LossSpikeDetector(factor=3.0), *[9.0] * WINDOW, *[1.0] * WINDOW)
    assert len(detector.history) == WINDOW
    assert detector.check(9.0, 1.0) is not None


def test_bad_losses_are_not_added_to_the_history() -> None:
    detector = with_losses(LossSpikeDetector(factor=3.0), *[1.0] * MIN_HISTORY)
    before = list(detector.history)
    assert detector.check(9.0, 1.0)
    assert detector.check(math.nan, 1.0)
    assert detector.history == before


def test_must_stop_after_too_many_bad_batches_in_a_row() -> None:
    detector = LossSpikeDetector()
    for _ in range(MAX_CONSECUTIVE):
        detector.check(math.nan, 1.0)
    assert not detector.must_stop
    detector.check(math.nan, 1.0)
    assert detector.must_stop
    with_losses(detector, 1.0)
    assert not detector.must_stop


def test_state_round_trip() -> None:
    detector, other = (
        with_losses(LossSpikeDetector(factor=3.0), *[1.0] * MIN_HISTORY),
        LossSpikeDetector(factor=3.0),
    )
    detector.check(math.nan, 1.0)
    other.load_state_dict(detector.state_dict())
    assert other == detector
    assert other.check(9.0, 1.0) is not None
