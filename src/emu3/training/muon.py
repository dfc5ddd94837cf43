"""Muon: momentum whose matrices are brought to orthonormal form before they are applied.

Source: Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
scale that lets it share AdamW's learning rate is from Moonshot AI (arXiv 2502.16982).
`torch.optim.Muon` knows matrices only; here a convolution counts as the matrix [out, in * kernel].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned for five rounds
ROUNDS = 5


def orthonormal(matrix: Tensor) -> Tensor:
    """Singular values of [m, n] to about one, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthonormalised, for parameters of two dimensions and more."""

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        decay: float = 0.0,
        bf16: bool = False,  # the iteration alone; it halves its time and forgives rounding
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})
        self.precision = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, float]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        matrix = parameter.grad.lerp(momentum, group["momentum"]).reshape(parameter.shape[0], -1)
        scale = 0.2 * max(matrix.shape) ** 0.5  # an update of AdamW's typical size
        parameter.mul_(1 - group["lr"] * group["decay"])
        update = self._orthonormal(matrix).to(parameter.dtype)
        parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _orthonormal(self, matrix: Tensor) -> Tensor:
        """Of a matrix in pieces every process makes the whole, and keeps its own piece of it."""
        matrix = matrix.to(self.precision)
        if not isinstance(matrix, DTensor):
            return orthonormal(matrix)
        whole = orthonormal(matrix.full_tensor())
        # All have computed the same, so none has to be told.
        return distribute_tensor(whole, matrix.device_mesh, matrix.placements, src_data_rank=None)
