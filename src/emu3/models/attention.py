"""Causal self-attention with rotary position embeddings and grouped-query attention.

Shapes: B batch, L new tokens, S all tokens so far, H query heads, K key/value heads, D head dim.
Source: `modeling_emu3.py` of baaivision/Emu3, which is Llama's (arXiv 2307.09288).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import DecoderConfig
from emu3.models.kv_cache import KVStore

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines, each [B or 1, 1, L, D]. The first half of the sines is negated."""


def rotary_tables(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> RotaryTables:
    """Cosines and sines for positions [B, L].

    Angles are computed in float32 whatever `dtype` is: bfloat16 cannot represent large positions.
    """
    powers = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**powers)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def apply_rotary(x: Tensor, rotary: RotaryTables) -> Tensor:
    """Rotate the channel pairs (i, i + D/2) of x [B, heads, L, D], as Llama does."""
    cos, sin = rotary
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def attention_bias(mask: Tensor, heads_per_group: int, dtype: torch.dtype) -> Tensor:
    """Additive attention bias [B or 1, 1, heads_per_group * L, S] of a mask [B or 1, 1, L, S].

    A bool mask is True where a token may attend; a mask of numbers is already additive. Query heads
    that share keys and values are stacked along the query axis (see `Attention.attend`), so the
    bias is repeated for each of them. Call it once per forward pass, not once per layer.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
            ~mask, -torch.inf
        )
    return mask.to(dtype).repeat(1, 1, heads_per_group, 1)


@dataclass(frozen=True)
class PackedDocuments:
    """Document lengths of each packed sequence in a batch; each sequence's lengths sum to L.

    Used in place of an attention bias: tokens attend only within their document. Training only.
    """

    lengths: Sequence[Sequence[int]]

    def positions(self, device: torch.device) -> Tensor:
        """Positions [B, L], starting from 0 in each document."""
        rows = [torch.cat([torch.arange(n) for n in lengths]) for lengths in self.lengths]
        return torch.stack(rows).to(device)

    def mask(self, device: torch.device) -> Tensor:
        """Equivalent bool mask [B, 1, L, L]; the reference for `Attention`'s faster path."""
        rows = [
            torch.block_diag(*(torch.ones(n, n).tril() for n in lengths))
            for lengths in self.lengths
        ]
        return torch.stack(rows)[:, None].bool().to(device)


AttentionBias = Tensor | PackedDocuments | None
"""An additive bias from `attention_bias`, packed documents, or None for causal attention."""


class Attention(nn.Module):
    """Causal self-attention over the given tokens and, with a KV cache, all earlier ones."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, config.attention_dropout
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, kv, bias=False)
        self.v_proj = nn.Linear(hidden, kv, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values of x [B, L, hidden], concatenated: [B, L, hidden + 2 kv]."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def forward(
        self,
        x: Tensor,
        rotary: RotaryTables,
        cache: KVStore | None = None,
        bias: AttentionBias = None,
    ) -> Tensor:
        """x [B, L, hidden] to the same shape.

        Without a `bias` (see `attention_bias`), L > 1 tokens attend causally among themselves, and
        a single token attends to everything in the cache.
        """
        groups, kv = self.heads + 2 * self.kv_heads, self.kv_heads
        split = self.project(x).unflatten(-1, (groups, -1)).transpose(1, 2)
        rotated, v = apply_rotary(split[:, :-kv], rotary), split[:, -kv:]
        q, k = rotated[:, :-kv], rotated[:, -kv:]
        if cache is not None:
            k, v = cache.store(self.layer, k, v)
        return self.o_proj(self.attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias) -> Tensor:
        """q [B, H, L, D] over k, v [B, K, S, D]: returns [B, H, L, D]."""
        if isinstance(bias, PackedDocuments):
            return self._attend_documents(q, k, v, bias)
        dropout = self.dropout if self.training else 0.0
        if bias is None and q.shape[2] > 1:
            grouped = self.heads != self.kv_heads
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped
            )
        # Stack the query heads that share a key/value head along the query axis, [B, K, H/K * L,
        # D], so that keys and values are not repeated.
        stacked = q.unflatten(1, (self.kv_heads, -1)).flatten(2, 3)
        out = F.scaled_dot_product_attention(stacked, k, v, attn_mask=bias, dropout_p=dropout)
        return out.unflatten(2, (-1, q.shape[2])).flatten(1, 2)

    # Document lengths differ from batch to batch, so compiled blocks leave this part uncompiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _attend_documents(
        self, q: Tensor, k: Tensor, v: Tensor, documents: PackedDocuments
    ) -> Tensor:
        """Causal attention document by document; costs no more than the documents alone."""
        rows = []
        for row, lengths in enumerate(documents.lengths):
            split = (x[row : row + 1].split(list(lengths), dim=2) for x in (q, k, v))
            pieces = [self.attend(a, b, c, None) for a, b, c in zip(*split, strict=True)]
            rows.append(torch.cat(pieces, dim=2))
        return torch.cat(rows)
