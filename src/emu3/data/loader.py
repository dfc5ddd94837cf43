"""Stores to packed rows, for as long as one likes, from any place on.

A row is decided by lengths, and by what is text alone, and read only when it is asked for. So every
process of a run can walk through all rows and read its own, and where it is does not depend on how
many there are.
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
    """Packed rows of a mixture of stores.

    `left_out` counts the documents whose picture does not fit `context`; the mixture is of the
    others. Raises InputError on stores with none and on bad weights.
    """

    def __init__(
        self,
        stores: Sequence[TokenDataset],
        weights: Sequence[float],
        context: int,
        seed: int,
        waiting: int = BUFFER_SIZE,
    ) -> None:
        if waiting < 1:
            raise InputError(f"{waiting} pieces waiting: at least 1")
        if context < 2:
            raise InputError(f"a context of {context}: at least 2 ids")
        self.stores = list(stores)
        self.context, self.waiting = context, waiting
        self._usable = [usable_documents(store, context) for store in stores]
        for store, numbers in zip(stores, self._usable, strict=True):
            if not len(numbers):
                raise InputError(
                    f"{store.folder}: none of {len(store)} documents fits a context of {context}"
                )
        self.num_excluded = sum(map(len, stores)) - sum(map(len, self._usable))
        self.mixture = Mixture([len(numbers) for numbers in self._usable], weights, seed)
        self.packer = Packer(context)

    def __iter__(self) -> Iterator[PackedRow]:
        while True:
            yield self.read_row(self.next_row())

    def next_row(self) -> RowPlan:
        """The next row, as the pieces that it is made of; nothing is read yet."""
        while len(self.packer) < self.waiting:
            source, place = self.mixture.draw()
            number = int(self._usable[source][place])
            store = self.stores[source]
            length, whole = store.document_length(number), not store.has_only_role(number, TEXT)
            for piece in split_document(source, number, length, self.context, whole):
                self.packer.add(piece)
        return self.packer.next_row()

    def read_row(self, row: RowPlan) -> PackedRow:
        """The ids and roles of a row."""
        return concat_documents([self._read(piece) for piece in row])

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, in plain numbers and lists."""
        return {
            "mixture": self.mixture.state_dict(),
            "context": self.context,
            "waiting": self.waiting,
            "pieces": [list(astuple(piece)) for piece in self.packer.waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state; raises InputError on one of another loader."""
        for name in ("context", "waiting"):
            if state[name] != getattr(self, name):
                raise InputError(
                    f"the state is of another loader: {name} {state[name]}, "
                    f"here {getattr(self, name)}"
                )
        self.mixture.load_state_dict(state["mixture"])
        self.packer = Packer(self.context)
        for piece in state["pieces"]:
            self.packer.add(DocumentSpan(*piece))

    def _read(self, piece: DocumentSpan) -> tuple[Tensor, Tensor]:
        document = self.stores[piece.source][piece.number]
        return document.ids[piece.start : piece.stop], document.roles[piece.start : piece.stop]


def usable_documents(store: TokenDataset, context: int) -> Tensor:
    """The numbers [n] of documents that fit a context or can be cut: those without a picture."""
    fits = store.lengths <= context
    for number in (~fits).nonzero().flatten().tolist():
        fits[number] = not (store[number].roles == VISION).any()
    return fits.nonzero().flatten()
