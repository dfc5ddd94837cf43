"""KV cache: keys and values of the tokens that the decoder has read.

The length of an image or video is known before it starts, so the cache is allocated once. Each row
has a length of its own, and a token's index in its row is its position: prompts of any lengths
share a batch without padding between prompt and output. A forward pass may write more tokens than
are kept (padding of shorter prompts, rejected drafts): `truncate` drops them, the mask hides them,
and later tokens overwrite them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from emu3.config import DecoderConfig

Index = tuple[Tensor, slice, Tensor]
"""Index of rows [B, 1], all heads, and positions [B, L]."""


class KVStore(Protocol):
    """What attention needs of a KV cache; `hf.causal_lm` adapts the one of transformers to it."""

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, kv heads, L, head dim]; return all that may be attended to."""


class KVCache:
    """Keys and values [layers, B, kv heads, capacity, head dim]; row b has `lengths[b]` tokens."""

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
        # Zeros rather than uninitialised memory: a mask cannot hide NaN, since 0 * NaN is NaN.
        self._hold(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
        self.capacity, self.lengths = capacity, [0] * rows
        self._index: tuple[tuple[int, list[int]], Index] | None = None

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        """Adopt tensors of which every row is in use."""
        self._all_keys, self._all_values = self.keys, self.values = keys, values

    def _use(self, rows: int) -> None:
        """Use the first `rows` rows; the rest are spare."""
        self.keys, self.values = self._all_keys[:, :rows], self._all_values[:, :rows]

    @property
    def max_length(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths)

    @property
    def uniform_length(self) -> bool:
        """Whether all rows have the same length."""
        return min(self.lengths) == self.max_length

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, kv heads, L, head dim] after each row; returns the filled part.

        `advance` updates `lengths` once all layers have stored. Raises ValueError beyond the
        capacity.
        """
        tokens = keys.shape[2]
        end = self.max_length + tokens
        if end > self.capacity:
            raise ValueError(f"the KV cache holds {self.capacity} tokens per row, {end} are needed")
        all_keys, all_values = self.keys[layer], self.values[layer]
        if self.uniform_length:
            new = slice(end - tokens, end)
            all_keys[:, :, new], all_values[:, :, new] = keys, values
        else:
            at = self._write_index(tokens)
            all_keys[at], all_values[at] = keys.transpose(1, 2), values.transpose(1, 2)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def _write_index(self, tokens: int) -> Index:
        """Where the next `tokens` of each row are written; built once per pass, not per layer."""
        key = (tokens, list(self.lengths))
        if self._index is None or self._index[0] != key:
            rows = torch.arange(len(self.lengths), device=self.keys.device)[:, None]
            self._index = key, (rows, slice(None), self.positions(tokens))
        return self._index[1]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more tokens in each row."""
        self.lengths = [length + tokens for length in self.lengths]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Drop the tokens after these lengths, one length per row."""
        self.lengths = list(lengths)

    def positions(self, tokens: int) -> Tensor:
        """Positions of the next `tokens` tokens of each row: [B or 1, tokens]."""
        starts = self.lengths[:1] if self.uniform_length else self.lengths
        new = torch.arange(tokens, device=self.keys.device)
        return torch.tensor(starts, device=self.keys.device)[:, None] + new

    def mask(self, tokens: int) -> Tensor | None:
        """Attention mask, bool [B or 1, 1, tokens, positions]; None if causal masking suffices.

        That is one token of rows of equal length, which attends to all, and a first pass.
        """
        if self.uniform_length and (tokens == 1 or self.max_length == 0):
            return None
        places = torch.arange(self.max_length + tokens, device=self.keys.device)
        return places <= self.positions(tokens)[:, None, :, None]

    def reserve(self, capacity: int) -> None:
        """Grow to `capacity` tokens per row if there is less."""
        if capacity > self.capacity:
            more = (*self.keys.shape[:3], capacity - self.capacity, self.keys.shape[4])
            wider = (torch.cat([x, x.new_zeros(more)], dim=3) for x in (self.keys, self.values))
            self._hold(*wider)
            self.capacity = capacity

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep some of the rows, in this order.

        If all rows that move come from after the last kept one (`compaction_order`), only they
        are copied and the rest stays as spare rows for `append_rows`, at most half of all.
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
        """A new cache with the tokens of one row and no capacity for more."""
        length = self.lengths[row]
        copy = KVCache.__new__(KVCache)
        part = (slice(None), slice(row, row + 1), slice(None), slice(0, length))
        copy._hold(self.keys[part].clone(), self.values[part].clone())
        copy.capacity, copy.lengths, copy._index = length, [length], None
        return copy

    def append_rows(self, other: KVCache) -> None:
        """Append the rows of another cache, whose capacity must not be larger."""
        own, filled = len(self.lengths), other.max_length
        both = own + len(other.lengths)
        if both > self._all_keys.shape[1]:
            more = (self.keys.shape[0], both - own, *self.keys.shape[2:])
            longer = (torch.cat([x, x.new_zeros(more)], dim=1) for x in (self.keys, self.values))
            self._hold(*longer)
        self._use(both)
        for to, new in ((self.keys, other.keys), (self.values, other.values)):
            to[:, own:, :, :filled] = new[:, :, :, :filled]
            to[:, own:, :, filled:] = 0  # the row may hold NaN of an earlier sequence
        self.lengths += other.lengths


def compaction_order(rows: int, gone: Collection[int]) -> list[int]:
    """The rows that stay, in place, except that the last ones move into the gaps."""
    kept = rows - len(gone)
    last = [row for row in range(kept, rows) if row not in gone]
    return [last.pop() if row in gone else row for row in range(kept)]
