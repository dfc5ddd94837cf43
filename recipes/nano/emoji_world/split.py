"""The held-out pairs of object and style, which separate learning from memorising.

Every object is seen in at least two styles and every style with most objects, so a held-out pair is
a new combination of two known parts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.download import STYLES
from recipes.nano.emoji_world.objects import OBJECTS

_PER_STYLE = 40


def held_out_mask(seed: int = 0) -> NDArray[np.bool_]:
    """Mask [400, 3] of the 120 held-out pairs: 40 per style, at most one per object."""
    mask = np.zeros((len(OBJECTS), len(STYLES)), np.bool_)
    order = np.random.default_rng(seed).permutation(len(OBJECTS))
    for style in range(len(STYLES)):
        mask[order[style * _PER_STYLE : (style + 1) * _PER_STYLE], style] = True
    return mask


def seen_pairs(seed: int = 0) -> NDArray[np.int64]:
    """The pairs to train on, as rows (object, style): int64 [1080, 2]."""
    return np.argwhere(~held_out_mask(seed))


def held_out_pairs(seed: int = 0) -> NDArray[np.int64]:
    """The held-out pairs, as rows (object, style): int64 [120, 2]."""
    return np.argwhere(held_out_mask(seed))
