"""The model runner: one KV cache, one forward pass per step for all running sequences.

Sequences join and leave between steps. Each is sampled with its own parameters and guidance scale,
and its ids are those it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.inference.prefill import prefill
from emu3.inference.sampling import SamplingTensors, apply_cfg_batched
from emu3.inference.sequences import (
    MAX_DRAFT,
    DecodingSequence,
    TextSequence,
    VisualSequence,
)
from emu3.inference.speculative import draft_length_for
from emu3.models.kv_cache import KVCache, compaction_order
from emu3.models.transformer import Transformer
from emu3.processing.vocabulary import Vocabulary

MAX_LENGTH_RATIO = 1.25  # longest to shortest of the prompts that are prefilled together


class ModelRunner:
    """Runs the decoder on a changing set of sequences.

    `draft_length` fixes how many codes of a visual sequence are sampled per step; None takes as
    many as fill the pass.
    """

    def __init__(
        self, model: Transformer, vocabulary: Vocabulary, draft_length: int | None = None
    ) -> None:
        self.model, self.vocabulary, self.draft_length = model, vocabulary, draft_length
        self.sequences: list[DecodingSequence] = []
        self._cache: KVCache | None = None
        self._capacity = 0
        self._cached_prefix: tuple[list[int], KVCache] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the KV cache in use."""
        return sum(len(sequence.prompts) for sequence in self.sequences)

    @torch.inference_mode()
    def add(self, sequences: Sequence[DecodingSequence]) -> None:
        """Prefill sequences and let them take part in the next step.

        Prompts are prefilled together if the longest is at most `MAX_LENGTH_RATIO` times the
        shortest. A conversation reuses the cached prefix of its last turn.
        """
        self._capacity = max([self._capacity, *map(self._row_capacity, sequences)])
        alone = [each for each in sequences if isinstance(each, TextSequence) and each.keep_cache]
        for text in alone:
            self._append(self._prefill_with_cached_prefix(text), [text])
        group: list[DecodingSequence] = []
        for each in sorted((s for s in sequences if s not in alone), key=_prefill_length):
            if group and _prefill_length(each) > MAX_LENGTH_RATIO * _prefill_length(group[0]):
                self._prefill(group)
                group = []
            group.append(each)
        if group:
            self._prefill(group)

    def _prefill(self, sequences: Sequence[DecodingSequence]) -> None:
        prompts = [each.prefill_ids(row) for each in sequences for row in range(len(each.prompts))]
        new_tokens = self._capacity - max(map(len, prompts))
        self._append(prefill(self.model, prompts, new_tokens)[1], sequences)

    def _row_capacity(self, sequence: DecodingSequence) -> int:
        """KV-cache tokens of a row, more than reserved only for drafts above `MAX_DRAFT` codes."""
        return sequence.kv_tokens_per_row + 3 * max(0, (self.draft_length or 0) - MAX_DRAFT)

    def _append(self, fresh: KVCache, sequences: Sequence[DecodingSequence]) -> None:
        if self._cache is None:
            self._cache = fresh
        else:
            self._cache.reserve(self._capacity)
            self._cache.append_rows(fresh)
        self.sequences += sequences

    def _prefill_with_cached_prefix(self, text: TextSequence) -> KVCache:
        """Read a prompt after the prefix that it shares with the last saved sequence.

        One sequence is saved; it serves the next `keep_cache` request only.
        """
        ids = text.prefill_ids(0)
        cache, shared = None, 0
        if self._cached_prefix is not None:
            (before, cache), self._cached_prefix = self._cached_prefix, None
            while shared < min(len(before), len(ids)) and before[shared] == ids[shared]:
                shared += 1
            cache.truncate([shared])
        if shared == len(ids) and cache is not None:
            cache.reserve(self._capacity)
            return cache
        return prefill(self.model, [ids[shared:]], self._capacity - len(ids), cache)[1]

    @torch.inference_mode()
    def remove(self, sequence: DecodingSequence) -> None:
        """Let a sequence leave; its rows become free."""
        place = self.sequences.index(sequence)
        first = list(accumulate((len(each.prompts) for each in self.sequences), initial=0))
        if isinstance(sequence, TextSequence) and sequence.keep_cache:
            self._save(sequence, first[place])
        order = compaction_order(len(self.sequences), [place])
        rows = [first[at] + row for at in order for row in range(len(self.sequences[at].prompts))]
        self.sequences = [self.sequences[at] for at in order]
        if not rows:
            self._cache, self._capacity = None, 0
        elif self._cache is not None:
            self._cache.select_rows(rows)

    def _save(self, text: TextSequence, row: int) -> None:
        assert self._cache is not None
        ids = [*text.prompts[0], *text.ids][: self._cache.lengths[row]]
        self._cached_prefix = ids, self._cache.copy_row(row)

    def clear(self) -> None:
        """Remove all sequences, after a failure that may have left the KV cache in any state."""
        self.sequences, self._cache, self._capacity, self._cached_prefix = [], None, 0, None

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass: read the draft of every sequence, sample, and accept."""
        cache = self._cache
        assert cache is not None
        length = self.draft_length or draft_length_for(self.model, self.num_rows)
        samples = [sequence.begin_step(length) for sequence in self.sequences]
        ids, positions, starts = list[Tensor](), list[list[int]](), iter(cache.lengths)
        for sequence in self.sequences:
            for row in range(len(sequence.prompts)):
                start = next(starts)
                ids.append(sequence.input_ids(row, start))
                positions.append(sequence.sample_positions(row, start))
        hidden = self._forward(ids, positions, cache)
        sampled = self._sample(hidden, max(samples))
        for sequence, new, count in zip(self.sequences, sampled, samples, strict=True):
            sequence.accept(new[:count])
        cache.truncate(
            [each.cached_tokens(row) for each in self.sequences for row in range(len(each.prompts))]
        )

    def _forward(self, ids: list[Tensor], positions: list[list[int]], cache: KVCache) -> Tensor:
        """Hidden states [rows, samples, hidden] at the positions of each row's ids."""
        device, widest = self.model.device, max(map(len, positions))
        hidden = self.model.forward_hidden(pad_sequence(ids, batch_first=True).to(device), cache)
        padded = [[*row, *row[-1:] * (widest - len(row))] for row in positions]
        at = torch.tensor(padded, device=device)
        return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))

    def _sample(self, hidden: Tensor, width: int) -> list[list[int]]:
        """The ids [width] of each sequence: visual codes, or text ids of which the first counts."""
        first = list(accumulate((len(each.prompts) for each in self.sequences), initial=0))
        kinds = [isinstance(each, VisualSequence) for each in self.sequences]
        out: list[list[int]] = [[] for _ in self.sequences]
        for visual in (True, False):
            places = [place for place, kind in enumerate(kinds) if kind is visual]
            if places:
                chosen = self._sample_kind(hidden, places, [first[p] for p in places], visual)
                for place, new in zip(places, chosen.tolist(), strict=True):
                    out[place] = new
        return out

    def _sample_kind(
        self, hidden: Tensor, places: Sequence[int], rows: Sequence[int], visual: bool
    ) -> Tensor:
        """Sample for the visual or for the text sequences: [sequences, samples]."""
        sequences = [self.sequences[place] for place in places]
        params = SamplingTensors([each.sampling for each in sequences], hidden.device)
        if visual:
            logits = self._guided_logits(hidden, sequences, rows)
        else:
            logits = self.model.compute_logits(hidden[list(rows), :1])
        noise = [each.noise(logits.shape[-1]) for each in sequences]
        padded = pad_sequence(noise, batch_first=True).to(logits.device)
        return params.sample(logits[:, : padded.shape[1]], padded)

    def _guided_logits(
        self, hidden: Tensor, sequences: Sequence[DecodingSequence], rows: Sequence[int]
    ) -> Tensor:
        """Logits [sequences, samples, codes] with guidance mixed in."""
        device = hidden.device
        pairs = [
            (row, row + len(each.prompts) - 1) for row, each in zip(rows, sequences, strict=True)
        ]
        flat = sorted({row for pair in pairs for row in pair})
        if len(flat) < len(hidden):  # texts share the pass: leave out their rows
            hidden = hidden[flat]
        index = {row: place for place, row in enumerate(flat)}
        conditional = torch.tensor([index[a] for a, _ in pairs], device=device)
        unconditional = torch.tensor([index[b] for _, b in pairs], device=device)
        scale = torch.tensor([_scale(each) for each in sequences], device=device)
        logits = self.model.compute_logits(hidden, self.vocabulary.visual)
        return apply_cfg_batched(logits, conditional, unconditional, scale)

    def run(
        self,
        sequences: Sequence[DecodingSequence],
        on_step: Callable[[Sequence[DecodingSequence]], None] | None = None,
    ) -> None:
        """Decode sequences to their ends, all at once. The engine schedules; this does not."""
        self.add([each for each in sequences if not each.done])
        while self.sequences:
            self.step()
            if on_step is not None:
                on_step(self.sequences)
            for each in [each for each in self.sequences if each.done]:
                self.remove(each)


def _prefill_length(sequence: DecodingSequence) -> int:
    """Ids of the longest row that are read before the first step."""
    return max(len(sequence.prefill_ids(row)) for row in range(len(sequence.prompts)))


def _scale(sequence: DecodingSequence) -> float:
    return sequence.guidance_scale if isinstance(sequence, VisualSequence) else 1.0
