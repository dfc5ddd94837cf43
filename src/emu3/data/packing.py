"""Pack documents into rows of at most one context length. Images are never split.

Algorithm: a row starts with the span that has waited longest in the buffer, so none waits forever.
Then the longest span that fits is added until none fits (best fit). If more than 1/64 of the row is
still empty, the longest splittable span in the buffer is split to fill it, and its rest stays in
the buffer. That matters for images: the space one leaves is often too small for any other.

A text longer than a row is split. Consecutive spans overlap by one token id, because the first id
of a span is never a target. A document with an image that is longer than a row must be excluded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emu3.errors import InputError

BUFFER_SIZE = 512  # spans from which a row is chosen
MAX_EMPTY_FRACTION = 1 / 64  # of a row, before a text is split to fill it


@dataclass(frozen=True)
class PackedRow:
    """One row: token ids [L] int64, roles [L] uint8, and the lengths of the spans in it."""

    ids: Tensor
    roles: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class DocumentSpan:
    """Token ids `start` to `stop` of document number `document` of a source."""

    source: int
    document: int
    start: int
    stop: int
    keep_whole: bool = True  # must not be split to fill a row

    def __len__(self) -> int:
        return self.stop - self.start


RowPlan = tuple[DocumentSpan, ...]
"""The spans of a row, before their token ids are read."""

SortKey = tuple[int, int]
"""The length of a buffered span, and minus its serial number."""


def split_document(
    source: int, document: int, length: int, context: int, keep_whole: bool = False
) -> list[DocumentSpan]:
    """Split a document of `length` ids into spans of at most `context` ids.

    Every id but the first is a target in exactly one span. Raises InputError if the context is
    shorter than 2 ids, which would leave no target.
    """
    if context < 2:
        raise InputError(f"context length {context}: at least 2 ids are required")
    starts = range(0, max(1, length - 1), context - 1)
    return [
        DocumentSpan(source, document, start, min(start + context, length), keep_whole)
        for start in starts
    ]


def split_span(span: DocumentSpan, length: int) -> tuple[DocumentSpan, DocumentSpan]:
    """The first `length` ids of a longer span, and the rest, which overlaps them by one id."""
    end = span.start + length
    return replace(span, stop=end), replace(span, start=end - 1)


class Packer:
    """A buffer of spans from which rows are chosen, by their lengths alone."""

    def __init__(self, context: int) -> None:
        self.context = context
        self._added = 0
        self._spans: dict[int, DocumentSpan] = {}  # by serial number
        self._by_length: list[SortKey] = []  # of spans with equal length, the older comes last
        self._splittable: list[SortKey] = []  # the subset that may be split

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def buffer(self) -> list[DocumentSpan]:
        """The buffered spans, oldest first; adding them to a new packer restores this one."""
        return list(self._spans.values())

    def add(self, span: DocumentSpan) -> None:
        """Add a span to the buffer."""
        assert 0 < len(span) <= self.context
        self._spans[self._added] = span
        key = len(span), -self._added
        insort(self._by_length, key)
        if not span.keep_whole:
            insort(self._splittable, key)
        self._added += 1

    def next_row(self) -> RowPlan:
        """Remove the spans of the next row from the buffer, which must not be empty."""
        oldest = next(iter(self._spans))
        row = [self._remove((len(self._spans[oldest]), -oldest))]
        space = self.context - len(row[0])
        while fitting := bisect_right(self._by_length, (space, 1)):  # the number of spans that fit
            row.append(self._remove(self._by_length[fitting - 1]))
            space -= len(row[-1])
        if space >= max(2, self.context * MAX_EMPTY_FRACTION) and self._splittable:
            longest = self._remove(self._splittable[-1])  # does not fit, as no span does
            filling, rest = split_span(longest, space)
            row.append(filling)
            self.add(rest)
        return tuple(row)

    def _remove(self, key: SortKey) -> DocumentSpan:
        span = self._spans.pop(-key[1])
        del self._by_length[bisect_left(self._by_length, key)]
        if not span.keep_whole:
            del self._splittable[bisect_left(self._splittable, key)]
        return span


def pack_rows(
    spans: Iterable[DocumentSpan], context: int, buffer_size: int = BUFFER_SIZE
) -> Iterator[RowPlan]:
    """Pack all spans into rows; the last rows are chosen from what is left in the buffer."""
    packer = Packer(context)
    for span in spans:
        packer.add(span)
        if len(packer) >= buffer_size:
            yield packer.next_row()
    while len(packer):
        yield packer.next_row()


def packing_efficiency(rows: Sequence[RowPlan], context: int) -> float:
    """The fraction of the rows' positions that is filled."""
    return sum(len(span) for row in rows for span in row) / (context * len(rows))


def concat_documents(parts: Sequence[tuple[Tensor, Tensor]]) -> PackedRow:
    """Concatenate the ids and roles of spans to a row."""
    ids, roles = zip(*parts, strict=True)
    return PackedRow(torch.cat(ids), torch.cat(roles), tuple(len(part) for part in ids))
