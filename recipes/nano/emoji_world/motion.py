"""The fifteen motions of Emoji World: position, size, rotation and opacity of a sprite over time.

A pose is held for four frames, which the tokenizer encodes as one frame of codes, and sprites move
by whole codes. Every frame is therefore an image of the image data set, and motion moves the same
codes to other positions.

Motions do not end, so a video has any length and a defined continuation. The canvas wraps around:
a sprite that leaves on the right enters on the left. Bouncing, spinning and going round repeat;
growing, shrinking and fading reach a final pose and keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.objects import OBJECTS

CANVAS_SIZE = 64
"""Side of the square that videos show, in pixels."""

FRAMES_PER_POSE = 4
"""Frames that a pose is held for: those of one frame of codes."""

STEP_SIZE = 8
"""Pixels that a sprite moves between poses: one code."""

SPRITE_SIZE = 48
"""Side of a sprite in pixels, that of most icons in images."""

MIN_SPRITE_SIZE, MAX_SPRITE_SIZE = 16, 48
"""Final sides of shrinking and growing; each starts with the final side of the other."""

OCCLUDED_SPRITE_SIZE = 32
"""Side in pixels of the occluder and of the sprite that passes behind it: both must fit."""

_HEIGHTS = (0, 8, 16, 8)  # pixels above the ground: a parabola
_ORBIT = ((0, 0), (1, 1), (0, 2), (-1, 1))  # positions of going round, in steps
_FADE_POSES = 4  # until nothing is visible


@dataclass(frozen=True)
class Pose:
    """A sprite at one time.

    `x` and `y` are the offset of its centre from the start in pixels, y downwards; `size` is the
    side of its square in pixels; `quarter_turns` are clockwise; `alpha` is 0 (invisible) to 1.
    """

    x: int = 0
    y: int = 0
    size: int = SPRITE_SIZE
    quarter_turns: int = 0
    alpha: float = 1.0


Trajectory = Callable[[int], Pose]
"""The number of the pose, counted from the start of the motion, to the pose."""


def _slide(dx: int, dy: int, size: int = SPRITE_SIZE) -> Trajectory:
    """One step per pose along each axis of motion."""
    return lambda index: Pose(x=STEP_SIZE * dx * index, y=STEP_SIZE * dy * index, size=size)


def _bounce(index: int) -> Pose:
    """A parabola from the ground to the ground, repeated."""
    return Pose(y=-_HEIGHTS[index % len(_HEIGHTS)])


def _go_round(index: int) -> Pose:
    """Clockwise around a centre below the start."""
    right, down = _ORBIT[index % len(_ORBIT)]
    return Pose(x=STEP_SIZE * right, y=STEP_SIZE * down)


def _grow(index: int) -> Pose:
    return Pose(size=min(MAX_SPRITE_SIZE, MIN_SPRITE_SIZE + 2 * STEP_SIZE * index))


def _shrink(index: int) -> Pose:
    return Pose(size=max(MIN_SPRITE_SIZE, MAX_SPRITE_SIZE - 2 * STEP_SIZE * index))


DIRECTIONS: dict[str, tuple[int, int]] = {
    "to the right": (1, 0),
    "to the left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and to the right": (1, -1),
    "up and to the left": (-1, -1),
    "down and to the right": (1, 1),
    "down and to the left": (-1, 1),
}
"""The eight directions as captions name them: steps per pose to the right and downwards."""

OCCLUSION = "passing behind"
"""The one motion with a second object, which stands still in front."""

MOTIONS: dict[str, Trajectory] = {
    **{f"moving {direction}": _slide(*step) for direction, step in DIRECTIONS.items()},
    "bouncing": _bounce,
    "spinning": lambda index: Pose(quarter_turns=index % 4),
    "growing": _grow,
    "shrinking": _shrink,
    "fading away": lambda index: Pose(alpha=max(0.0, 1 - index / _FADE_POSES)),
    "going round": _go_round,
    OCCLUSION: _slide(1, 0, OCCLUDED_SPRITE_SIZE),
}
"""All motions, as captions name them after the object."""

_HELD_OUT = 10  # one in this many pairs of object and motion


def held_out_motions(seed: int = 0) -> NDArray[np.bool_]:
    """Mask [400, motions] of the pairs that are never trained on.

    A tenth of the objects for each motion, and nearly equally many motions for each object.
    """
    order = np.random.default_rng((seed, len(MOTIONS))).permutation(len(OBJECTS))
    mask = np.zeros((len(OBJECTS), len(MOTIONS)), np.bool_)
    count = len(OBJECTS) // _HELD_OUT
    for motion in range(len(MOTIONS)):
        mask[np.roll(order, -motion * count)[:count], motion] = True
    return mask
