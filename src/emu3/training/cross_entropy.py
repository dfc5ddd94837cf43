"""Cross-entropy against a large vocabulary, some tokens at a time.

Logits of 5,120 tokens over 184,622 entries are 3.8 GB in float32, and softmax and its gradient
want as much again. Here a slice of tokens meets the head, gives its loss and its gradients at once,
and is forgotten before the next one comes; what stays is as large as hidden states and head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_PER_CHUNK = 2**26  # logits of one slice: 256 MiB in float32


class FullVocabulary:
    """Where the head's rows are: all of them here. `vocab_parallel.py` has some elsewhere."""

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Logits [n, rows here] to log-probabilities among all rows, same shape."""
        return logits.log_softmax(-1)

    def find(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [n] to their column here [n, 1], and whether it is theirs [n, 1]."""
        return targets[:, None], torch.ones_like(targets, dtype=torch.bool)[:, None]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes of what each one knows."""
        return values


FULL_VOCABULARY = FullVocabulary()


def tokens_per_chunk(rows: int) -> int:
    """How many tokens meet a head of so many rows together."""
    return max(16, LOGITS_PER_CHUNK // rows)


def weighted_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    at_once: int | None = None,
    vocabulary: FullVocabulary = FULL_VOCABULARY,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of cross-entropies, and each of them without its history [N].

    hidden [N, d], head [V, d], targets [N] int64, weights [N] float32; `at_once` tokens meet the
    head together. The sum is float32 and has gradients for hidden and head.
    """
    at_once = at_once or tokens_per_chunk(len(head))
    inputs = hidden, head, targets, weights, at_once, vocabulary
    total, entropies = _WeightedEntropy.apply(*inputs)
    return total, entropies


class _WeightedEntropy(torch.autograd.Function):
    """Makes the gradients on the way forward; the way back only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        at_once: int,
        vocabulary: FullVocabulary,
    ) -> tuple[Tensor, Tensor]:
        """Slice by slice; autocast, where it is on, decides the precision of products."""
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_head = torch.zeros_like(head) if wants_head else None
        entropies = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), at_once):
            part = slice(start, start + at_once)
            logits = F.linear(hidden[part], head)
            log_p = vocabulary.log_softmax(logits.float())
            chosen, here = vocabulary.find(targets[part])
            entropies[part] = vocabulary.total(-(log_p.gather(1, chosen) * here)[:, 0])
            if to_hidden is None and to_head is None:
                continue
            slope = log_p.exp_().scatter_add_(1, chosen, -here.to(log_p.dtype))
            slope = slope.to(logits.dtype)  # once: under autocast every product would do it
            by = weights[part, None]  # on what is narrow, not on all logits
            if to_hidden is not None:
                to_hidden[part] = (slope @ head) * by
            if to_head is not None:
                to_head += slope.T @ (hidden[part] * by).to(logits.dtype)
        ctx.gradients = to_hidden, to_head
        ctx.mark_non_differentiable(entropies)
        return (entropies * weights).sum(), entropies

    @staticmethod
    def backward(ctx: Any, by: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what is there already, in its place: once, as PyTorch's own graphs allow."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were taken already; compute it again")
        (to_hidden, to_head), ctx.gradients = ctx.gradients, None
        for gradient in (to_hidden, to_head):
            if gradient is not None:
                gradient.mul_(by)
        return to_hidden, to_head, None, None, None, None
