"""Detection of bad batches: a loss or gradient norm that is not finite, or a spike of the loss.

The check runs after the backward pass and before the optimizer step, so a bad batch never changes a
weight. Skipping it then has the effect of a rollback to the last checkpoint without that batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

BadBatchPolicy = Literal["stop", "skip"]

WINDOW = 50  # losses that the median is taken over
MIN_HISTORY = 20  # losses before a spike can be detected
MAX_CONSECUTIVE = 3  # bad batches in a row that may be skipped


@dataclass
class LossSpikeDetector:
    """Checks each batch; its history is part of a checkpoint.

    A loss above `factor` times the median of the last 50 is a spike.
    """

    factor: float = math.inf
    history: list[float] = field(default_factory=list)
    consecutive: int = 0

    def check(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong with a batch, None if nothing is; adds a good loss to the history."""
        problem = self._problem(loss, grad_norm)
        self.consecutive = self.consecutive + 1 if problem else 0
        if problem is None:
            self.history = [*self.history[1 - WINDOW :], loss]
        return problem

    def _problem(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if len(self.history) >= MIN_HISTORY:
            usual, factor = median(self.history), self.factor
            if loss > factor * usual:
                return f"the loss is {loss:.4g}, more than {factor:g} times the median {usual:.4g}"
        return None

    @property
    def must_stop(self) -> bool:
        """Whether more batches in a row were bad than may be skipped: the weights have diverged."""
        return self.consecutive > MAX_CONSECUTIVE

    def state_dict(self) -> dict[str, Any]:
        """The history, for a checkpoint."""
        return {"history": list(self.history), "consecutive": self.consecutive}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the history in a checkpoint."""
        self.history, self.consecutive = list(state["history"]), int(state["consecutive"])
