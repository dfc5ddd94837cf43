"""Learning rates: up in a line, down in half a cosine or in a line."""

from __future__ import annotations

import pytest

from emu3.training.lr_schedule import LRSchedule, learning_rate_at


@pytest.mark.parametrize("final", [0.0, 3e-4])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_the_rate_rises_in_a_line_falls_and_ends_where_it_should(
    shape: LRSchedule, warmup: int, final: float
) -> None:
    steps, peak = 100, 3e-3
    rates = [learning_rate_at(shape, step, steps, warmup, peak, final) for step in range(steps + 1)]
    for step in range(warmup):
        assert rates[step] == pytest.approx(peak * (step + 1) / warmup)
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert rates[(steps + warmup) // 2] == pytest.approx((peak + final) / 2, rel=0.03)
    assert rates[-1] == pytest.approx(final, abs=1e-12)
    assert learning_rate_at(shape, steps + 5, steps, warmup, peak, final) == pytest.approx(
        final, abs=1e-12
    )


def test_a_cosine_leaves_the_peak_slower_than_a_line_and_comes_down_faster() -> None:
    early, late = (
        [learning_rate_at(shape, step, 100, 0, 1.0) for shape in ("cosine", "linear")]
        for step in (10, 90)
    )
    assert early[0] > early[1]
    assert late[0] < late[1]


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_rate_that_is_held_falls_as_a_shorter_run_would(shape: LRSchedule) -> None:
    warmup, hold, steps, peak = 10, 40, 100, 2e-3
    rates = [
        learning_rate_at(shape, step, steps, warmup, peak, hold=hold) for step in range(steps + 1)
    ]
    assert rates[warmup : warmup + hold] == [peak] * hold
    shorter = [learning_rate_at(shape, step, steps - warmup - hold, 0, peak) for step in range(51)]
    assert rates[warmup + hold :] == pytest.approx(shorter)
    assert max(rates[:warmup]) == peak
