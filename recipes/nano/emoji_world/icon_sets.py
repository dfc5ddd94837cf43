"""Everything that is drawn by somebody: the three styles, and other hands to learn from besides.

nano is asked for three styles and judged in them. What a thing looks like it may learn from more
artists than these, who drew only some of the things; some it is never asked to draw like. Two of
them are the same artists at another time: where a style of theirs is held out, so is their other
drawing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.download import OTHERS, PACKAGES, READ, STYLES
from recipes.nano.emoji_world.icons import SIZES, Icons
from recipes.nano.emoji_world.split import held_out
from recipes.nano.emoji_world.svg_augmentation import Redrawn

HANDS = (*STYLES, *OTHERS)
"""Those who can be asked for: the three styles, and behind them the others."""

_SAME_ARTIST = {"blob": "noto", "shaded": "fluent"}


class Hands(NamedTuple):
    """Drawings by all of `HANDS` and behind them `READ`, and which of them may be learnt from."""

    icons: Icons
    redrawn: Redrawn
    learnt: NDArray[np.bool_]  # [400, hands]

    @classmethod
    def load(cls, folder: Path | None = None) -> Hands:
        """Read the drawings, fetching and making what the folder lacks: some minutes once."""
        every = (PACKAGES, OTHERS, READ)
        icons = [Icons.load(folder, packages).arrays for packages in every]
        redrawn = [Redrawn.load(folder, packages).array for packages in every]
        arrays = {size: np.concatenate([each[size] for each in icons], 1) for size in SIZES}
        return cls(Icons(arrays), Redrawn(np.concatenate(redrawn, 1)), learnt(arrays[SIZES[0]]))

    @property
    def drew(self) -> NDArray[np.bool_]:
        """Mask [400, HANDS] of what each of them drew, to be learnt from or not."""
        return there(self.icons.arrays[SIZES[0]][:, : len(HANDS)])

    @property
    def others(self) -> NDArray[np.int64]:
        """The pairs of the other hands to learn to draw, as rows (object, hand)."""
        pairs = np.argwhere(self.learnt[:, : len(HANDS)])
        return pairs[pairs[:, 1] >= len(STYLES)]


def learnt(drawings: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask [400, hands] of the pairs to train on, given drawings [400, hands, side, side, 4]."""
    mask, seen = there(drawings), ~held_out()
    mask[:, : len(STYLES)] &= seen
    for other, style in _SAME_ARTIST.items():
        mask[:, HANDS.index(other)] &= seen[:, STYLES.index(style)]
    return mask


def there(drawings: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask [400, hands] of the drawings that are any."""
    mask: NDArray[np.bool_] = np.asarray(drawings[..., 3].any((2, 3)))
    return mask
