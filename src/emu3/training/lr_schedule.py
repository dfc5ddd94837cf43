"""Learning rates: a rise from zero, and two ways down."""

from __future__ import annotations

import math
from typing import Literal

LRSchedule = Literal["cosine", "linear"]


def learning_rate_at(
    shape: LRSchedule,
    step: int,
    steps: int,
    warmup: int,
    peak: float,
    final: float = 0.0,
    hold: int = 0,
) -> float:
    """Learning rate of `step`, counted from 0: linear up to `peak` over `warmup` steps, there for
    `hold` steps, then down to `final` by the time of `steps`, in half a cosine or in a line.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    top = warmup + hold
    progress = min(1.0, max(0, step - top) / max(1, steps - top))
    left = 1 - progress if shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return final + (peak - final) * left
