"""How things move in Emoji World: where a sprite is, how large, how turned, how solid, at a beat.

The world is filmed as stop motion: a pose is held for the four frames that the tokenizer puts into
one group of codes, and sprites go from code to code. So what a frame of a clip shows is a picture,
and to move is to say the same codes elsewhere.

Every motion goes on for ever, so a clip may be as long as one likes and what comes next is always
known: sliding goes round the world (what leaves on the right comes in on the left), bouncing,
spinning and going round repeat, growing, shrinking and fading come to an end and stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.objects import OBJECTS

WORLD = 64
"""Side of the square that clips are seen in, in pixels."""

BEAT = 4
"""Frames that a pose is held."""

STEP = 8
"""Pixels that a sprite slides from one pose to the next: a code."""

SIDE = 48
"""Side of a sprite as it stands, in pixels: that of most icons in pictures."""

SMALL, LARGE = 16, 48
"""Sides that shrinking and growing end at; each begins with the other's."""

PASSED = 32
"""Side of what passes behind and of what it passes, in pixels: there has to be room for both."""

_HEIGHTS = (0, 8, 16, 8)  # pixels above the ground: a parabola
_ROUND = ((0, 0), (1, 1), (0, 2), (-1, 1))  # places of a round, in steps
_FADE = 4  # beats until nothing is left


@dataclass(frozen=True)
class Pose:
    """A sprite at a beat.

    `x` and `y`: how far its middle is from where it started, in pixels, y downwards; `side` of its
    square, pixels; `turns`, quarters clockwise; `alpha`, 0 (gone) to 1 (solid).
    """

    x: int = 0
    y: int = 0
    side: int = SIDE
    turns: int = 0
    alpha: float = 1.0


Path = Callable[[int], Pose]
"""Beats since it began to move, to the pose."""


def _slide(dx: int, dy: int, side: int = SIDE) -> Path:
    """A step a beat along each axis that it moves along."""
    return lambda beat: Pose(x=STEP * dx * beat, y=STEP * dy * beat, side=side)


def _bounce(beat: int) -> Pose:
    """A parabola from the ground to the ground, over and over."""
    return Pose(y=-_HEIGHTS[beat % len(_HEIGHTS)])


def _orbit(beat: int) -> Pose:
    """Clockwise round a middle that lies below the start."""
    right, down = _ROUND[beat % len(_ROUND)]
    return Pose(x=STEP * right, y=STEP * down)


def _grow(beat: int) -> Pose:
    return Pose(side=min(LARGE, SMALL + 2 * STEP * beat))


def _shrink(beat: int) -> Pose:
    return Pose(side=max(SMALL, LARGE - 2 * STEP * beat))


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
"""The eight directions, as they are said: steps a beat to the right and downwards."""

BEHIND = "passing behind"
"""The one motion that needs a second thing, which stands still in front."""

MOTIONS: dict[str, Path] = {
    **{f"moving {way}": _slide(*step) for way, step in SLIDES.items()},
    "bouncing": _bounce,
    "spinning": lambda beat: Pose(turns=beat % 4),
    "growing": _grow,
    "shrinking": _shrink,
    "fading away": lambda beat: Pose(alpha=max(0.0, 1 - beat / _FADE)),
    "going round": _orbit,
    BEHIND: _slide(1, 0, PASSED),
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
