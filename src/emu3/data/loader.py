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
from emu3.data.packing import WAITING, Pack, Packer, Piece, Row, cut, join
from emu3.data.token_roles import TEXT, VISION
from emu3.errors import InputError


class Loader:
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
        waiting: int = WAITING,
    ) -> None:
        if waiting < 1:
            raise InputError(f"{waiting} pieces waiting: at least 1")
        if context < 2:
            raise InputError(f"a context of {context}: at least 2 ids")
        self.stores = list(stores)
        self.context, self.waiting = context, waiting
        self._usable = [usable(store, context) for store in stores]
        for store, numbers in zip(stores, self._usable, strict=True):
            if not len(numbers):
                raise InputError(
                    f"{store.folder}: none of {len(store)} documents fits a context of {context}"
                )
        self.left_out = sum(map(len, stores)) - sum(map(len, self._usable))
        self.mixture = Mixture([len(numbers) for numbers in self._usable], weights, seed)
        self.packer = Packer(context)

    def __iter__(self) -> Iterator[Pack]:
        while True:
            yield self.read(self.draw())

    def draw(self) -> Row:
        """The next row, as the pieces that it is made of; nothing is read yet."""
        while len(self.packer) < self.waiting:
            source, place = self.mixture.draw()
            number = int(self._usable[source][place])
            store = self.stores[source]
            length, whole = store.length(number), not store.only(number, TEXT)
            for piece in cut(source, number, length, self.context, whole):
                self.packer.add(piece)
        return self.packer.row()

    def read(self, row: Row) -> Pack:
        """The ids and roles of a row."""
        return join([self._read(piece) for piece in row])

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
            self.packer.add(Piece(*piece))

    def _read(self, piece: Piece) -> tuple[Tensor, Tensor]:
        document = self.stores[piece.source][piece.number]
        return document.ids[piece.start : piece.stop], document.roles[piece.start : piece.stop]


def usable(store: TokenDataset, context: int) -> Tensor:
    """The numbers [n] of documents that fit a context or can be cut: those without a picture."""
    fits = store.lengths <= context
    for number in (~fits).nonzero().flatten().tolist():
        fits[number] = not (store[number].roles == VISION).any()
    return fits.nonzero().flatten()
