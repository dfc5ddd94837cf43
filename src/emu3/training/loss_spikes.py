"""Batches that would do harm: a loss or a gradient that is no number, or a sudden jump of the loss.

The check stands between the gradients and the step, so nothing of a bad batch reaches a weight.
Leaving it out is therefore the same as going back to the last checkpoint and playing the steps
since again without it, and costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

BadBatchPolicy = Literal["stop", "skip"]

WINDOW = 50  # losses that the median looks back on
MIN_HISTORY = 20  # losses before a median says anything
MAX_CONSECUTIVE = 3  # bad batches: more of them, and it is the weights that are bad


@dataclass
class LossSpikeDetector:
    """Judges each batch; what it remembers is part of a checkpoint.

    `spike`: a loss of more than so many times the median of the last 50 is a jump.
    """

    spike: float = math.inf
    losses: list[float] = field(default_factory=list)
    in_a_row: int = 0

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with a batch of this loss and gradient norm; None where all is well.

        A good loss is remembered, a bad one is not.
        """
        found = self._fault(loss, norm)
        self.in_a_row = self.in_a_row + 1 if found else 0
        if found is None:
            self.losses = [*self.losses[1 - WINDOW :], loss]
        return found

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if len(self.losses) >= MIN_HISTORY and loss > self.spike * (usual := median(self.losses)):
            return f"the loss jumped to {loss:.4g}, more than {self.spike:g} times the {usual:.4g}"
        return None

    @property
    def hopeless(self) -> bool:
        """Whether so many batches in a row were bad that leaving them out is no help."""
        return self.in_a_row > MAX_CONSECUTIVE

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"losses": list(self.losses), "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint remembers."""
        self.losses, self.in_a_row = list(state["losses"]), int(state["in_a_row"])
