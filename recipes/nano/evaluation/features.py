"""What a picture looks like, as one vector: shapes, colours and where they are.

Nothing in here is learnt, so it owes nothing to the models that are measured with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError, MissingExtraError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 48
"""Side in pixels of the square that an object is fitted into before it is described."""

WEIGHTS = {"shape": 1.0, "place": 4.0, "colour": 2.0}
"""How much each part of the vector counts in the squared distance, tuned on spoilt scenes."""

_NEUTRAL = 0.5  # gray that takes the background's place, so that its colour does not matter
_FAINT, _CLEAR = 0.06, 0.24  # distance from the background where a pixel starts to count, and does
_SPECK = 0.004  # smaller spots, as a share of the picture, are flaws and not parts of the object
_THUMB = 12  # side of the small picture that says which colour is where
_BINS = 5  # along each of red, green and blue


def require_skimage() -> Any:
    """scikit-image, or MissingExtraError naming the extra that brings it."""
    try:
        import skimage.feature
        import skimage.filters
        import skimage.measure
        import skimage.metrics
    except ImportError as error:
        raise MissingExtraError("scikit-image", "emoji", "judging pictures") from error
    return skimage


def background_colour(picture: Pixels) -> Floats:
    """Median colour of the outermost pixels, RGB in [0, 1], float32 [3].

    An icon never covers more than half of the border, so the median is the background's.
    """
    edges = (picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1])
    return np.asarray(np.median(np.concatenate(edges), axis=0) / 255, np.float32)


def describe(picture: Pixels) -> Floats:
    """The vector of a picture, uint8 [H, W, 3] to float32 [D]; near vectors look alike.

    Raises InputError for anything that is not such an array.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"a picture must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")
    square = fit(picture)
    parts = {"shape": _shape(square), "place": _place(square), "colour": _colour(square)}
    return np.concatenate([math.sqrt(WEIGHTS[name]) * part for name, part in parts.items()])


def fit(picture: Pixels) -> Floats:
    """The object alone, centred in a neutral square: RGB and coverage in [0, 1], [SIDE, SIDE, 4].

    It is cropped to its bounding box and scaled, aspect kept, until it fills the square.
    """
    pixels = picture.astype(np.float32) / 255
    smooth = require_skimage().filters.gaussian(pixels, 0.7, channel_axis=2)
    distance = np.linalg.norm(smooth - background_colour(picture), axis=2)
    cover = np.clip((distance - _FAINT) / (_CLEAR - _FAINT), 0, 1)[..., None]
    layers = np.concatenate([_NEUTRAL + (smooth - _NEUTRAL) * cover, cover], axis=2)
    top, bottom, left, right = _box(cover[..., 0] > 0.3)
    return _scaled(layers[top:bottom, left:right])


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is true, specks apart; everything if nothing is."""
    labels = require_skimage().measure.label(mask, connectivity=2)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = (sizes >= _SPECK * mask.size)[labels]
    rows, columns = np.flatnonzero(keep.any(1)), np.flatnonzero(keep.any(0))
    if not len(rows):
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _scaled(layers: Floats) -> Floats:
    h, w = layers.shape[:2]
    scale = SIDE / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    # Four layers fit Pillow's CMYK, which resizes each on its own (RGBA would premultiply).
    image = Image.fromarray((layers * 255 + 0.5).astype(np.uint8), "CMYK")
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    out = np.empty((SIDE, SIDE, 4), np.float32)
    out[:] = (_NEUTRAL, _NEUTRAL, _NEUTRAL, 0)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out


def _shape(square: Floats) -> Floats:
    """Histograms of gradients, unit length; the strongest of the four layers counts."""
    hog = require_skimage().feature.hog(
        square, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=2
    )
    return _unit(hog.astype(np.float32))


def _place(square: Floats) -> Floats:
    """A thumbnail, root mean square over its pixels."""
    return _shrunk(square, _THUMB).ravel() / np.float32(_THUMB)


def _colour(square: Floats) -> Floats:
    """Square roots of the shares of colours in the object, spread over neighbouring bins."""
    # Half the resolution says the same in a quarter of the time.
    layers = _shrunk(square, SIDE // 2).reshape(-1, 4)
    place = layers[:, :3] * (_BINS - 1)
    low = np.minimum(place.astype(np.int64), _BINS - 2)
    near = np.stack([low + 1 - place, place - low])
    counts = np.zeros(_BINS**3)
    for r, g, b in np.ndindex(2, 2, 2):
        share = near[r, :, 0] * near[g, :, 1] * near[b, :, 2] * layers[:, 3]
        index = (low + np.array([r, g, b])) @ (_BINS**2, _BINS, 1)
        counts += np.bincount(index, share, minlength=_BINS**3)
    return _unit(np.sqrt(counts).astype(np.float32))


def _shrunk(square: Floats, side: int) -> Floats:
    """The mean of every patch: [SIDE, SIDE, 4] to [side, side, 4]."""
    patch = SIDE // side
    small: Floats = square.reshape(side, patch, side, patch, 4).mean((1, 3))
    return small


def _unit(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
