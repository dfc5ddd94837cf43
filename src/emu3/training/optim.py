"""Which optimizer moves which weight, and the pair of them as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from emu3.training.muon import Muon

SMALLEST_MATRIX = 16  # rows; below that there is nothing to orthonormalise


class MuonAndAdamW:
    """Muon for hidden matrices and convolutions, AdamW for embeddings, heads, norms and biases."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        decay: float = 0.0,
        adamw_only: tuple[str, ...] = (),
        bf16: bool = False,
    ) -> None:
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in named:
            if not parameter.requires_grad:
                continue
            hidden = parameter.ndim >= 2 and parameter.shape[0] >= SMALLEST_MATRIX
            excluded = any(part in name for part in adamw_only)
            (matrices if hidden and not excluded else rest).append(parameter)
        self.parameters = matrices + rest
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=0.0, decay=decay, bf16=bf16),
            torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0),
        ]

    def step(self, learning_rate: float) -> None:
        """Apply the gradients at this learning rate, then forget them."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of both."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from the state of both."""
        for part, one in zip(self.parts, state, strict=True):
            part.load_state_dict(one)
