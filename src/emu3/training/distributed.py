"""Distributed training: process group, FSDP2 sharding and activation checkpointing.

All of it is applied to a decoder from outside: its arithmetic and its parameter names do not
change. Every rank holds a shard of each matrix and trains on its part of a batch. FSDP2 gathers the
matrices of a block before the block runs and frees them afterwards.

Source: `torch.distributed.fsdp.fully_shard`, started by `torchrun`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard, distribute_tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from emu3.models.transformer import Block, Transformer

T = TypeVar("T")

_SHUTDOWN_DELAY = 0.2  # s


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size, device and device mesh of this process.

    `mesh` is None on a single process, where every collective below returns its argument.
    """

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @classmethod
    def single_process(cls, device: str | torch.device = "cpu") -> DistributedContext:
        """The context of a run without `torchrun`."""
        return cls(0, 1, torch.device(device))

    @classmethod
    def from_environment(cls) -> DistributedContext:
        """The context of a process started by `torchrun`: NCCL with GPUs, gloo without.

        Without `torchrun` it is a single process. A second call reuses the process group.
        """
        cuda = torch.cuda.is_available()
        if "RANK" not in os.environ:
            return cls.single_process("cuda" if cuda else "cpu")
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world_size)
        return cls(rank, world_size, device, init_device_mesh(device.type, (world_size,)))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes logs and models."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """This rank's part of a sequence that all ranks have: every `world_size`-th item."""
        return list(items[self.rank :: self.world_size])

    def sum(self, value: float) -> float:
        """The sum of a number over all ranks."""
        return self._all_reduce(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest value of a number over all ranks."""
        return self._all_reduce(value, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        return self.sum(float(flag)) > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(0.0)

    def shutdown(self) -> None:
        """Destroy the process group; the last call of a process.

        gloo's threads live as long as anything references the group, and FSDP does. A thread that
        frees a tensor while the interpreter exits aborts the process ("terminate called without an
        active exception"), so the threads get a moment to finish.
        """
        if self.world_size > 1:
            self.barrier()
            time.sleep(_SHUTDOWN_DELAY)
            dist.destroy_process_group()

    def _all_reduce(self, value: float, op: Any) -> float:
        if self.world_size == 1:
            return value
        reduced = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(reduced, op)
        return float(reduced)


def shard_model(
    model: Transformer,
    distributed: DistributedContext,
    *,
    bf16: bool = False,
    activation_checkpointing: bool = False,
    vocab_parallel: bool = False,
) -> Transformer:
    """Shard a decoder with FSDP2, in place; on a single process only activation checkpointing.

    All ranks must hold the same weights. `bf16` gathers and multiplies matrices in bfloat16;
    weights, gradient sums and optimizer state stay float32. `vocab_parallel` never gathers the
    output head: the loss sends all tokens to each rank's rows of it (`vocab_parallel.py`), and
    `compute_logits` must not be called.
    """
    if activation_checkpointing:
        apply_activation_checkpointing(model)
    if distributed.mesh is None:
        return model
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32
    )
    for block in model.model.layers:
        fully_shard(block, mesh=distributed.mesh, mp_policy=policy)
    ignored = {_shard_head(model, distributed.mesh)} if vocab_parallel else None
    fully_shard(model, mesh=distributed.mesh, mp_policy=policy, ignored_params=ignored)
    # Training calls these methods; by default FSDP gathers weights for `forward` only.
    for method in (model.forward_hidden, model.compute_logits):
        register_fsdp_forward_method(model, method.__name__)
    return model


def _shard_head(model: Transformer, mesh: DeviceMesh) -> nn.Parameter:
    """Give each rank its rows of the output head, outside FSDP."""
    weight = model.lm_head.weight
    rows = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
    model.lm_head.weight = nn.Parameter(rows, requires_grad=weight.requires_grad)
    return model.lm_head.weight


def apply_activation_checkpointing(model: Transformer) -> None:
    """Keep only each block's input for the backward pass, and recompute the rest, in place."""
    for block in model.model.layers:
        assert isinstance(block, Block)
        block.forward = partial(_checkpointed, block.forward)  # type: ignore[method-assign]


def _checkpointed(forward: Any, *inputs: Any) -> Tensor:
    # PyTorch restores autocast and random state for the recomputation, but not function modes such
    # as `Float32Attention`, which change the arithmetic of a pass.
    modes = _get_current_function_mode_stack()
    out: Tensor = checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _restore_modes(modes)),
    )
    return out


@contextmanager
def _restore_modes(modes: Sequence[TorchFunctionMode]) -> Iterator[None]:
    """Run with the function modes of the first pass."""
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        yield
