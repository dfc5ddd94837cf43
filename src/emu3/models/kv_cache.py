"""Keys and values of what the decoder has already read.

The length of everything Emu3 writes is known before it starts, so a cache is allocated once, at
its exact size. Each row has a length of its own, and an id's place in its row is its position:
prompts of any lengths share a batch without padding between them and what follows. A pass may
write more than is kept (the ends of shorter prompts, guesses that turn out wrong): `rewind` says
what counts, and the rest is never seen and written over later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from emu3.config import DecoderConfig

Index = tuple[Tensor, slice, Tensor]
"""Rows [B, 1], all heads, and places [B, L]."""


class KVStore(Protocol):
    """All that attention asks of a cache; others than ours may answer."""

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take [B, kv heads, L, head dim]; give back all that the new tokens may attend to."""


class KVCache:
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
        self._hold(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
        self.capacity, self.lengths = capacity, [0] * rows
        self._places: tuple[tuple[int, list[int]], Index] | None = None

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        """Take tensors of which every row is in use."""
        self._all_keys, self._all_values = self.keys, self.values = keys, values

    def _use(self, rows: int) -> None:
        """Go on with the first rows of what is held; the rest are spare."""
        self.keys, self.values = self._all_keys[:, :rows], self._all_values[:, :rows]

    @property
    def max_length(self) -> int:
        """Places filled in the fullest row."""
        return max(self.lengths)

    @property
    def uniform_length(self) -> bool:
        """Whether all rows are equally full."""
        return min(self.lengths) == self.max_length

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, kv heads, L, head dim] behind each row's ids; returns what is filled by now.

        `lengths` move on in `advance`, once all layers have stored.
        """
        tokens = keys.shape[2]
        end = self.max_length + tokens
        if end > self.capacity:
            raise ValueError(f"cache holds {self.capacity} tokens, {end} are needed")
        mine, theirs = self.keys[layer], self.values[layer]
        if self.uniform_length:
            mine[:, :, end - tokens : end], theirs[:, :, end - tokens : end] = keys, values
        else:
            at = self._behind(tokens)
            mine[at], theirs[at] = keys.transpose(1, 2), values.transpose(1, 2)
        return mine[:, :, :end], theirs[:, :, :end]

    def _behind(self, tokens: int) -> Index:
        """Where the next `tokens` of each row are written: made once a pass, not once a layer."""
        key = (tokens, list(self.lengths))
        if self._places is None or self._places[0] != key:
            rows = torch.arange(len(self.lengths), device=self.keys.device)[:, None]
            self._places = key, (rows, slice(None), self.positions(tokens))
        return self._places[1]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more places of each row as filled."""
        self.lengths = [length + tokens for length in self.lengths]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what lies behind these lengths, one for each row."""
        self.lengths = list(lengths)

    def positions(self, tokens: int) -> Tensor:
        """Positions of the next `tokens` tokens of each row: [B or 1, tokens]."""
        starts = self.lengths[:1] if self.uniform_length else self.lengths
        new = torch.arange(tokens, device=self.keys.device)
        return torch.tensor(starts, device=self.keys.device)[:, None] + new

    def mask(self, tokens: int) -> Tensor | None:
        """Who sees whom, bool [B or 1, 1, tokens, places]; None where attention needs no telling.

        That is a lone token of even rows, which sees all, and a first pass, which is causal.
        """
        if self.uniform_length and (tokens == 1 or self.max_length == 0):
            return None
        places = torch.arange(self.max_length + tokens, device=self.keys.device)
        return places <= self.positions(tokens)[:, None, :, None]

    def reserve(self, capacity: int) -> None:
        """Make room for so many ids a row, if there is less."""
        if capacity > self.capacity:
            more = (*self.keys.shape[:3], capacity - self.capacity, self.keys.shape[4])
            wider = (torch.cat([x, x.new_zeros(more)], dim=3) for x in (self.keys, self.values))
            self._hold(*wider)
            self.capacity = capacity

    def select_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order.

        Where those that move come from behind the last place that is kept (`compaction_order`), only
        they are copied; what is left over is spare for `append_rows`, half of all at most.
        """
        moved = [(to, row) for to, row in enumerate(rows) if to != row]
        if all(row >= len(rows) for _, row in moved) and 2 * len(rows) > self._all_keys.shape[1]:
            for to, row in moved:
                self.keys[:, to], self.values[:, to] = self.keys[:, row], self.values[:, row]
            self._use(len(rows))
        else:
            index = torch.tensor(rows, device=self.keys.device)
            self._hold(self.keys[:, index], self.values[:, index])
        self.lengths = [self.lengths[row] for row in rows]

    def copy_row(self, row: int) -> KVCache:
        """A cache of its own with the tokens of one row, and no room for more."""
        length = self.lengths[row]
        copy = KVCache.__new__(KVCache)
        part = (slice(None), slice(row, row + 1), slice(None), slice(0, length))
        copy._hold(self.keys[part].clone(), self.values[part].clone())
        copy.capacity, copy.lengths, copy._places = length, [length], None
        return copy

    def append_rows(self, other: KVCache) -> None:
        """Take the rows of another cache in behind one's own; it must not be larger."""
        mine, filled = len(self.lengths), other.max_length
        both = mine + len(other.lengths)
        if both > self._all_keys.shape[1]:
            more = (self.keys.shape[0], both - mine, *self.keys.shape[2:])
            longer = (torch.cat([x, x.new_zeros(more)], dim=1) for x in (self.keys, self.values))
            self._hold(*longer)
        self._use(both)
        for to, new in ((self.keys, other.keys), (self.values, other.values)):
            to[:, mine:, :, :filled] = new[:, :, :, :filled]
            to[:, mine:, :, filled:] = 0  # whoever had the row before may have left NaN there
        self.lengths += other.lengths


def compaction_order(rows: int, gone: Collection[int]) -> list[int]:
    """The rows that stay, each in its place, but that the last ones fill the gaps."""
    kept = rows - len(gone)
    last = [row for row in range(kept, rows) if row not in gone]
    return [last.pop() if row in gone else row for row in range(kept)]
