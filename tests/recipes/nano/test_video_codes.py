"""Clips put together from groups: what is rolled to its place is what was there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.nano.emoji_world import (
    MOTIONS,
    OBJECTS,
    SIZES,
    Icons,
    compose_clip,
    random_moving_scene,
)
from recipes.nano.video_codes import CodesOfClips, pixels_of_clips


class Blocks:
    """A tokenizer that knows nothing of edges: a code is what is in a block, seen in a hash."""

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encode_groups(pixels[:, None].expand(-1, 4, -1, -1, -1))[:, 0]

    def encode_groups(self, pixels: Tensor) -> Tensor:
        whole = pixels.add(1).mul(127.5).round().long()
        blocks = whole.unfold(3, 8, 8).unfold(4, 8, 8)  # [B, T, 3, 8, 8, 8, 8]
        blocks = blocks.unflatten(1, (-1, 4)).permute(0, 1, 4, 5, 2, 3, 6, 7).flatten(4)
        primes = torch.arange(1, blocks.shape[-1] + 1) * 7919 % 2039
        return (blocks * primes).sum(-1) % 2048


@pytest.fixture(scope="module")
def icons() -> Icons:
    blocks = np.random.default_rng(0).integers(0, 256, (len(OBJECTS), 3, 8, 8, 4), np.uint8)
    return Icons({size: blocks.repeat(size // 8, 2).repeat(size // 8, 3) for size in SIZES})


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_codes_put_together_are_those_of_the_whole_clip(icons: Icons, motion: str) -> None:
    codes_of = CodesOfClips(Blocks(), icons)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    scenes = [random_moving_scene(rng, 5, 1, motion) for _ in range(3)]
    for scene, codes in zip(scenes, codes_of(scenes), strict=True):
        clip = compose_clip(scene, icons)
        missing = -len(clip) % 4
        whole = np.concatenate([clip, np.repeat(clip[-1:], missing, 0)])
        expected = Blocks().encode_groups(pixels_of_clips([whole]))[0]
        assert torch.equal(codes, expected)


def test_a_slide_is_encoded_once_and_no_more(icons: Icons) -> None:
    codes_of = CodesOfClips(Blocks(), icons)  # type: ignore[arg-type]
    scene = random_moving_scene(np.random.default_rng(3), 5, 1, "moving up")
    codes_of([replace(scene, frames=48, still=0)])
    assert len(codes_of.known) == 1
