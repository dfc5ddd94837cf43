"""One clip of Emoji World: something that moves on a flat background, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.emoji_world.icons import STYLES, Icons
from emu3.emoji_world.motion import BEHIND, MOTIONS, WORLD, Pose
from emu3.emoji_world.objects import OBJECTS
from emu3.emoji_world.scene import BACKGROUNDS, CODE, blank, paste
from emu3.errors import InputError

RATES = (8, 10, 12)
"""Frames a second. A motion is the same frame by frame, and plays faster at a higher rate."""

SECONDS = (1, 2, 3, 4)
"""How long clips are."""

FRONT = 44, 36
"""Where the middle of what stands in front is, (x, y) in pixels."""

_DRAWN = 48  # px: the icons that sprites are scaled from
_NAMES = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class MovingScene:
    """What a clip shows.

    `x` and `y` are the middle of the sprite before it moves, in pixels; `still` is how many frames
    it waits; `front` is the object, in the same style, that stands before it at `FRONT` where the
    motion is `BEHIND`, and None for every other motion.
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
        if self.frames < 1 or self.fps < 1 or self.still < 0:
            raise InputError("a clip has a frame and a rate of at least 1, and no negative wait")

    def pose(self, frame: int) -> Pose:
        """The sprite in a frame, counted from 0; beyond the clip's end too."""
        return MOTIONS[self.motion](max(0, frame - self.still))

    def middle(self, frame: int) -> tuple[int, int]:
        """Where the middle of the sprite is in a frame, (x, y) in pixels of the world."""
        pose = self.pose(frame)
        return (self.x + pose.x) % WORLD, (self.y + pose.y) % WORLD


def random_moving_scene(
    rng: np.random.Generator, object: int, style: int, motion: str
) -> MovingScene:
    """Put an object that moves on something; what else there is to choose is left to chance.

    It starts on the grid of codes, and in one clip of three stands still for the first four frames.
    """
    fps, seconds = (int(rng.choice(each)) for each in (RATES, SECONDS))
    x, y = (CODE // 2 + CODE * int(rng.integers(2, 6)) for _ in range(2))
    background = _NAMES[int(rng.integers(len(_NAMES)))]
    still = 4 if rng.random() < 1 / 3 else 0
    front = None
    if motion == BEHIND:
        x, y = FRONT[0] - 4 * CODE, FRONT[1]
        front = (object + 1 + int(rng.integers(len(OBJECTS) - 1))) % len(OBJECTS)
    return MovingScene(object, style, motion, background, x, y, fps * seconds, fps, still, front)


def compose_clip(scene: MovingScene, icons: Icons) -> NDArray[np.uint8]:
    """Draw the clip: uint8 [frames, 64, 64, 3], RGB."""
    return np.stack([compose_frame(scene, icons, frame) for frame in range(scene.frames)])


def compose_frame(scene: MovingScene, icons: Icons, frame: int) -> NDArray[np.uint8]:
    """Draw one frame, uint8 [64, 64, 3], RGB; it may lie beyond the clip's end."""
    out = blank(scene.background, "1:1")
    place(out, sprite(icons, scene.object, scene.style, scene.pose(frame)), *scene.middle(frame))
    if scene.front is not None:
        standing = sprite(icons, scene.front, scene.style, Pose())
        place(out, standing, *FRONT)
    return out


def sprite(icons: Icons, object: int, style: int, pose: Pose) -> NDArray[np.uint8]:
    """An object as a pose has it, uint8 [h, w, 4], straight RGBA, its middle in the middle."""
    drawn = Image.fromarray(icons.get(object, style, _DRAWN), "RGBA").convert("RGBa")
    drawn = drawn.resize((pose.side, pose.side), Image.Resampling.LANCZOS)
    if pose.angle:
        # RGBa cannot be turned, and its bands can; premultiplied, or clear pixels would show.
        bands = (
            band.rotate(-pose.angle, Image.Resampling.BICUBIC, expand=True)
            for band in drawn.split()
        )
        drawn = _joined(*bands)
    out = np.array(drawn.convert("RGBA"))
    out[..., 3] = np.rint(out[..., 3] * pose.alpha)
    return out


def _joined(*bands: Image.Image) -> Image.Image:
    """Premultiplied bands to one image; overshoot of the filter over the coverage is cut."""
    arrays = [np.asarray(band) for band in bands]
    coverage = arrays[-1]
    colours = [np.minimum(array, coverage) for array in arrays[:-1]]
    return Image.frombytes("RGBa", bands[0].size, np.dstack([*colours, coverage]).tobytes())


def place(picture: NDArray[np.uint8], icon: NDArray[np.uint8], x: int, y: int) -> None:
    """Draw an icon with its middle at (x, y) of a world that goes round."""
    height, width = icon.shape[:2]
    turned = WORLD // 2 - y, WORLD // 2 - x
    centred = np.roll(picture, turned, axis=(0, 1))
    paste(centred, icon, WORLD // 2 - width // 2, WORLD // 2 - height // 2)
    picture[:] = np.roll(centred, (-turned[0], -turned[1]), axis=(0, 1))
