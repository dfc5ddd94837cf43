"""The rows of a step: which they are is drawn by every process, each reads those it learns from."""

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
from emu3.training.presets import Preset, sequence_from_pack


class LazyBatch(Sequence[TrainingSequence]):
    """Documents by the functions that read them. A slice reads nothing, an item reads itself."""

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
    """What `train_decoder` asks for documents: `stage.batch` rows of a loader, weighed by a stage.

    `sov` is the id that opens a picture. The position is part of a checkpoint, and does not depend
    on the number of processes.
    """

    def __init__(self, loader: PackedLoader, stage: Preset, sov: int, seed: int) -> None:
        self.loader, self.stage, self.sov, self.seed = loader, stage, sov, seed
        self.drawn = 0  # rows

    def __call__(self, rng: np.random.Generator) -> LazyBatch:
        """The rows of the next step. They follow from the position, not from `rng`."""
        return LazyBatch([self._next() for _ in range(self.stage.batch_size)])

    def _next(self) -> Callable[[], TrainingSequence]:
        row, number = self.loader.next_row(), self.drawn
        self.drawn += 1

        def read() -> TrainingSequence:
            pack = self.loader.read_row(row)
            if self.stage.caption_dropout:
                rng = np.random.default_rng((self.seed, number))
                pack = drop_captions(pack, self.stage.caption_dropout, self.sov, rng)
            return sequence_from_pack(pack, self.stage.loss_weights)

        return read

    def state_dict(self) -> dict[str, Any]:
        """Where the rows are, in plain numbers and lists."""
        return {"drawn": self.drawn, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state; raises InputError on one of another loader."""
        self.loader.load_state_dict(state["loader"])
        self.drawn = int(state["drawn"])


def drop_captions(pack: PackedRow, share: float, sov: int, rng: np.random.Generator) -> PackedRow:
    """Leave out the captions of a share of the drawn pictures, for guidance; the row gets shorter.

    A document without its caption is what an empty caption gives: BOS, then the picture.
    """
    lengths = list(pack.lengths)
    parts = zip(pack.ids.split(lengths), pack.roles.split(lengths), strict=True)
    return concat_documents([_bare(*part, sov) if rng.random() < share else part for part in parts])


def _bare(ids: Tensor, roles: Tensor, sov: int) -> tuple[Tensor, Tensor]:
    """A document that draws a picture, without its caption; any other as it is."""
    drawn = (roles == VISION).any() and ((roles == VISION) | (roles == TEXT)).all()
    if not drawn:
        return ids, roles
    opens = int((ids == sov).nonzero()[0])
    return torch.cat([ids[:1], ids[opens:]]), torch.cat([roles[:1], roles[opens:]])
