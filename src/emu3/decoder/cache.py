"""Keys and values of what the decoder has already read.

The length of everything Emu3 writes is known before it starts, so a cache is allocated once, at
its exact size. Prompts of different lengths are aligned at their ends: row b has `padding[b]`
empty places in front, which no token ever attends to and which take no positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from emu3.config import DecoderConfig


class Store(Protocol):
    """All that attention asks of a cache; others than ours may answer."""

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take [B, kv heads, L, head dim]; give back all that the new tokens attend to."""


class Cache:
    """Keys and values [layers, B, kv heads, capacity, head dim]; `length` places are filled."""

    def __init__(
        self,
        config: DecoderConfig,
        padding: Sequence[int],
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            len(padding),
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.padding = torch.tensor(padding, device=device) if any(padding) else None
        self.capacity, self.length = capacity, 0

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, kv heads, L, head dim] after what is there; returns everything filled so far.

        `length` moves on in `advance`, once all layers have stored.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache holds {self.capacity} tokens, {end} are needed")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more places as filled."""
        self.length += tokens

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """Positions of the next `tokens` tokens of each row: [B or 1, tokens]."""
        places = torch.arange(self.length, self.length + tokens, device=device)[None]
        return places if self.padding is None else (places - self.padding[:, None]).clamp_min(0)

    def mask(self, tokens: int, device: torch.device) -> Tensor | None:
        """Who sees whom, [B or 1, 1, tokens, length + tokens], or None where all see all."""
        if tokens == 1 and self.padding is None:
            return None
        places = torch.arange(self.length + tokens, device=device)
        queries = places[self.length :, None]
        seen = (places <= queries)[None, None]
        if self.padding is None:
            return seen
        real = places >= self.padding[:, None, None, None]
        return seen & (real | (places == queries))  # an empty place sees itself: no row of nothing
