"""How things move in Emoji World: where a sprite is, how large, how turned, how solid, at a frame.

Every motion goes on for ever, so a clip may be as long as one likes and what comes next is always
known: sliding goes round the world (what leaves on the right comes in on the left), bouncing,
spinning and orbiting repeat, growing, shrinking and fading come to an end and stay there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu3.emoji_world.objects import OBJECTS

WORLD = 64
"""Side of the square that clips are seen in, in pixels."""

SIDE = 24
"""Side of a sprite as it stands, in pixels."""

SMALL, LARGE = 12, 40  # sides that shrinking and growing end at
_BOUNCE, _HIGH = 20, 14  # frames from ground to ground, pixels at the top
_TURN = 7.5  # degrees a frame
_ORBIT, _RADIUS = 48, 14  # frames a round, pixels
_FADE = 32  # frames until nothing is left


@dataclass(frozen=True)
class Pose:
    """A sprite in a frame.

    `x` and `y`: how far its middle is from where it started, in pixels, y downwards; `side` of its
    square, pixels; `angle`, degrees clockwise; `alpha`, 0 (gone) to 1 (solid).
    """

    x: int = 0
    y: int = 0
    side: int = SIDE
    angle: float = 0.0
    alpha: float = 1.0


Path = Callable[[int], Pose]
"""Frames since it began to move, to the pose."""


def _slide(dx: int, dy: int) -> Path:
    """A pixel a frame along each axis that it moves along."""
    return lambda frame: Pose(x=dx * frame, y=dy * frame)


def _bounce(frame: int) -> Pose:
    """A parabola from the ground to the ground, over and over."""
    t = frame % _BOUNCE / _BOUNCE
    return Pose(y=-round(4 * _HIGH * t * (1 - t)))


def _orbit(frame: int) -> Pose:
    """Clockwise round a middle that lies below the start."""
    t = 2 * math.pi * frame / _ORBIT
    return Pose(x=round(_RADIUS * math.sin(t)), y=round(_RADIUS * (1 - math.cos(t))))


SLIDES: dict[str, tuple[int, int]] = {
    "to the right": (1, 0),
    "to the left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and to the right": (1, -1),
    "up and to the left": (-1, -1),
    "down and to the right": (1, 1),
    "down and to the left": (-1, 1),
}
"""The eight directions, as they are said: pixels a frame to the right and downwards."""

BEHIND = "passing behind"
"""The one motion that needs a second thing, which stands still in front."""

MOTIONS: dict[str, Path] = {
    **{f"moving {way}": _slide(*step) for way, step in SLIDES.items()},
    "bouncing": _bounce,
    "spinning": lambda frame: Pose(angle=_TURN * frame % 360),
    "growing": lambda frame: Pose(side=min(LARGE, SIDE + frame)),
    "shrinking": lambda frame: Pose(side=max(SMALL, SIDE - frame)),
    "fading away": lambda frame: Pose(alpha=max(0.0, 1 - frame / _FADE)),
    "going round": _orbit,
    BEHIND: _slide(1, 0),
}
"""All motions, as a caption says them behind the object."""

_HELD_OUT = 10  # one pair of object and motion in so many


def held_out_motions(seed: int = 0) -> NDArray[np.bool_]:
    """Mask [400, motions], true for the pairs never to be seen together in training.

    A tenth of the objects for each motion, and as nearly as can be equally many for each object.
    """
    order = np.random.default_rng((seed, len(MOTIONS))).permutation(len(OBJECTS))
    mask = np.zeros((len(OBJECTS), len(MOTIONS)), np.bool_)
    count = len(OBJECTS) // _HELD_OUT
    for motion in range(len(MOTIONS)):
        mask[np.roll(order, -motion * count)[:count], motion] = True
    return mask
