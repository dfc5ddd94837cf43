"""Scenes as codes, put together on the grid of codes.

An icon stands on that grid, so its codes are the same wherever it stands; only norms and attention
of the tokenizer let some of them change with what else is in the picture, and to the decoder that
is noise. So each icon is encoded once a size, mirror and background, in the middle of a square,
and its codes are set into codes of plain background. Measured on 150 scenes: 94.7% of the codes are
those of the whole picture, and reconstructions lose 0.05 dB.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from recipes.nano.emoji_world import CODE, RATIOS, Icons, Scene, grid
from recipes.nano.train_vision import pixels_of

SQUARE = grid(RATIOS[0])[0]  # codes along a side


def middle(scene: Scene) -> Scene:
    """The same icon on the same background, in the middle of a square."""
    corner = (SQUARE - scene.size // CODE) // 2 * CODE
    return replace(scene, ratio=RATIOS[0], x=corner, y=corner)


class CodesOfScenes:
    """Scenes to codes [h, w]; remembers what it has encoded."""

    def __init__(self, vision: VisionTokenizer, icons: Icons) -> None:
        self.vision, self.icons = vision, icons
        self.known: dict[Scene, Tensor] = {}

    def __call__(self, scenes: list[Scene]) -> list[Tensor]:
        """Codes [h, w] of each scene, which may be of any ratio."""
        new = [s for s in dict.fromkeys(map(middle, scenes)) if s not in self.known]
        if new:
            with torch.no_grad():
                codes = self.vision.encode(pixels_of(new, self.icons))
            self.known.update(zip(new, codes.short(), strict=True))
        return [self._placed(scene) for scene in scenes]

    def _placed(self, scene: Scene) -> Tensor:
        source = middle(scene)
        codes, side = self.known[source].long(), scene.size // CODE
        top = left = source.x // CODE
        out = codes[-1, -1].repeat(*grid(scene.ratio))  # the lower right corner is always plain
        y, x = scene.y // CODE, scene.x // CODE
        out[y : y + side, x : x + side] = codes[top : top + side, left : left + side]
        return out
