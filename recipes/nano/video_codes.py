"""Clips as codes, each picture encoded once wherever it stands.

A pose is held for a group of frames, so the codes of a group are those of a picture. The world goes
round and a sprite stands on the grid of codes, so that picture is the same as one with the sprite
in the middle, moved by whole codes. It is encoded there, once an object, style, background and
pose, and its codes are rolled to their place. At the edges of a true clip the tokenizer sees where
the world is cut, and some codes differ: `agreement` measures how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from recipes.nano.emoji_world import CODE, Icons, MovingScene, Pose, compose_clip, draw_pose
from recipes.nano.emoji_world.motion import BEAT, WORLD
from recipes.nano.train_vision import as_pixels

_MIDDLE = WORLD // 2 // CODE  # in codes: where pictures are encoded
_AT_ONCE = 64  # pictures


@dataclass(frozen=True)
class _Picture:
    """What a beat shows; the pose's `x` and `y` are where the sprite's middle is."""

    object: int
    style: int
    background: str
    pose: Pose
    front: int | None


def pixels_of_clips(clips: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Clips [T, H, W, 3] of one size as pixels [B, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)


class CodesOfClips:
    """Moving scenes to codes [t, 8, 8]; remembers what it has encoded."""

    def __init__(self, vision: VisionTokenizer, icons: Icons) -> None:
        self.vision, self.icons = vision, icons
        self.known: dict[_Picture, Tensor] = {}

    def __call__(self, scenes: Sequence[MovingScene]) -> list[Tensor]:
        """Codes of each scene, its last group filled up with its last frame."""
        wanted = [[_picture(scene, at) for at in range(0, scene.frames, BEAT)] for scene in scenes]
        shown = dict.fromkeys(picture for beats in wanted for picture, _ in beats)
        new = [picture for picture in shown if picture not in self.known]
        for at in range(0, len(new), _AT_ONCE):
            self._encode(new[at : at + _AT_ONCE])
        return [
            torch.stack([self.known[picture].long().roll(by, (0, 1)) for picture, by in beats])
            for beats in wanted
        ]

    @torch.no_grad()
    def _encode(self, pictures: list[_Picture]) -> None:
        pixels = as_pixels([_drawn(picture, self.icons) for picture in pictures])
        self.known.update(zip(pictures, self.vision.encode(pixels).short(), strict=True))

    @torch.no_grad()
    def agreement(self, scenes: Sequence[MovingScene]) -> float:
        """The share of codes that the tokenizer gives whole clips of whole groups too."""
        same = []
        for scene, codes in zip(scenes, self(scenes), strict=True):
            pixels = pixels_of_clips([compose_clip(scene, self.icons)])
            same.append((self.vision.encode_groups(pixels)[0] == codes).flatten())
        return float(torch.cat(same).float().mean())


def _picture(scene: MovingScene, frame: int) -> tuple[_Picture, tuple[int, int]]:
    """A beat as it is encoded, and by how many codes (down, right) it lies elsewhere."""
    pose = scene.pose(frame)
    x, y, by = scene.x + pose.x, scene.y + pose.y, (0, 0)
    if scene.front is None:  # else what stands in front stays where it is, and so does all else
        by = (y // CODE - _MIDDLE, x // CODE - _MIDDLE)
        x, y = x - by[1] * CODE, y - by[0] * CODE
    placed = replace(pose, x=x % WORLD, y=y % WORLD)
    return _Picture(scene.object, scene.style, scene.background, placed, scene.front), by


def _drawn(picture: _Picture, icons: Icons) -> NDArray[np.uint8]:
    """The picture, uint8 [64, 64, 3]."""
    p = picture
    return draw_pose(icons, p.object, p.style, p.background, p.pose, p.front)
