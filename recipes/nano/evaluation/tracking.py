"""How something moves, seen in the frames: where its middle is, how large, how solid, how turned.

Which of the fifteen motions a clip shows is the one whose true clip, of the same object, is tracked
most alike. So nothing is learnt here, and what tracking cannot tell apart it cannot in true clips
either: a turning ball stands still for the judge too, which is what ceilings are measured for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.motion import BEAT
from recipes.nano.evaluation.features import Pixels

T = TypeVar("T", bound=np.generic)

Frames = NDArray[np.uint8]
"""A clip, uint8 [T, H, W, 3]."""

Series = NDArray[np.float64]
"""A number for each frame, float64 [T]."""

_FAINT = 0.08  # distance from the background, of 1, below which a pixel is background
_SHARE = 0.35  # of the clearest part of a frame that a pixel needs to be part of the sprite
_PIXELS, _LOG_AREA, _CLEAR, _LIKE = 3.0, 0.25, 0.15, 0.3
"""Differences in place, size, clearness and turn that count alike."""
_CROP = 32  # side in pixels of the square around the middle that is turned


@dataclass(frozen=True)
class Track:
    """What was followed. `x` and `y`: pixels from the first frame, the world going round; `area`:
    log of the pixels covered; `clear`: how much it stands out, of 1; `turned`: how much more a
    frame is like the first one turned by a quarter a beat than like the first one, -2 to 2.
    """

    x: Series
    y: Series
    area: Series
    clear: Series
    turned: Series
    world: tuple[int, int]  # height and width

    def apart(self, other: Track) -> float:
        """How unlike two tracks of equally many frames are; 0 for the same."""
        height, width = self.world
        place = _round(self.x - other.x, width) ** 2 + _round(self.y - other.y, height) ** 2
        terms = (
            place / _PIXELS**2,
            ((self.area - other.area) / _LOG_AREA) ** 2,
            ((self.clear - other.clear) / _CLEAR) ** 2,
            ((self.turned - other.turned) / _LIKE) ** 2,
        )
        # One lost frame must not decide: each term counts up to a bound.
        return float(sum(np.minimum(term, 9.0).mean() for term in terms))


def follow(frames: Frames) -> Track:
    """Track what moves on a flat background."""
    back = np.median(frames.reshape(-1, 3), axis=0)
    # float64 [T, H, W]: how far each pixel is from the background, 0 to 1.
    far = np.abs(frames.astype(np.float64) - back).max(-1) / 255
    clear = np.sort(far.reshape(len(far), -1), axis=1)[:, -60:].mean(1)
    mask = far > np.maximum(_FAINT, _SHARE * clear)[:, None, None]
    area = np.log(np.maximum(mask.sum((1, 2)), 1))
    weights = np.where(mask, far, 0.0)
    y, x = (_middles(weights.sum(axis)) for axis in (2, 1))
    _hold(x, y, mask.sum((1, 2)) == 0)
    height, width = frames.shape[1:3]
    turned = _turned(frames.astype(np.float64) - back, x, y)
    return Track(
        _round(x - x[0], width), _round(y - y[0], height), area, clear, turned, (height, width)
    )


def nearest_motion(frames: Frames, candidates: Mapping[str, Track]) -> str:
    """The candidate whose track is most like that of a clip as long as theirs."""
    track = follow(frames)
    return min(candidates, key=lambda motion: track.apart(candidates[motion]))


def cut_out(frame: Pixels, side: int) -> Pixels:
    """The square of `side` pixels around what stands on a frame, the world going round."""
    back = np.median(frame.reshape(-1, 3), axis=0)
    far = np.abs(frame.astype(np.float64) - back).max(-1) / 255
    weights = np.where(far > _FAINT, far, 0.0)[None]
    y, x = (round(float(_middles(weights.sum(axis))[0])) for axis in (2, 1))
    return _square(frame, x, y, side)


def _middles(weights: Series) -> Series:
    """The middle of weights [T, N] on a ring of N places, in places: [T]."""
    n = weights.shape[1]
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n
    sine, cosine = weights @ np.sin(angles), weights @ np.cos(angles)
    return np.asarray(np.arctan2(sine, cosine) % (2 * np.pi) / (2 * np.pi) * n - 0.5)


def _hold(x: Series, y: Series, lost: NDArray[np.bool_]) -> None:
    """Where nothing is seen it is where it was last."""
    for frame in np.flatnonzero(lost[1:]) + 1:
        x[frame], y[frame] = x[frame - 1], y[frame - 1]


def _round(distance: Series, size: int) -> Series:
    """The shorter way round a ring."""
    return (distance + size / 2) % size - size / 2


def _square(picture: NDArray[T], x: int, y: int, side: int) -> NDArray[T]:
    """`side` pixels of a picture around (x, y), going round its edges."""
    rows = (y - side // 2 + np.arange(side)) % picture.shape[0]
    columns = (x - side // 2 + np.arange(side)) % picture.shape[1]
    return picture[rows][:, columns]


def _turned(far: NDArray[np.float64], x: Series, y: Series) -> Series:
    """`Track.turned` of frames [T, H, W, 3] less their background."""
    places = zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)
    crops = [_square(frame, *place, _CROP) for frame, place in zip(far, places, strict=True)]
    out = np.zeros(len(crops))
    for frame, crop in enumerate(crops):
        out[frame] = _like(crop, np.rot90(crops[0], -(frame // BEAT))) - _like(crop, crops[0])
    return out


def _like(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The cosine of two arrays, 0 where one is nothing."""
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / length) if length > 0 else 0.0
