"""Documents packed into rows of at most one context, best fit first, pictures never split.

A row begins with the piece that has waited longest, and then takes, as long as one fits, the
longest waiting piece that does. So nothing waits for ever. Where much room is left, for pictures
leave some that no other picture fits, the longest waiting text is cut to fill it and the rest of it
waits on. A text that is longer than a row is cut too. Neighbours share an id, for the first id of a
part is never a target. A document with a picture is whole or left out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emu3.errors import InputError

BUFFER_SIZE = 512  # pieces that a row is chosen from
MIN_FILL_DIVISOR = 64  # a text is cut rather than one part in so many of a row left empty


@dataclass(frozen=True)
class PackedRow:
    """One row: ids [L] int64, roles [L] uint8, and the lengths of the documents in it."""

    ids: Tensor
    roles: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class DocumentSpan:
    """Ids `start` to `stop` of a document, which is named by its source and number."""

    source: int
    number: int
    start: int
    stop: int
    whole: bool = True  # not to be cut to fill a row

    def __len__(self) -> int:
        return self.stop - self.start


RowPlan = tuple[DocumentSpan, ...]
SortKey = tuple[int, int]
"""A piece that waits, by its length and minus when it came."""


def split_document(
    source: int, number: int, length: int, context: int, whole: bool = False
) -> list[DocumentSpan]:
    """A text of so many ids as pieces of at most `context`; each id but the first is a target.

    They may be cut further, unless they are to stay `whole`. Raises InputError on a context of less
    than two ids, which would teach nothing.
    """
    if context < 2:
        raise InputError(f"a context of {context}: at least 2 ids")
    starts = range(0, max(1, length - 1), context - 1)
    return [
        DocumentSpan(source, number, start, min(start + context, length), whole) for start in starts
    ]


def split_span(piece: DocumentSpan, length: int) -> tuple[DocumentSpan, DocumentSpan]:
    """The first so many ids of a longer piece, and the others behind the last of these."""
    end = piece.start + length
    return replace(piece, stop=end), replace(piece, start=end - 1)


class Packer:
    """The pieces that wait, and rows made of them. Only lengths matter here."""

    def __init__(self, context: int) -> None:
        self.context = context
        self._added = 0
        self._pieces: dict[int, DocumentSpan] = {}  # by when they came
        self._sorted: list[SortKey] = []  # the older of equals last
        self._texts: list[SortKey] = []  # those of them that may be cut

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def waiting(self) -> list[DocumentSpan]:
        """The pieces in the order in which they came; adding them again gives the same packer."""
        return list(self._pieces.values())

    def add(self, piece: DocumentSpan) -> None:
        """One more that waits."""
        assert 0 < len(piece) <= self.context
        self._pieces[self._added] = piece
        place = len(piece), -self._added
        insort(self._sorted, place)
        if not piece.whole:
            insort(self._texts, place)
        self._added += 1

    def next_row(self) -> RowPlan:
        """Take the pieces of the next row; there must be some."""
        oldest = next(iter(self._pieces))
        row = [self._take((len(self._pieces[oldest]), -oldest))]
        room = self.context - len(row[0])
        while at := bisect_right(self._sorted, (room, 1)):  # how many fit; the last is the longest
            row.append(self._take(self._sorted[at - 1]))
            room -= len(row[-1])
        if room >= max(2, self.context / MIN_FILL_DIVISOR) and self._texts:
            longest = self._take(self._texts[-1])  # longer than the room, or it would be in it
            filling, rest = split_span(longest, room)
            row.append(filling)
            self.add(rest)
        return tuple(row)

    def _take(self, place: SortKey) -> DocumentSpan:
        """Let a piece wait no longer."""
        piece = self._pieces.pop(-place[1])
        del self._sorted[bisect_left(self._sorted, place)]
        if not piece.whole:
            del self._texts[bisect_left(self._texts, place)]
        return piece


def pack_rows(
    pieces: Iterable[DocumentSpan], context: int, waiting: int = BUFFER_SIZE
) -> Iterator[RowPlan]:
    """All of some pieces as rows; the last ones are made of what is left."""
    packer = Packer(context)
    for piece in pieces:
        packer.add(piece)
        if len(packer) >= waiting:
            yield packer.next_row()
    while len(packer):
        yield packer.next_row()


def efficiency(rows: Sequence[RowPlan], context: int) -> float:
    """The share of the rows' room that is filled."""
    return sum(len(piece) for row in rows for piece in row) / (context * len(rows))


def concat_documents(parts: Sequence[tuple[Tensor, Tensor]]) -> PackedRow:
    """Ids and roles of a row's pieces, end to end."""
    ids, roles = zip(*parts, strict=True)
    return PackedRow(torch.cat(ids), torch.cat(roles), tuple(len(part) for part in ids))
