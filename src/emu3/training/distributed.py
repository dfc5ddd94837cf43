"""Many processes, one model: who is in the world, and how a decoder is cut into pieces for it.

Everything here is put on from outside: the decoder's arithmetic and the names of its parameters
stay as they are. Every process holds a piece of each matrix and learns from its share of a step's
documents; a block's matrices are gathered when the block is reached and let go again behind it.

Source: PyTorch's own FSDP2 (`torch.distributed.fsdp.fully_shard`), under `torchrun`.
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

_GOODBYE = 0.2  # s


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run, and which of them this is. Alone, nothing is sent anywhere."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @classmethod
    def single_process(cls, device: str | torch.device = "cpu") -> DistributedContext:
        """One process."""
        return cls(0, 1, torch.device(device))

    @classmethod
    def from_environment(cls) -> DistributedContext:
        """As `torchrun` started it: NCCL where there is a GPU for each process, else gloo.

        Alone where it did not. A second call joins what the first one made.
        """
        cuda = torch.cuda.is_available()
        if "RANK" not in os.environ:
            return cls.single_process("cuda" if cuda else "cpu")
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=size)
        return cls(rank, size, device, init_device_mesh(device.type, (size,)))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """This process's part of what all of them have: every `size`-th."""
        return list(items[self.rank :: self.size])

    def sum(self, value: float) -> float:
        """The sum of a number over all processes; on each of them the same."""
        if self.size == 1:
            return value
        whole = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(whole)
        return float(whole)

    def max(self, value: float) -> float:
        """The largest of a number over all processes."""
        if self.size == 1:
            return value
        whole = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(whole, dist.ReduceOp.MAX)
        return float(whole)

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return self.sum(float(flag)) > 0

    def barrier(self) -> None:
        """Wait for all."""
        self.sum(0.0)

    def shutdown(self) -> None:
        """Say goodbye to the others: the last thing that a process does. Alone it is nothing.

        gloo's threads live for as long as anything holds the group, and FSDP does. One that lets
        go of a tensor while the interpreter is ending aborts the process ("terminate called
        without an active exception"), so they get a moment to be done with the last ones.
        """
        if self.size > 1:
            self.barrier()
            time.sleep(_GOODBYE)
            dist.destroy_process_group()


def shard_model(
    model: Transformer,
    world: DistributedContext,
    *,
    bf16: bool = False,
    recompute: bool = False,
    vocab_parallel: bool = False,
) -> Transformer:
    """Cut a decoder into pieces, one for each process; changes it in its place.

    All processes must hold the same weights. With `bf16` matrices are gathered and multiplied in
    bfloat16, while weights, sums of gradients and the optimizer stay float32. `recompute` keeps
    only what enters a block and computes the rest again for the gradients. With `vocab_parallel`
    the head is never gathered: the loss brings all tokens to every process's rows of it, and
    nothing else may ask it for logits.
    """
    if recompute:
        apply_activation_checkpointing(model)
    if world.mesh is None:
        return model
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32
    )
    for block in model.model.layers:
        fully_shard(block, mesh=world.mesh, mp_policy=policy)
    apart = {_keep_rows(model, world.mesh)} if vocab_parallel else None
    fully_shard(model, mesh=world.mesh, mp_policy=policy, ignored_params=apart)
    # The parts of a forward that training calls; without these only `forward` would gather.
    for method in ("forward_hidden", "compute_logits"):
        register_fsdp_forward_method(model, method)
    return model


def _keep_rows(model: Transformer, mesh: DeviceMesh) -> nn.Parameter:
    """Give each process its rows of the head, for good."""
    weight = model.lm_head.weight
    rows = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
    model.lm_head.weight = nn.Parameter(rows, requires_grad=weight.requires_grad)
    return model.lm_head.weight


def apply_activation_checkpointing(model: Transformer) -> None:
    """Keep only the input of each block while training."""
    for block in model.model.layers:
        assert isinstance(block, Block)
        block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Any, *inputs: Any) -> Tensor:
    # PyTorch brings back autocast and random numbers, but not what else changes the arithmetic of
    # a pass: attention in float32 (`emu3.training.mixed_precision`) is such a mode.
    modes = _get_current_function_mode_stack()
    out: Tensor = checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _within(modes)),
    )
    return out


@contextmanager
def _within(modes: Sequence[TorchFunctionMode]) -> Iterator[None]:
    """As the first pass was."""
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        yield
