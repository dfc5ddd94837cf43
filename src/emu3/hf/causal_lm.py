"""The decoder as a transformers model, for `generate`, PEFT, Trainer and evaluation harnesses.

Its submodules `model` and `lm_head` are those of `emu3.models.transformer.Transformer`, with BAAI's
parameter names. This module adds the arguments of transformers: padding masks, position ids, a
cache passed by the caller, labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from emu3.errors import InputError
from emu3.hf.config import Emu3DecoderConfig
from emu3.hf.pretrained import Emu3PreTrainedModel
from emu3.models.attention import attention_bias, rotary_tables
from emu3.models.transformer import Transformer


@dataclass(frozen=True)
class CacheAdapter:
    """A transformers `Cache` with the interface that `emu3.models.attention` expects."""

    cache: Cache

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, kv heads, L, head dim]; returns all those of the layer."""
        return self.cache.update(keys, values, layer)


class Emu3ForCausalLM(Emu3PreTrainedModel, GenerationMixin):
    """The Emu3 decoder with the interface of a transformers causal language model."""

    config_class = Emu3DecoderConfig
    base_model_prefix = "model"
    _no_split_modules = ("Block",)
    _skip_keys_device_placement = ("past_key_values",)

    def __init__(self, config: Emu3DecoderConfig) -> None:
        super().__init__(config)
        decoder = Transformer(config.as_decoder_config())
        self.model, self.lm_head = decoder.model, decoder.lm_head
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Token ids [B, L] or embeddings [B, L, D] to float32 logits [B, L, vocabulary].

        `attention_mask` [B, past + L] is zero on padding, on either side. Padding takes no
        positions, so a sequence gives the same logits in a batch as alone. A 4D mask [B or 1, 1, L,
        past + L] is used unchanged. `labels` [B, L] are token ids, -100 where no loss is computed;
        they are shifted here. `logits_to_keep` limits the logits to the last ones, or to an index.
        `cache_position`, which older releases of transformers pass, is ignored.

        Raises InputError if attention weights or hidden states are requested.
        """
        if output_attentions or output_hidden_states:
            raise InputError("output_attentions and output_hidden_states are not supported")
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = position_ids_from_mask(attention_mask, int(past), x.shape[1], x.device)
        mask = build_attention_mask(
            attention_mask, past_key_values, int(past), x.shape[1], x.device
        )
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        rotary = rotary_tables(position_ids, head_dim, self.config.rope_theta, x.dtype)
        cache = None if past_key_values is None else CacheAdapter(past_key_values)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        bias = None if mask is None else attention_bias(mask, group, x.dtype)
        hidden = self.model(x, rotary, cache, bias)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept]).float()
        loss = None
        if labels is not None:
            size = self.config.vocab_size
            loss = self.loss_function(logits, labels, size, num_items_in_batch=num_items_in_batch)
        out = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return out.to_tuple() if return_dict is False else out

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As `emu3.training` initializes a new decoder; norms keep their ones.
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)


def position_ids_from_mask(
    attention_mask: Tensor | None, past: int, new: int, device: torch.device
) -> Tensor:
    """Position ids of the new tokens, [B or 1, new]; padding takes no positions."""
    if attention_mask is None or attention_mask.ndim == 4:
        return torch.arange(past, past + new, device=device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -new:]


def build_attention_mask(
    attention_mask: Tensor | None, cache: Cache | None, past: int, new: int, device: torch.device
) -> Tensor | None:
    """Attention mask [B or 1, 1, new, past + new], or None if causal masking suffices."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask
    if cache is not None and cache.is_compileable:
        raise InputError(
            "a static cache needs a 4D attention mask; use generate, which makes one, or a "
            "DynamicCache"
        )
    if attention_mask is not None and attention_mask.shape[-1] != past + new:
        raise InputError(
            f"attention_mask {list(attention_mask.shape)} must cover {past} cached and {new} new "
            "token ids"
        )
    padded = attention_mask is not None and not bool(attention_mask.all())
    if not padded and (new == 1 or past == 0):
        return None
    keys = torch.arange(past + new, device=device)
    queries = keys[past:, None]
    causal = (keys <= queries)[None, None]
    if attention_mask is None or not padded:
        return causal
    is_token = attention_mask.bool()[:, None, None].to(device)
    return causal & (is_token | (keys == queries))  # padding attends to itself, to avoid NaN
