"""Rows hold every piece once, and are nearly full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emu3.data.packing import Packer, Piece, cut, efficiency, join, pack_rows
from emu3.errors import InputError

CONTEXT = 5120  # of the paper's first stage


def realistic(count: int, seed: int = 0) -> list[Piece]:
    """Pictures of many sizes with captions, questions about small ones, and texts of any length."""
    random = np.random.default_rng(seed)
    pieces: list[Piece] = []
    for number in range(count):
        kind = random.choice(3, p=[0.3, 0.2, 0.5])
        if kind == 2:
            length = int(random.lognormal(6, 1.2)) + 3
            pieces += cut(0, number, length, CONTEXT)
        else:
            height, width = random.integers(*((40, 70) if kind == 0 else (16, 40)), 2)
            length = min(CONTEXT, int(height * (width + 1) + 7 + random.integers(10, 150)))
            pieces.append(Piece(kind + 1, number, 0, length))
    return pieces


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_full_to_97_percent(seed: int) -> None:
    pieces = realistic(4000, seed)
    rows = list(pack_rows(pieces, CONTEXT))
    assert efficiency(rows, CONTEXT) >= 0.97
    assert sorted(map(hash, pieces)) == sorted(hash(piece) for row in rows for piece in row)
    assert all(sum(map(len, row)) <= CONTEXT for row in rows)
    alone = [(piece,) for piece in pieces]
    assert efficiency(alone, CONTEXT) < 0.6  # the mixture is not full of itself


def test_nothing_waits_for_ever() -> None:
    packer = Packer(10)
    odd = Piece(0, 0, 0, 7)  # pairs of fives fill a row better
    packer.add(odd)
    for number in range(1, 5):
        packer.add(Piece(0, number, 0, 5))
    assert odd in packer.row()


def test_the_longest_that_fits_is_taken() -> None:
    packer = Packer(10)
    for number, length in enumerate([6, 2, 4, 3, 4, 9]):
        packer.add(Piece(0, number, 0, length))
    assert [piece.number for piece in packer.row()] == [0, 2]  # 6 and the older 4
    assert [piece.number for piece in packer.row()] == [1, 4, 3]  # 2, 4, 3
    assert [piece.number for piece in packer.row()] == [5]
    assert not len(packer)


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize("context", [2, 3, 7, 10, 29])
def test_cut_texts_have_every_id_but_the_first_as_target_once(length: int, context: int) -> None:
    pieces = cut(0, 0, length, context)
    assert all(len(piece) <= context for piece in pieces)
    targets = [at for piece in pieces for at in range(piece.start + 1, piece.stop)]
    assert targets == list(range(1, length))


def test_a_context_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        cut(0, 0, 5, 1)


def test_join() -> None:
    roles = torch.zeros(5, dtype=torch.uint8)
    pack = join([(torch.arange(3), roles[:3]), (torch.arange(2), roles[:2])])
    assert (pack.ids.tolist(), pack.lengths) == ([0, 1, 2, 0, 1], (3, 2))
    assert len(pack.roles) == 5
