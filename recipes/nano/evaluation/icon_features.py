"""Fixed image features: the shape, the layout and the colours of the object in an image.

No part is learned, so the features are independent of the models that are measured with them.
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
"""Side in pixels of the square that the object is scaled to."""

WEIGHTS = {"shape": 1.0, "layout": 4.0, "colour": 2.0}
"""Weight of each part in the squared distance, tuned on distorted images of true scenes."""

_NEUTRAL = 0.5  # gray in place of the background, whose colour must not matter
_ALPHA_FROM, _ALPHA_TO = 0.06, 0.24  # distance from the background: transparent below, opaque above
_SPECK = 0.004  # smaller connected regions, as a part of the image, are artefacts
_THUMBNAIL = 12  # side in pixels
_BINS = 5  # along each of red, green and blue


def require_skimage() -> Any:
    """scikit-image; raises MissingExtraError with the name of the extra."""
    try:
        import skimage.feature
        import skimage.filters
        import skimage.measure
    except ImportError as error:
        raise MissingExtraError("scikit-image", "nano", "classifying icons") from error
    return skimage


def background_colour(image: Pixels) -> Floats:
    """Median colour of the border pixels, RGB in [0, 1], float32 [3].

    An icon covers less than half of the border, so the median is the background's colour.
    """
    edges = (image[0], image[-1], image[1:-1, 0], image[1:-1, -1])
    return np.asarray(np.median(np.concatenate(edges), axis=0) / 255, np.float32)


def image_features(image: Pixels) -> Floats:
    """The feature vector of an image, uint8 [H, W, 3] to float32 [D].

    Raises InputError on any other array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    square = crop_to_object(image)
    parts = {
        "shape": _gradient_histograms(square),
        "layout": _thumbnail(square),
        "colour": _colour_histogram(square),
    }
    return np.concatenate([math.sqrt(WEIGHTS[name]) * part for name, part in parts.items()])


def crop_to_object(image: Pixels) -> Floats:
    """The object centred on neutral gray: RGB and alpha in [0, 1], float32 [SIDE, SIDE, 4].

    It is cropped to its bounding box and scaled, aspect ratio kept, until it fills the square.
    """
    pixels = image.astype(np.float32) / 255
    smooth = require_skimage().filters.gaussian(pixels, 0.7, channel_axis=2)
    distance = np.linalg.norm(smooth - background_colour(image), axis=2)
    alpha = np.clip((distance - _ALPHA_FROM) / (_ALPHA_TO - _ALPHA_FROM), 0, 1)[..., None]
    layers = np.concatenate([_NEUTRAL + (smooth - _NEUTRAL) * alpha, alpha], axis=2)
    top, bottom, left, right = _bounding_box(alpha[..., 0] > 0.3)
    return _scale(layers[top:bottom, left:right])


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the mask without specks; of everything if it is empty."""
    labels = require_skimage().measure.label(mask, connectivity=2)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = (sizes >= _SPECK * mask.size)[labels]
    rows, columns = np.flatnonzero(keep.any(1)), np.flatnonzero(keep.any(0))
    if not len(rows):
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _scale(layers: Floats) -> Floats:
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


def _gradient_histograms(square: Floats) -> Floats:
    """Histograms of oriented gradients, unit length; per pixel the strongest of the four layers."""
    hog = require_skimage().feature.hog(
        square, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=2
    )
    return _normalise(hog.astype(np.float32))


def _thumbnail(square: Floats) -> Floats:
    """A thumbnail, scaled so that its squared length is a mean over pixels."""
    return _downsample(square, _THUMBNAIL).ravel() / np.float32(_THUMBNAIL)


def _colour_histogram(square: Floats) -> Floats:
    """Square roots of a colour histogram of the object with trilinear binning, unit length."""
    # Half the resolution gives the same result in a quarter of the time.
    layers = _downsample(square, SIDE // 2).reshape(-1, 4)
    position = layers[:, :3] * (_BINS - 1)
    low = np.minimum(position.astype(np.int64), _BINS - 2)
    near = np.stack([low + 1 - position, position - low])
    counts = np.zeros(_BINS**3)
    for r, g, b in np.ndindex(2, 2, 2):
        weight = near[r, :, 0] * near[g, :, 1] * near[b, :, 2] * layers[:, 3]
        index = (low + np.array([r, g, b])) @ (_BINS**2, _BINS, 1)
        counts += np.bincount(index, weight, minlength=_BINS**3)
    return _normalise(np.sqrt(counts).astype(np.float32))


def _downsample(square: Floats, side: int) -> Floats:
    """The mean of every patch: [SIDE, SIDE, 4] to [side, side, 4]."""
    patch = SIDE // side
    small: Floats = square.reshape(side, patch, side, patch, 4).mean((1, 3))
    return small


def _normalise(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
