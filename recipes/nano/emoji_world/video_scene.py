"""A video of Emoji World: an object in motion on a flat background, and its rendering."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from recipes.nano.emoji_world.download import STYLES
from recipes.nano.emoji_world.icons import ICON_SIZES, Icons
from recipes.nano.emoji_world.motion import (
    CANVAS_SIZE,
    FRAMES_PER_POSE,
    MOTIONS,
    OCCLUDED_SPRITE_SIZE,
    OCCLUSION,
    STEP_SIZE,
    Pose,
)
from recipes.nano.emoji_world.objects import OBJECTS
from recipes.nano.emoji_world.scene import BACKGROUNDS, blank_image, paste_icon

FRAME_RATES = (8, 10, 12)
"""Frames per second. Poses do not depend on it, so motion is faster at a higher rate."""

DURATIONS = (1, 2, 3, 4)
"""Lengths of videos in seconds."""

OCCLUDER_POSITION = 48, 32
"""Centre of the occluder, (x, y) in pixels."""

_STARTS = {
    OCCLUSION: (OCCLUDER_POSITION[0] - 4 * STEP_SIZE, OCCLUDER_POSITION[1]),
    "bouncing": (32, 40),  # on the ground
    "going round": (32, 24),
}
_START = 32, 32  # of all other motions: in the middle, on the grid of codes
_RESIZED_FROM = 48  # px: the icons that sprites of other sizes are scaled from
_NAMES = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class VideoScene:
    """The content of a video.

    `x` and `y` are the centre of the sprite before it moves, in pixels. `delay` is the number of
    frames before the motion starts, a multiple of `FRAMES_PER_POSE`. `occluder` is the object, in
    the same style, in front at `OCCLUDER_POSITION`; it is None unless the motion is `OCCLUSION`.
    Raises InputError on unknown values.
    """

    object: int
    style: int
    motion: str
    background: str
    x: int
    y: int
    frames: int
    fps: int
    delay: int = 0
    occluder: int | None = None

    def __post_init__(self) -> None:
        for index in (self.object, *([] if self.occluder is None else [self.occluder])):
            if not (0 <= index < len(OBJECTS) and 0 <= self.style < len(STYLES)):
                raise InputError(f"there is no object {index} in style {self.style}")
        if self.motion not in MOTIONS:
            raise InputError(f"motion {self.motion!r} is not one of {', '.join(MOTIONS)}")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background {self.background!r} is not one of {', '.join(_NAMES)}")
        if (self.motion == OCCLUSION) != (self.occluder is not None):
            raise InputError(f"motion {OCCLUSION!r} needs an occluder, and no other has one")
        if self.frames < 1 or self.fps < 1:
            raise InputError("the number of frames and the frame rate must be at least 1")
        if self.delay < 0 or self.delay % FRAMES_PER_POSE:
            raise InputError(f"delay {self.delay} is not a multiple of {FRAMES_PER_POSE} frames")

    def pose(self, frame: int) -> Pose:
        """The pose in a frame, counted from 0, also beyond the end of the video."""
        return MOTIONS[self.motion](max(0, frame - self.delay) // FRAMES_PER_POSE)

    def centre(self, frame: int) -> tuple[int, int]:
        """The centre of the sprite in a frame, (x, y) in pixels of the canvas."""
        pose = self.pose(frame)
        return (self.x + pose.x) % CANVAS_SIZE, (self.y + pose.y) % CANVAS_SIZE


def random_video_scene(
    rng: np.random.Generator, object: int, style: int, motion: str
) -> VideoScene:
    """A random composition of an object, a style and a motion.

    In one video of three the motion starts after the first pose.
    """
    fps, seconds = (int(rng.choice(each)) for each in (FRAME_RATES, DURATIONS))
    x, y = _STARTS.get(motion, _START)
    background = _NAMES[int(rng.integers(len(_NAMES)))]
    delay = FRAMES_PER_POSE if rng.random() < 1 / 3 else 0
    occluder = None
    if motion == OCCLUSION:
        occluder = (object + 1 + int(rng.integers(len(OBJECTS) - 1))) % len(OBJECTS)
    return VideoScene(object, style, motion, background, x, y, fps * seconds, fps, delay, occluder)


def render_video(scene: VideoScene, icons: Icons) -> NDArray[np.uint8]:
    """Render a video: uint8 [frames, 64, 64, 3], RGB."""
    return np.stack([render_frame(scene, icons, frame) for frame in range(scene.frames)])


def render_frame(scene: VideoScene, icons: Icons, frame: int) -> NDArray[np.uint8]:
    """Render one frame, uint8 [64, 64, 3], RGB; it may lie beyond the end of the video."""
    x, y = scene.centre(frame)
    pose = replace(scene.pose(frame), x=x, y=y)
    return render_pose(icons, scene.object, scene.style, scene.background, pose, scene.occluder)


def render_pose(
    icons: Icons, object: int, style: int, background: str, pose: Pose, occluder: int | None
) -> NDArray[np.uint8]:
    """Render a sprite centred at the pose's (x, y) behind an occluder: uint8 [64, 64, 3]."""
    out = blank_image(background, "1:1")
    paste_wrapped(out, render_sprite(icons, object, style, pose), pose.x, pose.y)
    if occluder is not None:
        front = render_sprite(icons, occluder, style, Pose(size=OCCLUDED_SPRITE_SIZE))
        paste_wrapped(out, front, *OCCLUDER_POSITION)
    return out


def render_sprite(icons: Icons, object: int, style: int, pose: Pose) -> NDArray[np.uint8]:
    """An object in the size, rotation and opacity of a pose, uint8 [h, w, 4], straight RGBA."""
    known = pose.size if pose.size in ICON_SIZES else _RESIZED_FROM
    image = Image.fromarray(icons.get(object, style, known), "RGBA").convert("RGBa")
    if known != pose.size:
        image = image.resize((pose.size, pose.size), Image.Resampling.LANCZOS)
    out = np.rot90(np.asarray(image.convert("RGBA")), -pose.quarter_turns).copy()
    out[..., 3] = np.rint(out[..., 3] * pose.alpha)
    return out


def paste_wrapped(image: NDArray[np.uint8], icon: NDArray[np.uint8], x: int, y: int) -> None:
    """Blend an icon, centred at (x, y), into an image that wraps around, in place."""
    height, width = icon.shape[:2]
    shift = CANVAS_SIZE // 2 - y, CANVAS_SIZE // 2 - x
    centred = np.roll(image, shift, axis=(0, 1))
    paste_icon(centred, icon, CANVAS_SIZE // 2 - width // 2, CANVAS_SIZE // 2 - height // 2)
    image[:] = np.roll(centred, (-shift[0], -shift[1]), axis=(0, 1))
