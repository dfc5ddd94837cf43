"""Pictures of things as no style draws them, as codes: what nano is asked about most.

Made once, `EACH` of every object from its seen drawings alone, and kept in the run's folder; the
same ones every time. A square each: nearly in its middle and about as large as in a picture
composed the usual way for most, anywhere and of any size for the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from emu3.emoji_world import (
    BACKGROUNDS,
    GENTLY,
    OBJECTS,
    RATIOS,
    WIDELY,
    Icons,
    Redrawn,
    blank,
    held_out,
    paste,
    vary,
)
from emu3.emoji_world.scene import USUAL
from emu3.files import replacing
from emu3.progress import counting
from emu3.vision.tokenizer import VisionTokenizer
from recipes.nano_vision import as_pixels

EACH = 128
OFF = 3  # px that a drawing may be out of the middle of a picture composed the usual way
FILE = "variations.safetensors"


def variations(
    vision: VisionTokenizer, icons: Icons, redrawn: Redrawn, folder: Path, each: int = EACH
) -> Tensor:
    """Codes [400, each, 8, 8] int16, from the folder if they are there."""
    path = folder / FILE
    if not path.is_file():
        seen, codes = ~held_out(), []
        with counting("variations of objects", len(OBJECTS)) as advance:
            for thing in range(len(OBJECTS)):
                rng, styles = np.random.default_rng((thing, 1)), np.flatnonzero(seen[thing])
                made = [varied(rng, icons, redrawn, thing, styles) for _ in range(each)]
                with torch.no_grad():
                    codes.append(vision.encode(as_pixels(made)).short())
                advance(1)
        with replacing(path) as temporary:
            save_file({"codes": torch.stack(codes)}, temporary)
    return load_file(path)["codes"]


def varied(
    rng: np.random.Generator, icons: Icons, redrawn: Redrawn, thing: int, styles: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """One such picture, uint8 [64, 64, 3]."""
    usual = bool(rng.random() < USUAL)
    icon = vary(rng, icons, thing, styles.tolist(), redrawn, GENTLY if usual else WIDELY)
    picture = blank(list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))], RATIOS[0])
    x, y = (somewhere(rng, picture.shape[0], icon.width, usual) for _ in range(2))
    paste(picture, np.asarray(icon), x, y)
    return picture


def somewhere(rng: np.random.Generator, room: int, side: int, usual: bool) -> int:
    """Where a side starts in a room, in pixels: so that it is nearly in the middle, or anywhere."""
    if not usual:
        return int(rng.integers(room - side + 1))
    start = (room - side) // 2 + int(rng.integers(-OFF, OFF + 1))
    return min(max(start, 0), room - side)
