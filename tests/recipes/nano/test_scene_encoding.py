"""Codes assembled from single icons equal those of the whole image, for local tokenizers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.nano.emoji_world import (
    ICON_SIZES,
    MOTIONS,
    OBJECTS,
    STYLES,
    Icons,
    Scene,
    code_grid,
    random_scene,
    random_video_scene,
    render_video,
)
from recipes.nano.scene_encoding import (
    SceneEncoder,
    VideoEncoder,
    centred_in_square,
    scenes_to_pixels,
    videos_to_pixels,
)


class MeanTokenizer:
    """A tokenizer whose code is the mean of its patch alone."""

    def __init__(self) -> None:
        self.images = 0

    def encode(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        means = torch.nn.functional.avg_pool2d(pixels, 8).add(1).mul(500).long()
        return (means[:, 0] * 7 + means[:, 1] * 5 + means[:, 2]) % 2048


class HashTokenizer:
    """A tokenizer whose code is a hash of its block of four frames."""

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encode_groups(pixels[:, None].expand(-1, 4, -1, -1, -1))[:, 0]

    def encode_groups(self, pixels: Tensor) -> Tensor:
        whole = pixels.add(1).mul(127.5).round().long()
        blocks = whole.unfold(3, 8, 8).unfold(4, 8, 8)  # [B, T, 3, 8, 8, 8, 8]
        blocks = blocks.unflatten(1, (-1, 4)).permute(0, 1, 4, 5, 2, 3, 6, 7).flatten(4)
        primes = torch.arange(1, blocks.shape[-1] + 1) * 7919 % 2039
        return (blocks * primes).sum(-1) % 2048


@pytest.fixture(scope="module")
def noise_icons() -> Icons:
    rng = np.random.default_rng(0)
    return Icons(
        {
            size: np.broadcast_to(
                rng.integers(0, 256, (len(STYLES), size, size, 4), dtype=np.uint8),
                (len(OBJECTS), len(STYLES), size, size, 4),
            )
            for size in ICON_SIZES
        }
    )


@pytest.fixture(scope="module")
def block_icons() -> Icons:
    blocks = np.random.default_rng(0).integers(0, 256, (len(OBJECTS), 3, 8, 8, 4), np.uint8)
    return Icons({size: blocks.repeat(size // 8, 2).repeat(size // 8, 3) for size in ICON_SIZES})


def whole_image_codes(scene: Scene, icons: Icons) -> Tensor:
    return MeanTokenizer().encode(scenes_to_pixels([scene], icons))[0]


def test_assembled_codes_equal_those_of_whole_image(noise_icons: Icons) -> None:
    rng = np.random.default_rng(1)
    encode = SceneEncoder(MeanTokenizer(), noise_icons)  # type: ignore[arg-type]
    scenes = [random_scene(rng, int(rng.integers(400)), int(rng.integers(3))) for _ in range(40)]
    assert len({scene.ratio for scene in scenes}) == 5
    for scene, codes in zip(scenes, encode(scenes), strict=True):
        assert codes.shape == code_grid(scene.ratio)
        assert torch.equal(codes, whole_image_codes(scene, noise_icons))


def test_icon_is_encoded_once_for_all_positions(noise_icons: Icons) -> None:
    tokenizer = MeanTokenizer()
    encode = SceneEncoder(tokenizer, noise_icons)  # type: ignore[arg-type]
    scene = random_scene(np.random.default_rng(0), 5, 1)
    corner = replace(scene, x=0, y=0)
    first, _, third = encode([scene, corner, scene])
    assert tokenizer.images == 1
    assert torch.equal(first, third)
    encode([replace(scene, background="pink" if scene.background != "pink" else "blue")])
    assert tokenizer.images == 2
    assert centred_in_square(scene) == centred_in_square(corner)


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_assembled_codes_equal_those_of_whole_video(block_icons: Icons, motion: str) -> None:
    encode = VideoEncoder(HashTokenizer(), block_icons)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    scenes = [random_video_scene(rng, 5, 1, motion) for _ in range(3)]
    for scene, codes in zip(scenes, encode(scenes), strict=True):
        video = render_video(scene, block_icons)
        padded = np.concatenate([video, np.repeat(video[-1:], -len(video) % 4, 0)])
        expected = HashTokenizer().encode_groups(videos_to_pixels([padded]))[0]
        assert torch.equal(codes, expected)


def test_sliding_sprite_is_encoded_once(block_icons: Icons) -> None:
    encode = VideoEncoder(HashTokenizer(), block_icons)  # type: ignore[arg-type]
    scene = random_video_scene(np.random.default_rng(3), 5, 1, "moving up")
    encode([replace(scene, frames=48, delay=0)])
    assert len(encode.cache) == 1
    assert encode.agreement([replace(scene, frames=48, delay=0)]) == 1.0
