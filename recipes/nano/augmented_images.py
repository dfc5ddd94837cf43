"""Codes of augmented images of the objects, which belong to no style.

Most questions in training are about these images: 1,080 seen icons are memorised otherwise. They
are made once per run, from icons that may be trained on, and kept in a file; a seed reproduces
them.
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
    CODE_SIZE,
    LARGE_AFFINE,
    OBJECTS,
    RATIOS,
    SMALL_AFFINE,
    STYLES,
    Icons,
    IconSets,
    IconVariants,
    augment_icon,
    blank_image,
    code_grid,
    held_out_mask,
    paste_icon,
)
from recipes.nano.emoji_world.image_augmentation import AffineLimits
from recipes.nano.emoji_world.scene import CENTRED_PROBABILITY, CENTRED_SIZE, icon_sizes
from recipes.nano.scene_encoding import images_to_pixels

STYLE_IMAGES = {ratio: 256 if ratio == RATIOS[0] else 40 for ratio in RATIOS}
"""Images per object from the three styles, by aspect ratio; three in five scenes are square."""

OTHER_IMAGES = {ratio: 128 if ratio == RATIOS[0] else 20 for ratio in RATIOS}
"""Images per object from the other icon sets."""

MAX_OFFSET = 3  # px from the middle in a centred composition
MAX_SIZE_DIFFERENCE = 4  # px from the usual size there
_BATCH = 64  # images encoded at once
_STYLE_FILE, _OTHER_FILE = "augmented_styles.safetensors", "augmented_others.safetensors"


def augmented_style_images(
    vision: VisionTokenizer,
    icons: Icons,
    variants: IconVariants,
    folder: Path,
    counts: Mapping[str, int] = STYLE_IMAGES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Codes int16 [400, count, h, w] by aspect ratio, from seen pairs; cached in the folder."""
    path, mask = folder / _STYLE_FILE, ~held_out_mask()
    return _load_or_make(path, vision, icons, variants, counts, mask, stream=(0, seed))


def augmented_other_images(
    vision: VisionTokenizer,
    icon_sets: IconSets,
    folder: Path,
    counts: Mapping[str, int] = OTHER_IMAGES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The same from the other icon sets; objects that these lack come from the styles."""
    mask, styles = icon_sets.trainable.copy(), len(STYLES)
    mask[mask[:, styles:].any(1), :styles] = False
    path, icons, variants = folder / _OTHER_FILE, icon_sets.icons, icon_sets.variants
    return _load_or_make(path, vision, icons, variants, counts, mask, stream=(1, seed))


def _load_or_make(
    path: Path,
    vision: VisionTokenizer,
    icons: Icons,
    variants: IconVariants,
    counts: Mapping[str, int],
    mask: NDArray[np.bool_],
    stream: tuple[int, int],
) -> dict[str, Tensor]:
    """The codes in the file, or new ones from the icons in `mask` [400, sets]."""
    if not path.is_file():
        codes = defaultdict[str, list[Tensor]](list)
        jobs = [(ratio, index) for ratio in counts for index in range(len(OBJECTS))]
        with count_progress("encoding augmented images", len(jobs)) as advance:
            for ratio, index in jobs:
                rng = np.random.default_rng((index, 1 + RATIOS.index(ratio), *stream))
                styles = np.flatnonzero(mask[index])
                make = partial(augmented_image, rng, icons, variants, index, styles)
                images = [make(ratio) for _ in range(counts[ratio])]
                codes[ratio].append(_encode(vision, images))
                advance(1)
        with atomic_write(path) as temporary:
            save_file({ratio: torch.stack(each) for ratio, each in codes.items()}, temporary)
    return load_file(path)


@torch.no_grad()
def _encode(vision: VisionTokenizer, images: list[NDArray[np.uint8]]) -> Tensor:
    """Codes [N, h, w] int16 of images of one size."""
    parts = [images[at : at + _BATCH] for at in range(0, len(images), _BATCH)]
    return torch.cat([vision.encode(images_to_pixels(part)).short() for part in parts])


def augmented_image(
    rng: np.random.Generator,
    icons: Icons,
    variants: IconVariants,
    index: int,
    styles: NDArray[np.int64],
    ratio: str = RATIOS[0],
) -> NDArray[np.uint8]:
    """One augmented image of an object, uint8 [h, w, 3], from its icons in `styles`.

    Most have a nearly centred composition, as scenes do; in the others, position and size are
    random.
    """
    centred = bool(rng.random() < CENTRED_PROBABILITY)
    limits = affine_limits(ratio, centred)
    icon = augment_icon(rng, icons, index, styles.tolist(), variants, limits)
    image = blank_image(list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))], ratio)
    high, wide, _ = image.shape
    x, y = (random_position(rng, length, icon.width, centred) for length in (wide, high))
    paste_icon(image, np.asarray(icon), x, y)
    return image


def affine_limits(ratio: str, centred: bool) -> AffineLimits:
    """Limits of the affine transform that fit an image of this aspect ratio."""
    if centred:
        side = min(CENTRED_SIZE, icon_sizes(ratio)[0])
        sizes = (side - MAX_SIZE_DIFFERENCE, side + MAX_SIZE_DIFFERENCE)
        return SMALL_AFFINE._replace(sizes=sizes)
    short = min(code_grid(ratio)) * CODE_SIZE
    return LARGE_AFFINE._replace(sizes=(short * 9 // 16, short * 7 // 8))


def random_position(rng: np.random.Generator, length: int, side: int, centred: bool) -> int:
    """The start in pixels of a side within a length: nearly centred, or anywhere."""
    if not centred:
        return int(rng.integers(length - side + 1))
    start = (length - side) // 2 + int(rng.integers(-MAX_OFFSET, MAX_OFFSET + 1))
    return min(max(start, 0), length - side)
