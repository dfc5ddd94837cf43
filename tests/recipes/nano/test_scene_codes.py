"""Scenes as codes: what stands on the grid of codes may be put together there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.nano.emoji_world import OBJECTS, SIZES, STYLES, Icons, grid, random_scene
from recipes.nano.scene_codes import CodesOfScenes, middle
from recipes.nano.train_vision import pixels_of


class Local:
    """A tokenizer whose code is the mean of its patch alone: then pasting changes nothing."""

    def __init__(self) -> None:
        self.pictures = 0

    def encode(self, pixels: Tensor) -> Tensor:
        self.pictures += len(pixels)
        means = torch.nn.functional.avg_pool2d(pixels, 8).add(1).mul(500).long()
        return (means[:, 0] * 7 + means[:, 1] * 5 + means[:, 2]) % 2048


@pytest.fixture(scope="module")
def icons() -> Icons:
    rng = np.random.default_rng(0)
    return Icons(
        {
            size: np.broadcast_to(
                rng.integers(0, 256, (len(STYLES), size, size, 4), dtype=np.uint8),
                (len(OBJECTS), len(STYLES), size, size, 4),
            )
            for size in SIZES
        }
    )


def test_of_a_local_tokenizer_they_are_the_codes_of_the_picture(icons: Icons) -> None:
    rng, local = np.random.default_rng(1), Local()
    codes_of = CodesOfScenes(local, icons)  # type: ignore[arg-type]
    scenes = [random_scene(rng, int(rng.integers(400)), int(rng.integers(3))) for _ in range(40)]
    assert len({scene.ratio for scene in scenes}) == 5
    for scene, codes in zip(scenes, codes_of(scenes), strict=True):
        assert codes.shape == grid(scene.ratio)
        assert torch.equal(codes, local_codes(scene, icons))


def local_codes(scene: object, icons: Icons) -> Tensor:
    return Local().encode(pixels_of([scene], icons))[0]  # type: ignore[list-item]


def test_an_icon_is_encoded_once_wherever_it_stands(icons: Icons) -> None:
    local = Local()
    codes_of = CodesOfScenes(local, icons)  # type: ignore[arg-type]
    scene = random_scene(np.random.default_rng(0), 5, 1)
    corner = replace(scene, x=0, y=0)
    first, _, third = codes_of([scene, corner, scene])
    assert local.pictures == 1
    assert torch.equal(first, third)
    codes_of([replace(scene, background="pink" if scene.background != "pink" else "blue")])
    assert local.pictures == 2
    assert middle(scene) == middle(corner)
