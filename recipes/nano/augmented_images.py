"""Pictures of things as no style draws them, as codes: what nano is asked about most.

Made once, `EACH` of every object from its seen drawings alone, and kept in the run's folder; the
same seed makes the same ones. In most pictures a drawing stands nearly in the middle and is about
as large as in one composed the usual way; in the others anywhere and of any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from emu3.files import atomic_write
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    CODE,
    GENTLY,
    OBJECTS,
    RATIOS,
    STYLES,
    WIDELY,
    Hands,
    Icons,
    Redrawn,
    blank,
    grid,
    held_out,
    paste,
    vary,
)
from recipes.nano.emoji_world.image_augmentation import Bent
from recipes.nano.emoji_world.scene import USUAL, USUAL_SIZE, icon_sizes
from recipes.nano.train_vision import as_pixels

EACH = {ratio: 256 if ratio == RATIOS[0] else 40 for ratio in RATIOS}
"""Pictures of an object in each ratio; Emoji World has three squares to two others."""

BY_OTHERS = {ratio: 128 if ratio == RATIOS[0] else 20 for ratio in RATIOS}
"""The same, of drawings by other hands."""

OFF = 3  # px that a drawing may be out of the middle of a picture composed the usual way
LIKE = 4  # px that it may be larger or smaller there
PART = 64  # pictures encoded at a time
FILE, FILE_BY_OTHERS = "variations.safetensors", "by_others.safetensors"


def variations(
    vision: VisionTokenizer,
    icons: Icons,
    redrawn: Redrawn,
    folder: Path,
    each: Mapping[str, int] = EACH,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Codes [400, each, h, w] int16 by ratio, from the folder if they are there."""
    return _kept(folder / FILE, vision, icons, redrawn, each, ~held_out(), stream=(0, seed))


def by_others(
    vision: VisionTokenizer,
    hands: Hands,
    folder: Path,
    each: Mapping[str, int] = BY_OTHERS,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The same from drawings by other hands alone; what only the styles show from these."""
    learnt, styles = hands.learnt.copy(), len(STYLES)
    learnt[learnt[:, styles:].any(1), :styles] = False
    path = folder / FILE_BY_OTHERS
    return _kept(path, vision, hands.icons, hands.redrawn, each, learnt, stream=(1, seed))


def _kept(
    path: Path,
    vision: VisionTokenizer,
    icons: Icons,
    redrawn: Redrawn,
    each: Mapping[str, int],
    learnt: NDArray[np.bool_],
    stream: tuple[int, int],
) -> dict[str, Tensor]:
    """Codes in the file, made of the drawings in `learnt` [400, hands] unless it is there."""
    if not path.is_file():
        codes = defaultdict[str, list[Tensor]](list)
        every = [(ratio, thing) for ratio in each for thing in range(len(OBJECTS))]
        with count_progress("variations of objects", len(every)) as advance:
            for ratio, thing in every:
                rng = np.random.default_rng((thing, 1 + RATIOS.index(ratio), *stream))
                drawn = partial(varied, rng, icons, redrawn, thing, np.flatnonzero(learnt[thing]))
                codes[ratio].append(encoded(vision, [drawn(ratio) for _ in range(each[ratio])]))
                advance(1)
        with atomic_write(path) as temporary:
            save_file({ratio: torch.stack(of) for ratio, of in codes.items()}, temporary)
    return load_file(path)


@torch.no_grad()
def encoded(vision: VisionTokenizer, pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Codes [N, h, w] int16 of pictures of one shape."""
    parts = [pictures[at : at + PART] for at in range(0, len(pictures), PART)]
    return torch.cat([vision.encode(as_pixels(part)).short() for part in parts])


def varied(
    rng: np.random.Generator,
    icons: Icons,
    redrawn: Redrawn,
    thing: int,
    styles: NDArray[np.int64],
    ratio: str = RATIOS[0],
) -> NDArray[np.uint8]:
    """One such picture, uint8 [h, w, 3]."""
    usual = bool(rng.random() < USUAL)
    icon = vary(rng, icons, thing, styles.tolist(), redrawn, bent(ratio, usual))
    picture = blank(list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))], ratio)
    high, wide, _ = picture.shape
    x, y = (somewhere(rng, room, icon.width, usual) for room in (wide, high))
    paste(picture, np.asarray(icon), x, y)
    return picture


def bent(ratio: str, usual: bool) -> Bent:
    """How far a drawing may be bent, and how large it is: what fits a picture of this ratio."""
    if usual:
        side = min(USUAL_SIZE, icon_sizes(ratio)[0])
        return GENTLY._replace(sides=(side - LIKE, side + LIKE))
    short = min(grid(ratio)) * CODE
    return WIDELY._replace(sides=(short * 9 // 16, short * 7 // 8))


def somewhere(rng: np.random.Generator, room: int, side: int, usual: bool) -> int:
    """Where a side starts in a room, in pixels: so that it is nearly in the middle, or anywhere."""
    if not usual:
        return int(rng.integers(room - side + 1))
    start = (room - side) // 2 + int(rng.integers(-OFF, OFF + 1))
    return min(max(start, 0), room - side)
