"""Contact sheets: many images in one PNG, many videos in one animated WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from emu3.files import atomic_write
from emu3.processing.video import video_writer

MAX_PAIRS = 48
"""Pairs of images on a sheet: the first ones by index, so that none are selected by hand."""

MAX_VIDEOS = 24
"""Videos on a sheet, likewise the first ones."""

_COLUMNS = 6
_FRAME = 4  # px
_GAP = 4  # px
_CORRECT, _WRONG = (40, 160, 70), (205, 45, 45)

Pixels = NDArray[np.uint8]


def save_contact_sheet(
    generated: Sequence[Pixels], expected: Sequence[Pixels], correct: Sequence[bool], path: Path
) -> None:
    """Write up to `MAX_PAIRS` pairs as a PNG, the generated image left of the expected one.

    A green frame marks a correct image, a red frame a wrong one. All images are uint8 [H, W, 3].
    Raises InputError if they differ in size.
    """
    if len(sizes := {image.shape for image in (*generated, *expected)}) > 1:
        raise InputError(f"a contact sheet needs images of one size, not {sorted(sizes)}")
    cells = [_cell(*parts) for parts in zip(generated, expected, correct, strict=True)][:MAX_PAIRS]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % _COLUMNS)
    save_image_grid(cells, _COLUMNS, path)


def save_image_grid(images: Sequence[Pixels], columns: int, path: Path) -> None:
    """Write images, uint8 [H, W, 3] of one size, row by row as a PNG; the last row must be full."""
    rows = [np.concatenate(images[i : i + columns], 1) for i in range(0, len(images), columns)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")


def save_video_contact_sheet(videos: Sequence[Pixels], path: Path, fps: float = 8) -> None:
    """Write up to `MAX_VIDEOS` videos, uint8 [T, H, W, 3] of one shape, side by side."""
    shown = [
        np.pad(video, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
        for video in videos[:MAX_VIDEOS]
    ]
    columns = min(_COLUMNS, len(shown))
    shown += [np.full_like(shown[0], 255)] * (-len(shown) % columns)
    rows = [np.concatenate(shown[at : at + columns], 2) for at in range(0, len(shown), columns)]
    with video_writer(path, fps) as add_frame:
        for frame in np.concatenate(rows, 1):
            add_frame(frame)


def _cell(generated: Pixels, expected: Pixels, correct: bool) -> Pixels:
    pair = np.concatenate([generated, expected], axis=1)
    height, width = pair.shape[:2]
    out = np.full((height + 4 * _FRAME, width + 4 * _FRAME, 3), 255, np.uint8)
    out[_FRAME:-_FRAME, _FRAME:-_FRAME] = _CORRECT if correct else _WRONG
    out[2 * _FRAME : -2 * _FRAME, 2 * _FRAME : -2 * _FRAME] = pair
    return out
