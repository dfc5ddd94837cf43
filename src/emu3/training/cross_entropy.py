"""Cross-entropy over a large vocabulary, in chunks of tokens.

Logits of 5,120 tokens over 184,622 entries are 3.8 GB in float32, and softmax and gradient need as
much again. Here a chunk of tokens is multiplied with the output head, its loss and gradients are
computed at once, and its logits are freed before the next chunk. What remains has the size of the
hidden states and the head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_PER_CHUNK = 2**26  # 256 MiB in float32


class FullVocabulary:
    """All rows of the output head are on this rank. `VocabularyShard` has a part of them."""

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Logits [n, local rows] to log-probabilities over the whole vocabulary, same shape."""
        return logits.log_softmax(-1)

    def local_columns(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [n] to their local column [n, 1], and whether they are on this rank [n, 1]."""
        return targets[:, None], torch.ones_like(targets, dtype=torch.bool)[:, None]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        return values


FULL_VOCABULARY = FullVocabulary()


def tokens_per_chunk(rows: int) -> int:
    """Number of tokens in a chunk for an output head of `rows` rows."""
    return max(16, LOGITS_PER_CHUNK // rows)


def weighted_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    chunk_size: int | None = None,
    vocabulary: FullVocabulary = FULL_VOCABULARY,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of cross-entropies.

    Args:
        hidden: hidden states [N, d].
        head: output head [V, d].
        targets: token ids [N], int64.
        weights: loss weights [N], float32.
        chunk_size: tokens in a chunk; by default so that its logits take 256 MiB.
        vocabulary: which rows of the head are on this rank.

    Returns:
        The sum (float32, with gradients for `hidden` and `head`) and each cross-entropy [N]
        (float32, without gradients).
    """
    chunk_size = chunk_size or tokens_per_chunk(len(head))
    total, entropies = _WeightedCrossEntropy.apply(
        hidden, head, targets, weights, chunk_size, vocabulary
    )
    return total, entropies


class _WeightedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        chunk_size: int,
        vocabulary: FullVocabulary,
    ) -> tuple[Tensor, Tensor]:
        """Chunk by chunk; autocast, if on, decides the precision of the products."""
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        head_grad = torch.zeros_like(head) if needs_head else None
        entropies = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = F.linear(hidden[chunk], head)
            log_probs = vocabulary.log_softmax(logits.float())
            columns, is_local = vocabulary.local_columns(targets[chunk])
            entropies[chunk] = vocabulary.sum(-(log_probs.gather(1, columns) * is_local)[:, 0])
            if hidden_grad is None and head_grad is None:
                continue
            # Gradient of the logits: softmax minus one-hot, cast once for both products below.
            logits_grad = log_probs.exp_().scatter_add_(1, columns, -is_local.to(log_probs.dtype))
            logits_grad = logits_grad.to(logits.dtype)
            weight = weights[chunk, None]  # applied to [n, d], which is smaller than [n, V]
            if hidden_grad is not None:
                hidden_grad[chunk] = (logits_grad @ head) * weight
            if head_grad is not None:
                head_grad += logits_grad.T @ (hidden[chunk] * weight).to(logits.dtype)
        ctx.gradients = hidden_grad, head_grad
        ctx.mark_non_differentiable(entropies)
        return (entropies * weights).sum(), entropies

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients in place; possible once, like any graph that is not retained."""
        if ctx.gradients is None:
            raise RuntimeError("backward was already called on this loss; compute it again")
        (hidden_grad, head_grad), ctx.gradients = ctx.gradients, None
        for gradient in (hidden_grad, head_grad):
            if gradient is not None:
                gradient.mul_(scale)
        return hidden_grad, head_grad, None, None, None, None
