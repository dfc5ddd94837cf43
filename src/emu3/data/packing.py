"""Documents packed into rows of at most one context, best fit first, pictures never split.

A row begins with the piece that has waited longest, and then takes, as long as one fits, the
longest waiting piece that does. So nothing waits for ever, and the room left is small as long as
enough pieces wait. A text that is too long is cut into pieces; neighbours share an id, for the
first id of a part is never a target. A document with a picture is whole or left out.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emu3.errors import InputError

WAITING = 512  # pieces that a row is chosen from


@dataclass(frozen=True)
class Pack:
    """One row: ids [L] int64, roles [L] uint8, and the lengths of the documents in it."""

    ids: Tensor
    roles: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Ids `start` to `stop` of a document, which is named by its source and number."""

    source: int
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


Row = tuple[Piece, ...]


def cut(source: int, number: int, length: int, context: int) -> list[Piece]:
    """A document of so many ids as pieces of at most `context`; each id but the first is a target.

    Raises InputError on a context of less than two ids, which would teach nothing.
    """
    if context < 2:
        raise InputError(f"a context of {context}: at least 2 ids")
    starts = range(0, max(1, length - 1), context - 1)
    return [Piece(source, number, start, min(start + context, length)) for start in starts]


class Packer:
    """The pieces that wait, and rows made of them. Only lengths matter here."""

    def __init__(self, context: int) -> None:
        self.context = context
        self._added = 0
        self._pieces: dict[int, Piece] = {}  # by when they came
        self._sorted: list[tuple[int, int]] = []  # length and minus when; the older of equals last

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def waiting(self) -> list[Piece]:
        """The pieces in the order in which they came; adding them again gives the same packer."""
        return list(self._pieces.values())

    def add(self, piece: Piece) -> None:
        """One more that waits."""
        assert 0 < len(piece) <= self.context
        self._pieces[self._added] = piece
        insort(self._sorted, (len(piece), -self._added))
        self._added += 1

    def row(self) -> Row:
        """Take the pieces of the next row; there must be some."""
        oldest = next(iter(self._pieces))
        at = self._sorted.index((len(self._pieces[oldest]), -oldest))
        room, row = self.context, list[Piece]()
        while at >= 0:
            length, when = self._sorted.pop(at)
            row.append(self._pieces.pop(-when))
            room -= length
            at = bisect_right(self._sorted, (room, 1)) - 1  # the longest that fits; none: -1
        return tuple(row)


def pack_rows(pieces: Iterable[Piece], context: int, waiting: int = WAITING) -> Iterator[Row]:
    """All of some pieces as rows; the last ones are made of what is left."""
    packer = Packer(context)
    for piece in pieces:
        packer.add(piece)
        if len(packer) >= waiting:
            yield packer.row()
    while len(packer):
        yield packer.row()


def efficiency(rows: Sequence[Row], context: int) -> float:
    """The share of the rows' room that is filled."""
    return sum(len(piece) for row in rows for piece in row) / (context * len(rows))


def join(parts: Sequence[tuple[Tensor, Tensor]]) -> Pack:
    """Ids and roles of a row's pieces, end to end."""
    ids, roles = zip(*parts, strict=True)
    return Pack(torch.cat(ids), torch.cat(roles), tuple(len(part) for part in ids))
