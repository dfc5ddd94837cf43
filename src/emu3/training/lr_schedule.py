"""Learning-rate schedules: linear warm-up, optional constant phase, cosine or linear decay."""

from __future__ import annotations

import math
from typing import Literal

LRSchedule = Literal["cosine", "linear"]


def learning_rate_at(
    schedule: LRSchedule,
    step: int,
    steps: int,
    warmup_steps: int,
    peak: float,
    final: float = 0.0,
    hold_steps: int = 0,
) -> float:
    """Learning rate of a step, counted from 0.

    It rises linearly to `peak` during `warmup_steps`, stays there for `hold_steps`, and then decays
    to `final` at step `steps`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    start = warmup_steps + hold_steps
    progress = min(1.0, max(0, step - start) / max(1, steps - start))
    factor = 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return final + (peak - final) * factor
