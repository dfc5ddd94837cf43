"""Which pairs of object and style are kept from training, to see what was really learnt.

Every object is seen in at least two styles and every style with most objects, so a held-out pair
asks for a combination never shown of two things that were.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.icons import STYLES
from recipes.nano.emoji_world.objects import OBJECTS

_PER_STYLE = 40


def held_out(seed: int = 0) -> NDArray[np.bool_]:
    """Mask [400, 3] that is true for the 120 pairs not to train on: 40 a style, one an object."""
    mask = np.zeros((len(OBJECTS), len(STYLES)), np.bool_)
    order = np.random.default_rng(seed).permutation(len(OBJECTS))
    for style in range(len(STYLES)):
        mask[order[style * _PER_STYLE : (style + 1) * _PER_STYLE], style] = True
    return mask


def seen_pairs(seed: int = 0) -> NDArray[np.int64]:
    """The pairs to train on, as rows (object, style): int64 [1080, 2]."""
    return np.argwhere(~held_out(seed))


def held_out_pairs(seed: int = 0) -> NDArray[np.int64]:
    """The pairs kept from training, as rows (object, style): int64 [120, 2]."""
    return np.argwhere(held_out(seed))
