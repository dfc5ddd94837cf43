"""A sheet that moves: clips side by side, as one animated WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emu3.processing.video import video_writer
from recipes.nano.evaluation.tracking import Frames

COLUMNS, ROWS = 6, 4
"""The first clips by index, so that nobody picked them."""

_GAP = 4  # px


def save_clips(clips: Sequence[Frames], path: Path, fps: float = 8) -> None:
    """Write clips [T, H, W, 3] of one size and length, as many as a sheet holds."""
    shown = [
        np.pad(clip, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for clip in clips
    ]
    shown = shown[: COLUMNS * ROWS]
    shown += [np.full_like(shown[0], 255)] * (-len(shown) % min(COLUMNS, len(shown)))
    across = min(COLUMNS, len(shown))
    rows = [np.concatenate(shown[at : at + across], 2) for at in range(0, len(shown), across)]
    with video_writer(path, fps) as add:
        for frame in np.concatenate(rows, 1):
            add(frame)
