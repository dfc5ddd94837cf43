"""Load packed rows from a mixture of token data sets, endlessly and resumably.

The spans of a row are chosen from document lengths and roles; token ids are read only when the row
is read. So every process of a distributed run can step through all rows and read only its own, and
the state of the loader does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from torch import Tensor

from emu3.data.dataset import TokenDataset
from emu3.data.mixture import Mixture
from emu3.data.packing import (
    BUFFER_SIZE,
    DocumentSpan,
    PackedRow,
    Packer,
    RowPlan,
    concat_documents,
    split_document,
)
from emu3.data.token_roles import TEXT, VISION
from emu3.errors import InputError


class PackedLoader:
    """Packed rows of at most `context` token ids from a mixture of data sets.

    Documents with an image or video that are longer than `context` are excluded; the weights apply
    to the others, and `num_excluded` counts them. Raises InputError if a data set has no usable
    document or a weight is not positive.
    """

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        weights: Sequence[float],
        context: int,
        seed: int,
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        if buffer_size < 1:
            raise InputError(f"buffer size {buffer_size}: at least 1 is required")
        if context < 2:
            raise InputError(f"context length {context}: at least 2 ids are required")
        self.datasets = list(datasets)
        self.context, self.buffer_size = context, buffer_size
        self._usable = [usable_documents(dataset, context) for dataset in datasets]
        for dataset, numbers in zip(datasets, self._usable, strict=True):
            if not len(numbers):
                raise InputError(
                    f"{dataset.folder}: none of its {len(dataset)} documents fits the context "
                    f"length {context}"
                )
        self.num_excluded = sum(map(len, datasets)) - sum(map(len, self._usable))
        self.mixture = Mixture([len(numbers) for numbers in self._usable], weights, seed)
        self.packer = Packer(context)

    def __iter__(self) -> Iterator[PackedRow]:
        while True:
            yield self.read_row(self.next_row())

    def next_row(self) -> RowPlan:
        """The spans of the next row. Reads no token ids."""
        while len(self.packer) < self.buffer_size:
            source, index = self.mixture.draw()
            number = int(self._usable[source][index])
            dataset = self.datasets[source]
            length = dataset.document_length(number)
            keep_whole = not dataset.has_only_role(number, TEXT)
            for span in split_document(source, number, length, self.context, keep_whole):
                self.packer.add(span)
        return self.packer.next_row()

    def read_row(self, row: RowPlan) -> PackedRow:
        """Read the token ids and roles of a row."""
        return concat_documents([self._read_span(span) for span in row])

    def state_dict(self) -> dict[str, Any]:
        """The state, as numbers and lists."""
        return {
            "mixture": self.mixture.state_dict(),
            "context": self.context,
            "buffer_size": self.buffer_size,
            "buffer": [list(astuple(span)) for span in self.packer.buffer],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises InputError if it belongs to a loader with other settings."""
        for name in ("context", "buffer_size"):
            if state[name] != getattr(self, name):
                raise InputError(
                    f"the state belongs to another loader: {name} {state[name]} instead of "
                    f"{getattr(self, name)}"
                )
        self.mixture.load_state_dict(state["mixture"])
        self.packer = Packer(self.context)
        for span in state["buffer"]:
            self.packer.add(DocumentSpan(*span))

    def _read_span(self, span: DocumentSpan) -> tuple[Tensor, Tensor]:
        document = self.datasets[span.source][span.document]
        return document.ids[span.start : span.stop], document.roles[span.start : span.stop]


def usable_documents(dataset: TokenDataset, context: int) -> Tensor:
    """The numbers [n] of documents that fit the context, or have no codes and can be split."""
    usable = dataset.lengths <= context
    for number in (~usable).nonzero().flatten().tolist():
        usable[number] = not (dataset[number].roles == VISION).any()
    return usable.nonzero().flatten()
