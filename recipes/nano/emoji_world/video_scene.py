"""One clip of Emoji World: something that moves on a flat background, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from recipes.nano.emoji_world.icons import SIZES, STYLES, Icons
from recipes.nano.emoji_world.motion import BEAT, BEHIND, MOTIONS, PASSED, STEP, WORLD, Pose
from recipes.nano.emoji_world.objects import OBJECTS
from recipes.nano.emoji_world.scene import BACKGROUNDS, blank, paste

RATES = (8, 10, 12)
"""Frames a second. A motion is the same beat by beat, and plays faster at a higher rate."""

SECONDS = (1, 2, 3, 4)
"""How long clips are."""

FRONT = 48, 32
"""Where the middle of what stands in front is, (x, y) in pixels."""

_STARTS = {
    BEHIND: (FRONT[0] - 4 * STEP, FRONT[1]),
    "bouncing": (32, 40),  # on the ground
    "going round": (32, 24),
}
_START = 32, 32  # of all others: in the middle, and on the grid of codes
_DRAWN = 48  # px: the icons that sprites of other sizes are scaled from
_NAMES = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class MovingScene:
    """What a clip shows.

    `x` and `y` are the middle of the sprite before it moves, in pixels; `still` is how many frames
    it waits, whole beats; `front` is the object, in the same style, that stands before it at
    `FRONT` where the motion is `BEHIND`, and None for every other motion.
    Raises InputError for anything unknown.
    """

    object: int
    style: int
    motion: str
    background: str
    x: int
    y: int
    frames: int
    fps: int
    still: int = 0
    front: int | None = None

    def __post_init__(self) -> None:
        for thing in (self.object, *([] if self.front is None else [self.front])):
            if not (0 <= thing < len(OBJECTS) and 0 <= self.style < len(STYLES)):
                raise InputError(f"there is no object {thing} in style {self.style}")
        if self.motion not in MOTIONS:
            raise InputError(f"motion {self.motion!r} is not one of {', '.join(MOTIONS)}")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background {self.background!r} is not one of {', '.join(_NAMES)}")
        if (self.motion == BEHIND) != (self.front is not None):
            raise InputError(f"something stands in front in {BEHIND!r}, and in nothing else")
        if self.frames < 1 or self.fps < 1:
            raise InputError("a clip has a frame and a rate of at least 1")
        if self.still < 0 or self.still % BEAT:
            raise InputError(f"a clip waits for whole beats of {BEAT} frames, not {self.still}")

    def pose(self, frame: int) -> Pose:
        """The sprite in a frame, counted from 0; beyond the clip's end too."""
        return MOTIONS[self.motion](max(0, frame - self.still) // BEAT)

    def middle(self, frame: int) -> tuple[int, int]:
        """Where the middle of the sprite is in a frame, (x, y) in pixels of the world."""
        pose = self.pose(frame)
        return (self.x + pose.x) % WORLD, (self.y + pose.y) % WORLD


def random_moving_scene(
    rng: np.random.Generator, object: int, style: int, motion: str
) -> MovingScene:
    """Put an object that moves on something; what else there is to choose is left to chance.

    In one clip of three it stands still for the first beat.
    """
    fps, seconds = (int(rng.choice(each)) for each in (RATES, SECONDS))
    x, y = _STARTS.get(motion, _START)
    background = _NAMES[int(rng.integers(len(_NAMES)))]
    still = BEAT if rng.random() < 1 / 3 else 0
    front = None
    if motion == BEHIND:
        front = (object + 1 + int(rng.integers(len(OBJECTS) - 1))) % len(OBJECTS)
    return MovingScene(object, style, motion, background, x, y, fps * seconds, fps, still, front)


def compose_clip(scene: MovingScene, icons: Icons) -> NDArray[np.uint8]:
    """Draw the clip: uint8 [frames, 64, 64, 3], RGB."""
    return np.stack([compose_frame(scene, icons, frame) for frame in range(scene.frames)])


def compose_frame(scene: MovingScene, icons: Icons, frame: int) -> NDArray[np.uint8]:
    """Draw one frame, uint8 [64, 64, 3], RGB; it may lie beyond the clip's end."""
    x, y = scene.middle(frame)
    pose = replace(scene.pose(frame), x=x, y=y)
    return draw_pose(icons, scene.object, scene.style, scene.background, pose, scene.front)


def draw_pose(
    icons: Icons, object: int, style: int, background: str, pose: Pose, front: int | None
) -> NDArray[np.uint8]:
    """Draw a sprite with its middle at the pose's (x, y), uint8 [64, 64, 3]; `front` before it."""
    out = blank(background, "1:1")
    place(out, sprite(icons, object, style, pose), pose.x, pose.y)
    if front is not None:
        place(out, sprite(icons, front, style, Pose(side=PASSED)), *FRONT)
    return out


def sprite(icons: Icons, object: int, style: int, pose: Pose) -> NDArray[np.uint8]:
    """An object as a pose has it, uint8 [h, w, 4], straight RGBA, its middle in the middle."""
    known = pose.side if pose.side in SIZES else _DRAWN
    drawn = Image.fromarray(icons.get(object, style, known), "RGBA").convert("RGBa")
    if known != pose.side:
        drawn = drawn.resize((pose.side, pose.side), Image.Resampling.LANCZOS)
    out = np.rot90(np.asarray(drawn.convert("RGBA")), -pose.turns).copy()
    out[..., 3] = np.rint(out[..., 3] * pose.alpha)
    return out


def place(picture: NDArray[np.uint8], icon: NDArray[np.uint8], x: int, y: int) -> None:
    """Draw an icon with its middle at (x, y) of a world that goes round."""
    height, width = icon.shape[:2]
    turned = WORLD // 2 - y, WORLD // 2 - x
    centred = np.roll(picture, turned, axis=(0, 1))
    paste(centred, icon, WORLD // 2 - width // 2, WORLD // 2 - height // 2)
    picture[:] = np.roll(centred, (-turned[0], -turned[1]), axis=(0, 1))
