"""Batches of a preset: packed rows become training sequences with loss weights.

Every rank walks through the same rows, and reads only those that it trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from emu3.data.loader import PackedLoader
from emu3.data.packing import PackedRow, concat_documents
from emu3.data.token_roles import TEXT, VISION
from emu3.training.lm_loss import TrainingSequence
from emu3.training.presets import LossWeights, Preset


class LazyBatch(Sequence[TrainingSequence]):
    """Sequences that are read from disk when they are indexed; slicing reads nothing."""

    def __init__(self, readers: Sequence[Callable[[], TrainingSequence]]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return len(self.readers)

    @overload
    def __getitem__(self, at: int) -> TrainingSequence: ...
    @overload
    def __getitem__(self, at: slice) -> LazyBatch: ...
    def __getitem__(self, at: int | slice) -> TrainingSequence | LazyBatch:
        return LazyBatch(self.readers[at]) if isinstance(at, slice) else self.readers[at]()


class BatchLoader:
    """A `BatchFn` for `train_decoder`: the next `preset.batch_size` rows of a loader.

    `sov` is the token id that opens an image. The position is part of a checkpoint and does not
    depend on the number of processes.
    """

    def __init__(self, loader: PackedLoader, preset: Preset, sov: int, seed: int) -> None:
        self.loader, self.preset, self.sov, self.seed = loader, preset, sov, seed
        self.rows_drawn = 0

    def __call__(self, rng: np.random.Generator) -> LazyBatch:
        """The batch of the next step; it depends on the position, not on `rng`."""
        return LazyBatch([self._next_reader() for _ in range(self.preset.batch_size)])

    def _next_reader(self) -> Callable[[], TrainingSequence]:
        plan, number = self.loader.next_row(), self.rows_drawn
        self.rows_drawn += 1

        def read() -> TrainingSequence:
            row = self.loader.read_row(plan)
            if self.preset.caption_dropout:
                rng = np.random.default_rng((self.seed, number))
                row = drop_captions(row, self.preset.caption_dropout, self.sov, rng)
            return to_training_sequence(row, self.preset.loss_weights)

        return read

    def state_dict(self) -> dict[str, Any]:
        """The position, for a checkpoint."""
        return {"rows_drawn": self.rows_drawn, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position; raises InputError on the state of another loader."""
        self.loader.load_state_dict(state["loader"])
        self.rows_drawn = int(state["rows_drawn"])


def to_training_sequence(row: PackedRow, weights: LossWeights) -> TrainingSequence:
    """A packed row with a loss weight for each token id, by its role.

    The first token of each document has no context to be predicted from; its weight is 0.
    """
    chosen = torch.tensor(weights.by_role, dtype=torch.float32)[row.roles.long()]
    starts = torch.tensor([0, *row.lengths[:-1]]).cumsum(0)
    chosen[starts] = 0.0
    return TrainingSequence(row.ids, chosen, tuple(row.lengths))


def drop_captions(
    row: PackedRow, probability: float, sov: int, rng: np.random.Generator
) -> PackedRow:
    """Remove the captions of randomly chosen images, for classifier-free guidance.

    A document without its caption equals one with an empty caption: BOS, then the image. The row
    becomes shorter.
    """
    lengths = list(row.lengths)
    documents = zip(row.ids.split(lengths), row.roles.split(lengths), strict=True)
    return concat_documents(
        [
            _without_caption(*document, sov) if rng.random() < probability else document
            for document in documents
        ]
    )


def _without_caption(ids: Tensor, roles: Tensor, sov: int) -> tuple[Tensor, Tensor]:
    """An image generation document without its caption; any other document unchanged."""
    is_vision = roles == VISION
    if not is_vision.any() or not (is_vision | (roles == TEXT)).all():
        return ids, roles
    start = int((ids == sov).nonzero()[0])
    return torch.cat([ids[:1], ids[start:]]), torch.cat([roles[:1], roles[start:]])
