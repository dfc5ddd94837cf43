"""All icon sets: the three styles, and further sets that only the training uses.

nano is evaluated in the three styles alone. Further sets, which have some of the objects each, add
to what it learns an object to look like. Two of them are by the artist of a style: where that style
is held out, so is the artist's other icon.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.download import (
    OTHER_PACKAGES,
    RECOGNITION_PACKAGES,
    STYLE_PACKAGES,
    STYLES,
)
from recipes.nano.emoji_world.icons import ICON_SIZES, Icons
from recipes.nano.emoji_world.split import held_out_mask
from recipes.nano.emoji_world.svg_augmentation import IconVariants

ICON_SETS = (*STYLES, *OTHER_PACKAGES)
"""Sets that captions may ask for: the three styles first. Recognition-only sets come behind."""

_SAME_ARTIST = {"blob": "noto", "shaded": "fluent"}


class IconSets(NamedTuple):
    """The icons of all `ICON_SETS` and the recognition-only sets, and which may be trained on."""

    icons: Icons
    variants: IconVariants
    trainable: NDArray[np.bool_]  # [400, sets]

    @classmethod
    def load(cls, folder: Path | None = None) -> Self:
        """Load all sets; what the folder lacks is downloaded and rendered, which takes minutes."""
        packages = (STYLE_PACKAGES, OTHER_PACKAGES, RECOGNITION_PACKAGES)
        icons = [Icons.load(folder, each).arrays for each in packages]
        variants = [IconVariants.load(folder, each).array for each in packages]
        arrays = {size: np.concatenate([each[size] for each in icons], 1) for size in ICON_SIZES}
        trainable = trainable_mask(arrays[ICON_SIZES[0]])
        return cls(Icons(arrays), IconVariants(np.concatenate(variants, 1)), trainable)

    @property
    def available(self) -> NDArray[np.bool_]:
        """Mask [400, ICON_SETS] of the icons that exist, held out or not."""
        return available_mask(self.icons.arrays[ICON_SIZES[0]][:, : len(ICON_SETS)])

    @property
    def other_pairs(self) -> NDArray[np.int64]:
        """Rows (object, set) of the icons to generate that belong to no style."""
        pairs = np.argwhere(self.trainable[:, : len(ICON_SETS)])
        return pairs[pairs[:, 1] >= len(STYLES)]


def trainable_mask(icons: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask [400, sets] of the pairs to train on, given icons [400, sets, side, side, 4]."""
    mask, seen = available_mask(icons), ~held_out_mask()
    mask[:, : len(STYLES)] &= seen
    for other, style in _SAME_ARTIST.items():
        mask[:, ICON_SETS.index(other)] &= seen[:, STYLES.index(style)]
    return mask


def available_mask(icons: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask [400, sets] of the icons that are not transparent throughout."""
    mask: NDArray[np.bool_] = np.asarray(icons[..., 3].any((2, 3)))
    return mask
