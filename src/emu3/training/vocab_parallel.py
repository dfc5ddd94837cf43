"""Cross-entropy against a head in pieces: tokens travel to the rows, not rows to the tokens.

Each process has some rows of the head, for good. Every token meets all rows, some on each process,
and what they have to tell each other is a maximum, a sum and the logit of the target. To gather the
published head is 0.76 billion numbers a pass, and its gradient as many; the hidden states of 5,120
tokens are 21 million.

Source: Shoeybi et al. 2019, "Megatron-LM" (arXiv 1909.08053, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.distributed.tensor import DTensor

from emu3.training.cross_entropy import FullVocabulary, tokens_per_chunk, weighted_cross_entropy


@dataclass(frozen=True)
class VocabularyShard(FullVocabulary):
    """The rows `start` to `stop` of the vocabulary are here, the others at the rest of `group`."""

    start: int
    stop: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, head: DTensor) -> VocabularyShard:
        """This process's; every one has as many rows, but for the last."""
        group = head.device_mesh.get_group()
        rows = rows_per_rank(head)
        start = min(dist.get_rank(group) * rows, len(head))
        return cls(start, min(start + rows, len(head)), group)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Logits [n, rows here] to log-probabilities among all rows, same shape."""
        most = logits.amax(-1, keepdim=True)
        dist.all_reduce(most, dist.ReduceOp.MAX, self.group)
        above = logits - most
        return above - self.total(above.exp().sum(-1, keepdim=True)).log()

    def find(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [n] to their column here [n, 1], and whether it is theirs [n, 1]."""
        here = (targets >= self.start) & (targets < self.stop)
        return (targets - self.start).clamp(0, self.stop - self.start - 1)[:, None], here[:, None]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes of what each one knows."""
        dist.all_reduce(values, group=self.group)
        return values


def rows_per_rank(head: DTensor) -> int:
    """How many rows a process has, as PyTorch cuts a matrix; the last one may have fewer."""
    return -(-len(head) // head.device_mesh.size())


def vocab_parallel_cross_entropy(
    hidden: Tensor, head: DTensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """What `weighted_entropy` says of this process's tokens, of which each may have other ones.

    All processes must call it, and take its gradients as they are: what scales the sum must be in
    the weights. The head's gradient is the mean over processes, as FSDP's are.
    """
    group, count = head.device_mesh.get_group(), torch.tensor(len(hidden), device=hidden.device)
    dist.all_reduce(count, dist.ReduceOp.MAX, group)
    most, size, piece = int(count), dist.get_world_size(group), VocabularyShard.of(head)
    missing = most - len(hidden)
    everyones = all_gather_tensor_autograd(F.pad(hidden, (0, 0, 0, missing)), 0, group)
    wanted, by = (_gathered(F.pad(each, (0, missing)), size, group) for each in (targets, weights))
    at_once, local = tokens_per_chunk(rows_per_rank(head)), head.to_local()
    if local.requires_grad:
        local = _Mean.apply(local, size)
    if torch.is_autocast_enabled(hidden.device.type):
        local = local.to(torch.get_autocast_dtype(hidden.device.type))
    total, entropies = weighted_cross_entropy(everyones, local, wanted, by, at_once, piece)
    start = dist.get_rank(group) * most
    mine = entropies[start : start + len(hidden)]
    # The value is of this process's tokens; the gradients that go back through the rows here, and
    # to all processes from there, are of everyone's.
    return (mine * weights).sum() + (total - total.detach()), mine


def _gathered(values: Tensor, size: int, group: dist.ProcessGroup) -> Tensor:
    """[n] of each process to [size * n]."""
    out = values.new_empty(size * len(values))
    dist.all_gather_into_tensor(out, values.contiguous(), group)
    return out


class _Mean(torch.autograd.Function):
    """The same on the way forward; on the way back the sum over processes becomes their mean."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, size: int) -> Tensor:
        ctx.size = size  # type: ignore[attr-defined]
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.div_(ctx.size), None  # type: ignore[attr-defined]
