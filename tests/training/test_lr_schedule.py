"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from emu3.training.lr_schedule import LRSchedule, learning_rate_at


@pytest.mark.parametrize("final", [0.0, 3e-4])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_warmup_decay_and_final_value(schedule: LRSchedule, warmup: int, final: float) -> None:
    steps, peak = 100, 3e-3
    rates = [
        learning_rate_at(schedule, step, steps, warmup, peak, final) for step in range(steps + 1)
    ]
    for step in range(warmup):
        assert rates[step] == pytest.approx(peak * (step + 1) / warmup)
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert rates[(steps + warmup) // 2] == pytest.approx((peak + final) / 2, rel=0.03)
    assert rates[-1] == pytest.approx(final, abs=1e-12)
    assert learning_rate_at(schedule, steps + 5, steps, warmup, peak, final) == pytest.approx(
        final, abs=1e-12
    )


def test_cosine_is_above_linear_early_and_below_late() -> None:
    early, late = (
        [learning_rate_at(schedule, step, 100, 0, 1.0) for schedule in ("cosine", "linear")]
        for step in (10, 90)
    )
    assert early[0] > early[1]
    assert late[0] < late[1]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decay_after_hold_equals_a_shorter_run(schedule: LRSchedule) -> None:
    warmup, hold_steps, steps, peak = 10, 40, 100, 2e-3
    rates = [
        learning_rate_at(schedule, step, steps, warmup, peak, hold_steps=hold_steps)
        for step in range(steps + 1)
    ]
    assert rates[warmup : warmup + hold_steps] == [peak] * hold_steps
    shorter = [
        learning_rate_at(schedule, step, steps - warmup - hold_steps, 0, peak) for step in range(51)
    ]
    assert rates[warmup + hold_steps :] == pytest.approx(shorter)
    assert max(rates[:warmup]) == peak
