"""Optimizers: AdamW, or Muon for hidden matrices with AdamW for everything else.

`torch.optim.Muon` is not used because it accepts two-dimensional parameters only (the vision
tokenizer has convolutions), always iterates in bfloat16, and does not gather the shards of an FSDP2
parameter. For a plain matrix with `bf16=True` it takes the same steps; a test compares the two.

Sources: Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks";
update scale of Moonshot AI (arXiv 2502.16982), which lets Muon share AdamW's learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

BETAS, EPS = (0.9, 0.95), 1e-6  # of AdamW, from BAAI's fine-tuning script
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned for five iterations
ITERATIONS = 5
MIN_MUON_ROWS = 16  # smaller matrices are left to AdamW


class OptimizerContainer:
    """PyTorch optimizers that step together at one learning rate.

    Optimizer `i` uses the learning rate times `lr_scales[i]` (1 by default).
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        lr_scales: Sequence[float] | None = None,
    ) -> None:
        self.optimizers = list(optimizers)
        self.lr_scales = [1.0] * len(self.optimizers) if lr_scales is None else list(lr_scales)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of all optimizers."""
        groups = (group for each in self.optimizers for group in each.param_groups)
        return [parameter for group in groups for parameter in group["params"]]

    def step(self, learning_rate: float) -> None:
        """Apply the gradients at this learning rate, then clear them."""
        for optimizer, scale in zip(self.optimizers, self.lr_scales, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def build_adamw(
    parameters: Iterable[nn.Parameter],
    weight_decay: float = 0.0,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> OptimizerContainer:
    """AdamW for all trainable parameters; weight decay applies to matrices only.

    Its state is elementwise, so under FSDP2 it needs no communication.
    """
    trainable = [each for each in parameters if each.requires_grad]
    groups = [
        {"params": [each for each in trainable if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in trainable if each.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return OptimizerContainer([torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)])


def build_muon_and_adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float = 0.0,
    adamw_only: tuple[str, ...] = (),
    bf16: bool = False,
) -> OptimizerContainer:
    """Muon for hidden matrices and convolutions; AdamW for norms, biases and small matrices.

    Parameters whose name contains an entry of `adamw_only` (embeddings, output head) are left to
    AdamW as well. Weight decay applies to Muon's parameters.
    """
    muon: list[nn.Parameter] = []
    adamw: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        hidden = parameter.ndim >= 2 and parameter.shape[0] >= MIN_MUON_ROWS
        excluded = any(part in name for part in adamw_only)
        (muon if hidden and not excluded else adamw).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(Muon(muon, lr=0.0, weight_decay=weight_decay, bf16=bf16))
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0))
    return OptimizerContainer(optimizers)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Move the singular values of a matrix [m, n] close to one, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalized updates, for parameters of two or more dimensions.

    A convolution [out, in, *kernel] counts as the matrix [out, in * kernel]. `bf16` runs the
    Newton-Schulz iteration in bfloat16, which halves its time.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.bfloat16 if bf16 else torch.float32

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
        scale = 0.2 * max(matrix.shape) ** 0.5  # matches the RMS of an AdamW update
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = self._orthogonalize(matrix).to(parameter.dtype)
        parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _orthogonalize(self, matrix: Tensor) -> Tensor:
        """Orthogonalize the full matrix; of a sharded one, return this rank's shard."""
        matrix = matrix.to(self.dtype)
        if not isinstance(matrix, DTensor):
            return orthogonalize(matrix)
        full = orthogonalize(matrix.full_tensor())
        # Every rank has computed the same result, so it is split without a broadcast.
        return distribute_tensor(full, matrix.device_mesh, matrix.placements, src_data_rank=None)
