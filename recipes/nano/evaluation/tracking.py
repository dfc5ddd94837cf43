"""Object tracking on a flat background: position, size, contrast and rotation in every frame.

The motion of a video is classified as the one whose true video, of the same object, has the nearest
track. Nothing is learned, and what tracking cannot distinguish it cannot distinguish in true videos
either (a spinning ball stands still); the upper bounds account for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.motion import FRAMES_PER_POSE
from recipes.nano.evaluation.icon_features import Pixels

T = TypeVar("T", bound=np.generic)

Frames = NDArray[np.uint8]
"""A video, uint8 [T, H, W, 3]."""

Series = NDArray[np.float64]
"""One number per frame, float64 [T]."""

_MIN_DISTANCE = 0.08  # from the background, of 1, below which a pixel is background
_MIN_CONTRAST = 0.35  # of the frame's contrast that a pixel of the object needs
_BRIGHTEST = 60  # pixels that a frame's contrast is the mean of
_POSITION, _LOG_AREA, _CONTRAST, _ROTATION = 3.0, 0.25, 0.15, 0.3
"""Differences in position (pixels), log area, contrast and rotation that have equal weight."""
_MAX_TERM = 9.0  # bound of each term, so that one lost frame cannot decide
_CROP = 32  # side in pixels of the square around the object that is rotated


@dataclass(frozen=True)
class Track:
    """The track of an object.

    `x` and `y` are pixels from the first frame on a canvas that wraps around. `area` is the log of
    the covered pixels. `contrast` is the distance from the background, at most 1. `rotation` is how
    much more a frame resembles the first frame rotated by a quarter turn per pose than the first
    frame itself, -2 to 2.
    """

    x: Series
    y: Series
    area: Series
    contrast: Series
    rotation: Series
    canvas: tuple[int, int]  # height and width

    def distance(self, other: Track) -> float:
        """The distance of two tracks of equally many frames; 0 if they are equal."""
        height, width = self.canvas
        position = _wrap(self.x - other.x, width) ** 2 + _wrap(self.y - other.y, height) ** 2
        terms = (
            position / _POSITION**2,
            ((self.area - other.area) / _LOG_AREA) ** 2,
            ((self.contrast - other.contrast) / _CONTRAST) ** 2,
            ((self.rotation - other.rotation) / _ROTATION) ** 2,
        )
        return float(sum(np.minimum(term, _MAX_TERM).mean() for term in terms))


def track_object(frames: Frames) -> Track:
    """Track the object that moves on a flat background."""
    background = np.median(frames.reshape(-1, 3), axis=0)
    # float64 [T, H, W]: distance of each pixel from the background, 0 to 1.
    distance = np.abs(frames.astype(np.float64) - background).max(-1) / 255
    contrast = np.sort(distance.reshape(len(distance), -1), axis=1)[:, -_BRIGHTEST:].mean(1)
    mask = distance > np.maximum(_MIN_DISTANCE, _MIN_CONTRAST * contrast)[:, None, None]
    area = np.log(np.maximum(mask.sum((1, 2)), 1))
    weights = np.where(mask, distance, 0.0)
    y, x = (_circular_means(weights.sum(axis)) for axis in (2, 1))
    _hold_last_position(x, y, mask.sum((1, 2)) == 0)
    height, width = frames.shape[1:3]
    rotation = _rotation(frames.astype(np.float64) - background, x, y)
    return Track(
        _wrap(x - x[0], width),
        _wrap(y - y[0], height),
        area,
        contrast,
        rotation,
        (height, width),
    )


def classify_motion(frames: Frames, candidates: Mapping[str, Track]) -> str:
    """The candidate whose track is nearest to that of a video of the same length."""
    track = track_object(frames)
    return min(candidates, key=lambda motion: track.distance(candidates[motion]))


def crop_object(frame: Pixels, side: int) -> Pixels:
    """The square of `side` pixels around the object in a frame, on a canvas that wraps around."""
    background = np.median(frame.reshape(-1, 3), axis=0)
    distance = np.abs(frame.astype(np.float64) - background).max(-1) / 255
    weights = np.where(distance > _MIN_DISTANCE, distance, 0.0)[None]
    y, x = (round(float(_circular_means(weights.sum(axis))[0])) for axis in (2, 1))
    return _crop(frame, x, y, side)


def _circular_means(weights: Series) -> Series:
    """The circular means of weights [T, N] at N positions, in positions: [T]."""
    n = weights.shape[1]
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n
    sine, cosine = weights @ np.sin(angles), weights @ np.cos(angles)
    return np.asarray(np.arctan2(sine, cosine) % (2 * np.pi) / (2 * np.pi) * n - 0.5)


def _hold_last_position(x: Series, y: Series, lost: NDArray[np.bool_]) -> None:
    """Where no object is visible, its position is the last one."""
    for frame in np.flatnonzero(lost[1:]) + 1:
        x[frame], y[frame] = x[frame - 1], y[frame - 1]


def _wrap(distance: Series, size: int) -> Series:
    """The shorter signed distance on a ring."""
    return (distance + size / 2) % size - size / 2


def _crop(image: NDArray[T], x: int, y: int, side: int) -> NDArray[T]:
    """`side` pixels of an image around (x, y), wrapping around its edges."""
    rows = (y - side // 2 + np.arange(side)) % image.shape[0]
    columns = (x - side // 2 + np.arange(side)) % image.shape[1]
    return image[rows][:, columns]


def _rotation(difference: NDArray[np.float64], x: Series, y: Series) -> Series:
    """`Track.rotation` of frames [T, H, W, 3] minus their background."""
    positions = zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)
    crops = [_crop(f, *position, _CROP) for f, position in zip(difference, positions, strict=True)]
    out = np.zeros(len(crops))
    for frame, crop in enumerate(crops):
        turned = np.rot90(crops[0], -(frame // FRAMES_PER_POSE))
        out[frame] = _cosine(crop, turned) - _cosine(crop, crops[0])
    return out


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The cosine similarity of two arrays; 0 if one is zero."""
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / length) if length > 0 else 0.0
