"""Attention with rotary positions and grouped keys and values.

Shapes: B batch, L new tokens, S all tokens so far, H heads, K key/value heads, D head dim.
Source: `modeling_emu3.py` of baaivision/Emu3, which is Llama's (arXiv 2307.09288).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import DecoderConfig
from emu3.decoder.cache import Store

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [B or 1, 1, L, D]."""


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Rotary angles of positions [B, L], computed in float32 whatever the model's precision."""
    powers = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**powers)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn the channel pairs (i, i + D/2) of [B, heads, L, D]: halves, as Llama's code has them."""
    first, second = x.chunk(2, dim=-1)
    return x * by[0] + torch.cat([-second, first], dim=-1) * by[1]


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

    def forward(
        self, x: Tensor, by: Rotation, cache: Store | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x [B, L, hidden], same shape out.

        Without a `mask` [B or 1, 1, L, S] several tokens are causal among themselves, and a lone
        one sees all so far.
        """
        q = rotate(_split(self.q_proj(x), self.heads), by)
        k = rotate(_split(self.k_proj(x), self.kv_heads), by)
        v = _split(self.v_proj(x), self.kv_heads)
        if cache is not None:
            k, v = cache.store(self.layer, k, v)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and x.shape[1] > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads * D] to [B, heads, L, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
