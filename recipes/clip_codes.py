"""Clips as codes, each group encoded once wherever it stands.

The world goes round and a sprite starts on the grid of codes, so a group is the same as one in the
middle of the world, moved by whole codes. Such a group is encoded once an object, style, background
and course of poses, and its codes are rolled to their place. At the edges of a true clip the
tokenizer sees where the world is cut, and some codes differ: `agreement` measures how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.emoji_world import CODE, Icons, MovingScene, Pose, blank, compose_clip, place, sprite
from emu3.emoji_world.clip import FRONT
from emu3.emoji_world.motion import WORLD
from emu3.vision.tokenizer import VisionTokenizer

GROUP = 4  # frames of a group
SIDE = WORLD // CODE  # codes along a side of the world
_MIDDLE = WORLD // 2 + CODE // 2  # of a sprite that stands where groups are encoded, px
_AT_ONCE = 16  # groups


@dataclass(frozen=True)
class _Course:
    """What four frames show, wherever that is: poses whose `x` and `y` are the sprite's middle."""

    object: int
    style: int
    background: str
    poses: tuple[Pose, ...]
    front: int | None


def pixels_of_clips(clips: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Clips [T, H, W, 3] of one size as pixels [B, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)


class CodesOfClips:
    """Moving scenes to codes [t, 8, 8]; remembers what it has encoded."""

    def __init__(self, vision: VisionTokenizer, icons: Icons) -> None:
        self.vision, self.icons = vision, icons
        self.known: dict[_Course, Tensor] = {}

    def __call__(self, scenes: Sequence[MovingScene]) -> list[Tensor]:
        """Codes of each scene, its last group filled up with its last frame."""
        wanted = [[_course(scene, at) for at in range(0, scene.frames, GROUP)] for scene in scenes]
        new = [
            course
            for course in dict.fromkeys(course for groups in wanted for course, _ in groups)
            if course not in self.known
        ]
        for at in range(0, len(new), _AT_ONCE):
            self._encode(new[at : at + _AT_ONCE])
        return [
            torch.stack([self.known[course].long().roll(by, (0, 1)) for course, by in groups])
            for groups in wanted
        ]

    @torch.no_grad()
    def _encode(self, courses: list[_Course]) -> None:
        pixels = pixels_of_clips([_drawn(course, self.icons) for course in courses])
        codes = self.vision.encode_groups(pixels)[:, 0].short()
        self.known.update(zip(courses, codes, strict=True))

    @torch.no_grad()
    def agreement(self, scenes: Sequence[MovingScene]) -> float:
        """The share of codes that the tokenizer gives whole clips of whole groups too."""
        same = []
        for scene, codes in zip(scenes, self(scenes), strict=True):
            pixels = pixels_of_clips([compose_clip(scene, self.icons)])
            same.append((self.vision.encode_groups(pixels)[0] == codes).flatten())
        return float(torch.cat(same).float().mean())


def _course(scene: MovingScene, first: int) -> tuple[_Course, tuple[int, int]]:
    """Four frames as they are encoded, and by how many codes (down, right) they lie elsewhere."""
    frames = [min(first + each, scene.frames - 1) for each in range(GROUP)]
    poses = [scene.pose(frame) for frame in frames]
    if scene.front is not None:  # what stands in front stays where it is, and so does all else
        x0, y0, by = scene.x, scene.y, (0, 0)
    else:
        # The start of the first of them, in codes, goes to the middle.
        right, down = ((scene.x + poses[0].x) // CODE, (scene.y + poses[0].y) // CODE)
        by = (down - _MIDDLE // CODE, right - _MIDDLE // CODE)
        x0, y0 = scene.x - by[1] * CODE, scene.y - by[0] * CODE
    moved = tuple(
        Pose(x0 + pose.x, y0 + pose.y, pose.side, pose.angle, pose.alpha) for pose in poses
    )
    return _Course(scene.object, scene.style, scene.background, moved, scene.front), by


def _drawn(course: _Course, icons: Icons) -> NDArray[np.uint8]:
    """The four frames, uint8 [4, 64, 64, 3]."""
    frames = []
    for pose in course.poses:
        out = blank(course.background, "1:1")
        place(out, sprite(icons, course.object, course.style, pose), pose.x % WORLD, pose.y % WORLD)
        if course.front is not None:
            place(out, sprite(icons, course.front, course.style, Pose()), *FRONT)
        frames.append(out)
    return np.stack(frames)
