"""The decoder-only transformer: embedding, blocks, final norm, language-model head.

This module is plain arithmetic. Batching, sampling, parallelism, quantization and compilation are
applied from outside. Parameter names are those of the published checkpoints. Dropout (0.1 in the
paper's models) acts in training only, in four places: attention probabilities, after attention,
after the MLP, and on the embeddings.

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
    """Root-mean-square normalization."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    """SwiGLU feed-forward network."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, hidden] to the gate and up projections, each [B, L, inner]."""
        return self.gate_proj(x), self.up_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, hidden] to the same shape."""
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with a residual connection."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(
        self, x: Tensor, rotary: RotaryTables, cache: KVStore | None, bias: AttentionBias
    ) -> Tensor:
        """[B, L, hidden] to the same shape."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotary, cache, bias))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class DecoderModel(nn.Module):
    """Everything but the head; `model.` in the checkpoint's parameter names."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(
        self, x: Tensor, rotary: RotaryTables, cache: KVStore | None, bias: AttentionBias
    ) -> Tensor:
        """Token embeddings [B, L, hidden] to the last hidden states [B, L, hidden]."""
        x = self.dropout(x)
        for block in self.layers:
            x = block(x, rotary, cache, bias)
        return self.norm(x)


class LMHead(nn.Linear):
    """Hidden states to logits over the vocabulary, or over a slice of it.

    Image generation needs logits of the visual tokens only; the slice saves reading the rest.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """[..., hidden] to [..., vocabulary], or to the token ids in `rows` only."""
        return F.linear(hidden, self.weight if rows is None else self.weight[rows])


class Transformer(nn.Module):
    """`Emu3ForCausalLM` of the published checkpoints."""

    optimized_for_inference: bool = False
    """True once `emu3.inference.optimize` has fused its layers; such a model is not saved."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderModel(config)
        self.lm_head = LMHead(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations and of the KV cache."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.norm.weight.device

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids [B, L] to float32 logits [B, L, vocabulary].

        With a cache, each row continues its own cached sequence.
        """
        return self.compute_logits(self.forward_hidden(ids, cache))

    def forward_hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        document_lengths: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Token ids [B, L] to the last hidden states [B, L, hidden]. The cache advances by L.

        `document_lengths` lists, for each row, the lengths of the documents packed into it; no
        document attends to another. For training, without a cache.
        """
        length, config = ids.shape[1], self.config
        positions = torch.arange(length, device=ids.device)[None]
        bias: AttentionBias = None
        if document_lengths is not None:
            bias = PackedDocuments(document_lengths)
            positions = bias.positions(ids.device)
        if cache is not None:
            positions, mask = cache.positions(length), cache.mask(length)
            heads_per_group = config.num_attention_heads // config.num_key_value_heads
            bias = None if mask is None else attention_bias(mask, heads_per_group, self.dtype)
        rotary = rotary_tables(positions, config.head_dim, config.rope_theta, self.dtype)
        x = self.model(self.model.embed_tokens(ids), rotary, cache, bias)
        if cache is not None:
            cache.advance(length)
        return x

    def compute_logits(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Hidden states [..., hidden] to float32 logits [..., vocabulary].

        `rows` restricts them to a slice of token ids.
        """
        return self.lm_head(hidden, rows).float()

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty KV cache for `rows` sequences of at most `capacity` tokens each."""
        return KVCache(self.config, rows, capacity, self.dtype, self.device)


@torch.no_grad()
def init_weights(model: Transformer) -> None:
    """Initialize linear and embedding weights from N(0, initializer_range²); norms stay at 1."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
