"""Rows hold every piece once, and are nearly full."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch

from emu3.data.packing import (
    DocumentSpan,
    Packer,
    concat_documents,
    efficiency,
    pack_rows,
    split_document,
)
from emu3.errors import InputError

CONTEXT = 5120  # of the paper's first stage


def realistic(count: int, seed: int = 0) -> list[DocumentSpan]:
    """Pictures of many sizes with captions, questions about small ones, and texts of any length."""
    random = np.random.default_rng(seed)
    pieces: list[DocumentSpan] = []
    for number in range(count):
        kind = random.choice(3, p=[0.3, 0.2, 0.5])
        if kind == 2:
            length = int(random.lognormal(6, 1.2)) + 3
            pieces += split_document(0, number, length, CONTEXT)
        else:
            height, width = random.integers(*((40, 70) if kind == 0 else (16, 40)), 2)
            length = min(CONTEXT, int(height * (width + 1) + 7 + random.integers(10, 150)))
            pieces.append(DocumentSpan(kind + 1, number, 0, length))
    return pieces


def large(count: int, seed: int = 0) -> list[DocumentSpan]:
    """Pictures of which no two fit a row, and texts: the paper's first stage."""
    random = np.random.default_rng(seed)
    texts = [
        split_document(0, n, int(random.lognormal(6.4, 1.2)) + 3, CONTEXT) for n in range(count)
    ]
    pictures = [DocumentSpan(1, n, 0, 4200 + int(random.integers(30, 150))) for n in range(count)]
    return [piece for text, shown in zip(texts, pictures, strict=True) for piece in (*text, shown)]


def learned(pieces: Iterable[DocumentSpan]) -> list[tuple[int, int, int, int]]:
    """Source, number and the ids of every document, once its pieces are put together again."""
    together = list[tuple[int, int, int, int]]()
    for piece in sorted(pieces, key=lambda each: (each.source, each.number, each.start)):
        start = piece.start
        if together and together[-1] == (piece.source, piece.number, together[-1][2], start + 1):
            start = together.pop()[2]
        together.append((piece.source, piece.number, start, piece.stop))
    return together


@pytest.mark.parametrize("mixture", [realistic, large])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_full_to_97_percent(
    seed: int, mixture: Callable[[int, int], list[DocumentSpan]]
) -> None:
    pieces = mixture(4000, seed)
    rows = list(pack_rows(pieces, CONTEXT))
    assert efficiency(rows, CONTEXT) >= 0.97
    assert learned(pieces) == learned(piece for row in rows for piece in row)
    assert all(sum(map(len, row)) <= CONTEXT for row in rows)
    alone = [(piece,) for piece in pieces]
    assert efficiency(alone, CONTEXT) < 0.6  # the mixture is not full of itself


def test_the_longest_text_is_cut_where_much_is_left() -> None:
    packer = Packer(100)
    for number, (length, whole) in enumerate([(80, True), (30, True), (25, False), (60, False)]):
        packer.add(DocumentSpan(0, number, 0, length, whole))
    row = packer.next_row()
    assert row == (DocumentSpan(0, 0, 0, 80), DocumentSpan(0, 3, 0, 20, False))
    assert packer.waiting == [
        DocumentSpan(0, 1, 0, 30),
        DocumentSpan(0, 2, 0, 25, False),
        DocumentSpan(0, 3, 19, 60, False),  # the id before is read again
    ]
    assert packer.next_row() == (
        DocumentSpan(0, 1, 0, 30),
        DocumentSpan(0, 3, 19, 60, False),
        DocumentSpan(0, 2, 0, 25, False),
    )


def test_no_text_is_cut_for_a_little() -> None:
    packer = Packer(6400)
    for number, length in enumerate([6301, 200]):
        packer.add(DocumentSpan(0, number, 0, length, whole=False))
    assert [len(piece) for piece in packer.next_row()] == [6301]
    packer.add(DocumentSpan(0, 2, 0, 6300))
    assert [len(piece) for piece in packer.next_row()] == [200]


def test_nothing_waits_for_ever() -> None:
    packer = Packer(10)
    odd = DocumentSpan(0, 0, 0, 7)  # pairs of fives fill a row better
    packer.add(odd)
    for number in range(1, 5):
        packer.add(DocumentSpan(0, number, 0, 5))
    assert odd in packer.next_row()


def test_the_longest_that_fits_is_taken() -> None:
    packer = Packer(10)
    for number, length in enumerate([6, 2, 4, 3, 4, 9]):
        packer.add(DocumentSpan(0, number, 0, length))
    assert [piece.number for piece in packer.next_row()] == [0, 2]  # 6 and the older 4
    assert [piece.number for piece in packer.next_row()] == [1, 4, 3]  # 2, 4, 3
    assert [piece.number for piece in packer.next_row()] == [5]
    assert not len(packer)


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize("context", [2, 3, 7, 10, 29])
def test_cut_texts_have_every_id_but_the_first_as_target_once(length: int, context: int) -> None:
    pieces = split_document(0, 0, length, context)
    assert all(len(piece) <= context for piece in pieces)
    targets = [at for piece in pieces for at in range(piece.start + 1, piece.stop)]
    assert targets == list(range(1, length))


def test_a_context_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        split_document(0, 0, 5, 1)


def test_join() -> None:
    roles = torch.zeros(5, dtype=torch.uint8)
    pack = concat_documents([(torch.arange(3), roles[:3]), (torch.arange(2), roles[:2])])
    assert (pack.ids.tolist(), pack.lengths) == ([0, 1, 2, 0, 1], (3, 2))
    assert len(pack.roles) == 5
