"""Prefill: read prompts into a KV cache, in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.models.kv_cache import KVCache
from emu3.models.transformer import Transformer

CHUNK = 2048  # prompt tokens per forward pass: bounds the attention mask of a long prompt


def prefill(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    cache: KVCache | None = None,
) -> tuple[Tensor, KVCache]:
    """Read prompts of any lengths: the last hidden states [B, hidden] and the filled KV cache.

    `new_tokens` tokens fit after the longest prompt. With a `cache`, prompts continue its rows.
    Hidden states are kept for the last position of each prompt only.
    """
    rows = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True).to(model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    if cache is None:
        cache = model.new_cache(len(rows), ids.shape[1] + new_tokens)
    before = list(cache.lengths)
    cache.reserve(cache.max_length + ids.shape[1] + new_tokens)
    last = torch.zeros(len(rows), model.config.hidden_size, dtype=model.dtype, device=model.device)
    for start in range(0, ids.shape[1], CHUNK):
        hidden = model.forward_hidden(ids[:, start : start + CHUNK], cache)
        inside = (lengths - 1 - start).clamp(0, hidden.shape[1] - 1)
        ends_here = (lengths > start) & (lengths <= start + CHUNK)
        reached = hidden.gather(1, inside[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        last = torch.where(ends_here[:, None], reached, last)
    cache.truncate([length + len(row) for length, row in zip(before, rows, strict=True)])
    return last, cache
