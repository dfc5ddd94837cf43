"""Visual codes of scenes and videos, assembled from codes of single icons.

The codes of an icon on a flat background hardly depend on where it is, as long as its corner is a
multiple of the code size; what differs comes from the norms and the attention of the tokenizer and
is noise to the decoder. So every icon is encoded once per size, mirroring and background, in the
middle of a square, and its codes are placed on the codes of the plain background. Measured on 150
scenes, 94.7% of the codes equal those of the whole image, and reconstructions lose 0.05 dB; for
videos 95% are equal (`VideoEncoder.agreement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from recipes.nano.emoji_world import (
    CODE_SIZE,
    RATIOS,
    Icons,
    Pose,
    Scene,
    VideoScene,
    code_grid,
    render_pose,
    render_scene,
    render_video,
)
from recipes.nano.emoji_world.motion import CANVAS_SIZE, FRAMES_PER_POSE

SQUARE = code_grid(RATIOS[0])[0]  # codes along a side

_MIDDLE = CANVAS_SIZE // 2 // CODE_SIZE  # in codes: where sprites are encoded
_BATCH = 64  # images encoded at once


def images_to_pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images uint8 [H, W, 3] of one size to pixels [B, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def videos_to_pixels(videos: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Videos uint8 [T, H, W, 3] of one shape to pixels [B, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(videos)).permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)


def scenes_to_pixels(scenes: Sequence[Scene], icons: Icons) -> Tensor:
    """Render scenes of one aspect ratio to pixels [B, 3, H, W] in [-1, 1]."""
    return images_to_pixels([render_scene(scene, icons) for scene in scenes])


def centred_in_square(scene: Scene) -> Scene:
    """The same icon on the same background, in the middle of a square."""
    corner = (SQUARE - scene.size // CODE_SIZE) // 2 * CODE_SIZE
    return replace(scene, ratio=RATIOS[0], x=corner, y=corner)


class SceneEncoder:
    """Encodes scenes to codes [h, w] and keeps the codes of every icon."""

    def __init__(self, vision: VisionTokenizer, icons: Icons) -> None:
        self.vision, self.icons = vision, icons
        self.cache: dict[Scene, Tensor] = {}

    def __call__(self, scenes: Sequence[Scene]) -> list[Tensor]:
        """Codes [h, w] of each scene; aspect ratios may differ."""
        new = [s for s in dict.fromkeys(map(centred_in_square, scenes)) if s not in self.cache]
        if new:
            with torch.no_grad():
                codes = self.vision.encode(scenes_to_pixels(new, self.icons))
            self.cache.update(zip(new, codes.short(), strict=True))
        return [self._place(scene) for scene in scenes]

    def _place(self, scene: Scene) -> Tensor:
        source = centred_in_square(scene)
        codes, side = self.cache[source].long(), scene.size // CODE_SIZE
        top = left = source.x // CODE_SIZE
        out = codes[-1, -1].repeat(*code_grid(scene.ratio))  # the last corner is always background
        y, x = scene.y // CODE_SIZE, scene.x // CODE_SIZE
        out[y : y + side, x : x + side] = codes[top : top + side, left : left + side]
        return out


@dataclass(frozen=True)
class _PoseImage:
    """What is visible during one pose; the pose's `x` and `y` are the centre of the sprite."""

    object: int
    style: int
    background: str
    pose: Pose
    occluder: int | None


class VideoEncoder:
    """Encodes video scenes to codes [t, 8, 8] and keeps the codes of every pose.

    A pose lasts for one frame of codes, and the canvas wraps around, so the codes of a sprite in
    the middle are shifted to its position. Near the edges of the image some codes would differ.
    """

    def __init__(self, vision: VisionTokenizer, icons: Icons) -> None:
        self.vision, self.icons = vision, icons
        self.cache: dict[_PoseImage, Tensor] = {}

    def __call__(self, scenes: Sequence[VideoScene]) -> list[Tensor]:
        """Codes of each scene. The last frame is repeated to fill the last frame of codes."""
        needed = [
            [_pose_image(scene, at) for at in range(0, scene.frames, FRAMES_PER_POSE)]
            for scene in scenes
        ]
        images = dict.fromkeys(image for poses in needed for image, _ in poses)
        new = [image for image in images if image not in self.cache]
        for at in range(0, len(new), _BATCH):
            self._encode(new[at : at + _BATCH])
        return [
            torch.stack([self.cache[image].long().roll(shift, (0, 1)) for image, shift in poses])
            for poses in needed
        ]

    @torch.no_grad()
    def _encode(self, images: list[_PoseImage]) -> None:
        pixels = images_to_pixels([_render(image, self.icons) for image in images])
        self.cache.update(zip(images, self.vision.encode(pixels).short(), strict=True))

    @torch.no_grad()
    def agreement(self, scenes: Sequence[VideoScene]) -> float:
        """The proportion of codes that equal those of the whole video.

        The number of frames of each scene must be a multiple of `FRAMES_PER_POSE`.
        """
        same = []
        for scene, codes in zip(scenes, self(scenes), strict=True):
            pixels = videos_to_pixels([render_video(scene, self.icons)])
            same.append((self.vision.encode_groups(pixels)[0] == codes).flatten())
        return float(torch.cat(same).float().mean())


def _pose_image(scene: VideoScene, frame: int) -> tuple[_PoseImage, tuple[int, int]]:
    """What is encoded for a frame, and by how many codes (down, right) it is shifted."""
    pose = scene.pose(frame)
    x, y, shift = scene.x + pose.x, scene.y + pose.y, (0, 0)
    if scene.occluder is None:  # an occluder stays where it is, so everything must
        shift = (y // CODE_SIZE - _MIDDLE, x // CODE_SIZE - _MIDDLE)
        x, y = x - shift[1] * CODE_SIZE, y - shift[0] * CODE_SIZE
    moved = replace(pose, x=x % CANVAS_SIZE, y=y % CANVAS_SIZE)
    return _PoseImage(scene.object, scene.style, scene.background, moved, scene.occluder), shift


def _render(image: _PoseImage, icons: Icons) -> NDArray[np.uint8]:
    """uint8 [64, 64, 3]."""
    return render_pose(
        icons, image.object, image.style, image.background, image.pose, image.occluder
    )
