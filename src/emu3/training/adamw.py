"""AdamW for all weights: the least that many processes have to tell each other.

Every number of it belongs to one number of a weight, so a process needs no more than its own
pieces. Muon gathers whole matrices.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

BETAS, EPS = (0.9, 0.95), 1e-6  # as in BAAI's fine-tuning script


class PlainAdamW:
    """AdamW over what requires a gradient; matrices decay, norms and biases do not."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        decay: float = 0.0,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
    ) -> None:
        self.parameters = [each for each in parameters if each.requires_grad]
        matrices = [each for each in self.parameters if each.ndim >= 2]
        rest = [each for each in self.parameters if each.ndim < 2]
        groups = [
            {"params": each, "weight_decay": by} for each, by in ((matrices, decay), (rest, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
        ]

    def step(self, learning_rate: float) -> None:
        """Apply the gradients at this learning rate, then forget them."""
        (adamw,) = self.parts
        for group in adamw.param_groups:
            group["lr"] = learning_rate
        adamw.step()
        adamw.zero_grad(set_to_none=True)
