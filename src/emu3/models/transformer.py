"""The decoder, top to bottom: embed, blocks, norm, head.

Plain arithmetic: who is in the batch, what may be sampled, on how many devices it runs and in
which number format are decided elsewhere. Names of parameters are those of the published
checkpoints. Dropout (0.1 in the paper's models) acts in four places, in training only: attention
probabilities, after attention, after the MLP, and on the embeddings.

Source: `modeling_emu3.py` of baaivision/Emu3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import DecoderConfig
from emu3.models.attention import (
    Attention,
    AttentionBias,
    PackedDocuments,
    RotaryTables,
    attention_bias,
    rotary_tables,
)
from emu3.models.kv_cache import KVCache, KVStore


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size], same shape out."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, hidden] to gate and values, each [B, L, inner]."""
        return self.gate_proj(x), self.up_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, hidden], same shape out."""
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each on a normed copy, added back."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(
        self, x: Tensor, by: RotaryTables, cache: KVStore | None, bias: AttentionBias
    ) -> Tensor:
        """[B, L, hidden], same shape out."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), by, cache, bias))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class DecoderModel(nn.Module):
    """Everything but the head; `model` in the checkpoint's names."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(
        self, x: Tensor, by: RotaryTables, cache: KVStore | None, bias: AttentionBias
    ) -> Tensor:
        """Embedded ids [B, L, hidden] to the last hidden states, same shape."""
        x = self.dropout(x)
        for block in self.layers:
            x = block(x, by, cache, bias)
        return self.norm(x)


class LMHead(nn.Linear):
    """Hidden states to the vocabulary, or to some rows of it: a picture asks for its codes only."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """[..., hidden] to [..., rows]."""
        return F.linear(hidden, self.weight if rows is None else self.weight[rows])


class Transformer(nn.Module):
    """`Emu3ForCausalLM` of the published checkpoints."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderModel(config)
        self.lm_head = LMHead(config)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations and cache."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Ids [B, L] to logits [B, L, vocabulary]. With a cache, each row continues its own."""
        return self.compute_logits(self.forward_hidden(ids, cache))

    def forward_hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        parts: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Ids [B, L] to the last hidden states [B, L, hidden]; the cache moves on by L.

        `parts` are the lengths of the documents that each row is packed from, none of which sees
        another; for training, without a cache.
        """
        length, config = ids.shape[1], self.config
        positions, bias = torch.arange(length, device=ids.device)[None], None  # type: Tensor, AttentionBias
        if parts is not None:
            bias = PackedDocuments(parts)
            positions = bias.positions(ids.device)
        if cache is not None:
            positions, mask = cache.positions(length), cache.mask(length)
            group = config.num_attention_heads // config.num_key_value_heads
            bias = None if mask is None else attention_bias(mask, group, self.dtype)
        by = rotary_tables(positions, config.head_dim, config.rope_theta, self.dtype)
        x = self.model(self.model.embed_tokens(ids), by, cache, bias)
        if cache is not None:
            cache.advance(length)
        return x

    def compute_logits(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Hidden states [..., hidden] to float32 logits, of the vocabulary or some rows of it."""
        return self.lm_head(hidden, rows).float()

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for so many rows of at most `capacity` ids each."""
        return KVCache(self.config, rows, capacity, self.dtype, self.device)


@torch.no_grad()
def init_weights(model: Transformer) -> None:
    """Fresh weights: normal with the config's `initializer_range`, norms at one."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
