"""Keys and values of what the decoder has already read.

The length of everything Emu3 writes is known before it starts, so a cache is allocated once, at
its exact size. Each row has a length of its own, and an id's place in its row is its position:
prompts of any lengths share a batch without padding between them and what follows. A pass may
write more than is kept (the ends of shorter prompts, guesses that turn out wrong): `rewind` says
what counts, and the rest is never seen and written over later.
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
        """Take [B, kv heads, L, head dim]; give back all that the new tokens may attend to."""


class Cache:
    """Keys and values [layers, B, kv heads, capacity, head dim]; row b holds `lengths[b]` ids."""

    def __init__(
        self,
        config: DecoderConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            rows,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )
        # Zeros, and not whatever memory holds: a mask cannot hide that 0 times NaN is NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity, self.lengths = capacity, [0] * rows

    @property
    def longest(self) -> int:
        """Places filled in the fullest row."""
        return max(self.lengths)

    @property
    def even(self) -> bool:
        """Whether all rows are equally full."""
        return min(self.lengths) == self.longest

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, kv heads, L, head dim] behind each row's ids; returns what is filled by now.

        `lengths` move on in `advance`, once all layers have stored.
        """
        tokens = keys.shape[2]
        end = self.longest + tokens
        if end > self.capacity:
            raise ValueError(f"cache holds {self.capacity} tokens, {end} are needed")
        mine, theirs = self.keys[layer], self.values[layer]
        if self.even:
            mine[:, :, end - tokens : end], theirs[:, :, end - tokens : end] = keys, values
        else:
            for row, start in enumerate(self.lengths):
                mine[row, :, start : start + tokens] = keys[row]
                theirs[row, :, start : start + tokens] = values[row]
        return mine[:, :, :end], theirs[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more places of each row as filled."""
        self.lengths = [length + tokens for length in self.lengths]

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what lies behind these lengths, one for each row."""
        self.lengths = list(lengths)

    def positions(self, tokens: int) -> Tensor:
        """Positions of the next `tokens` tokens of each row: [B or 1, tokens]."""
        starts = self.lengths[:1] if self.even else self.lengths
        new = torch.arange(tokens, device=self.keys.device)
        return torch.tensor(starts, device=self.keys.device)[:, None] + new

    def mask(self, tokens: int) -> Tensor | None:
        """Who sees whom, bool [B or 1, 1, tokens, places]; None where attention needs no telling.

        That is a lone token of even rows, which sees all, and a first pass, which is causal.
        """
        if self.even and (tokens == 1 or self.longest == 0):
            return None
        places = torch.arange(self.longest + tokens, device=self.keys.device)
        return places <= self.positions(tokens)[:, None, :, None]

    def reserve(self, capacity: int) -> None:
        """Make room for so many ids a row, if there is less."""
        if capacity > self.capacity:
            more = (*self.keys.shape[:3], capacity - self.capacity, self.keys.shape[4])
            self.keys = torch.cat([self.keys, self.keys.new_zeros(more)], dim=3)
            self.values = torch.cat([self.values, self.values.new_zeros(more)], dim=3)
            self.capacity = capacity

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order."""
        index = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys[:, index], self.values[:, index]
        self.lengths = [self.lengths[row] for row in rows]

    def join(self, other: Cache) -> None:
        """Take the rows of another cache in behind one's own; it must not be larger."""
        for name in ("keys", "values"):
            mine, theirs = getattr(self, name), getattr(other, name)
            wide = mine.new_zeros(*theirs.shape[:3], self.capacity, theirs.shape[-1])
            wide[:, :, :, : other.longest] = theirs[:, :, :, : other.longest]
            setattr(self, name, torch.cat([mine, wide], dim=1))
        self.lengths += other.lengths
