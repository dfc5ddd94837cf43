"""A sheet to look at: each drawn picture with the true icon to its right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from emu3.errors import InputError
from emu3.files import atomic_write
from recipes.nano.evaluation.features import Pixels

SHOWN = 48
"""How many pairs a sheet shows: the first ones by index, so that nobody picked them."""

_COLUMNS = 6
_FRAME = 4  # px
_RIGHT, _WRONG = (40, 160, 70), (205, 45, 45)


def save_sheet(
    drawn: Sequence[Pixels], true: Sequence[Pixels], right: Sequence[bool], path: Path
) -> None:
    """Write the first `SHOWN` cells as a PNG; a green frame means judged right, a red one wrong.

    Raises InputError unless all pictures, uint8 [H, W, 3], are of one size.
    """
    if len(sizes := {picture.shape for picture in (*drawn, *true)}) > 1:
        raise InputError(f"a sheet needs pictures of one size, not {sorted(sizes)}")
    cells = [_cell(*parts) for parts in zip(drawn, true, right, strict=True)][:SHOWN]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[i : i + _COLUMNS], 1) for i in range(0, len(cells), _COLUMNS)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")


def save_grid(images: Sequence[Pixels], columns: int, path: Path) -> None:
    """Write images, uint8 [H, W, 3] of one size, row by row as a PNG."""
    rows = [np.concatenate(images[i : i + columns], 1) for i in range(0, len(images), columns)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")


def _cell(drawn: Pixels, true: Pixels, right: bool) -> Pixels:
    both = np.concatenate([drawn, true], axis=1)
    h, w = both.shape[:2]
    out = np.full((h + 4 * _FRAME, w + 4 * _FRAME, 3), 255, np.uint8)
    out[_FRAME:-_FRAME, _FRAME:-_FRAME] = _RIGHT if right else _WRONG
    out[2 * _FRAME : -2 * _FRAME, 2 * _FRAME : -2 * _FRAME] = both
    return out
