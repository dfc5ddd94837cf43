"""Attention with rotary positions and grouped keys and values.

Shapes: B batch, L new tokens, S all tokens so far, H heads, K key/value heads, D head dim.
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
"""Cosines and sines, each [B or 1, 1, L, D]; the first half of the sines is negated."""


def rotary_tables(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> RotaryTables:
    """Rotary angles of positions [B, L], computed in float32 whatever the model's precision."""
    powers = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**powers)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def apply_rotary(x: Tensor, by: RotaryTables) -> Tensor:
    """Turn the channel pairs (i, i + D/2) of [B, heads, L, D]: halves, as Llama's code has them."""
    return x * by[0] + x.roll(x.shape[-1] // 2, dims=-1) * by[1]


def attention_bias(mask: Tensor, heads_a_group: int, dtype: torch.dtype) -> Tensor:
    """Who sees whom, bool [B or 1, 1, L, S], as attention adds it: [B or 1, 1, heads * L, S].

    Once a pass, not once a layer. A mask of numbers is taken as it is.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
            ~mask, -torch.inf
        )
    return mask.to(dtype).repeat(1, 1, heads_a_group, 1)


@dataclass(frozen=True)
class PackedDocuments:
    """Rows that are packed from several documents: the lengths of each row's, together its L.

    Taken in place of a bias: attention stays inside a part. Training only.
    """

    rows: Sequence[Sequence[int]]

    def positions(self, device: torch.device) -> Tensor:
        """Positions [B, L], from zero in each part."""
        rows = [torch.cat([torch.arange(n) for n in lengths]) for lengths in self.rows]
        return torch.stack(rows).to(device)

    def mask(self, device: torch.device) -> Tensor:
        """Who sees whom, bool [B, 1, L, L]: the slow and obvious way to say it."""
        rows = [
            torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)) for lengths in self.rows
        ]
        return torch.stack(rows)[:, None].bool().to(device)


AttentionBias = Tensor | PackedDocuments | None
"""Who sees whom: as `attention_bias` makes it, by parts, or all that came before."""


class Attention(nn.Module):
    """Causal self-attention; without a cache over the tokens given, with one over all so far."""

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
        """Queries, keys and values of x [B, L, hidden], side by side: [B, L, hidden + 2 kv]."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def forward(
        self, x: Tensor, by: RotaryTables, cache: KVStore | None = None, bias: AttentionBias = None
    ) -> Tensor:
        """x [B, L, hidden], same shape out.

        Without a `bias`, as `attention_bias` makes it, several tokens are causal among themselves, and a
        lone one sees all so far.
        """
        groups, kv = self.heads + 2 * self.kv_heads, self.kv_heads
        split = self.project(x).unflatten(-1, (groups, -1)).transpose(1, 2)
        turned, v = apply_rotary(split[:, :-kv], by), split[:, -kv:]
        q, k = turned[:, :-kv], turned[:, -kv:]
        if cache is not None:
            k, v = cache.store(self.layer, k, v)
        return self.o_proj(self.attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias) -> Tensor:
        """Queries [B, heads, L, D] over keys and values [B, kv heads, S, D]: as the queries."""
        if isinstance(bias, PackedDocuments):
            return self._attend_parts(q, k, v, bias)
        dropout = self.dropout if self.training else 0.0
        if bias is None and q.shape[2] > 1:
            shared = self.heads != self.kv_heads
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=shared
            )
        # The heads that share keys and values stand in one row of queries: nothing is repeated.
        rows = q.unflatten(1, (self.kv_heads, -1)).flatten(2, 3)
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=bias, dropout_p=dropout)
        return out.unflatten(2, (-1, q.shape[2])).flatten(1, 2)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # each row has its own lengths: compiled blocks leave it as it is
    def _attend_parts(self, q: Tensor, k: Tensor, v: Tensor, parts: PackedDocuments) -> Tensor:
        """Part by part, causally: the work is that of the documents alone."""
        rows = []
        for row, lengths in enumerate(parts.rows):
            split = (x[row : row + 1].split(list(lengths), dim=2) for x in (q, k, v))
            pieces = [self.attend(a, b, c, None) for a, b, c in zip(*split, strict=True)]
            rows.append(torch.cat(pieces, dim=2))
        return torch.cat(rows)
