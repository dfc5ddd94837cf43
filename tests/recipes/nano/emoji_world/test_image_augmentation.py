"""Augmented icons: different each time, recognisable, and without unseen styles."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from recipes.nano.emoji_world import (
    ICON_SIZES,
    OBJECTS,
    SMALL_AFFINE,
    STYLES,
    Icons,
    IconVariants,
    augment_icon,
    blank_image,
    paste_icon,
)
from recipes.nano.emoji_world.svg_augmentation import VARIANT_SIZE, VARIANTS_PER_ICON


@pytest.fixture(scope="module")
def discs() -> Icons:
    """Discs in one colour per style: red, green, blue."""
    arrays = {}
    for size in ICON_SIZES:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = x**2 + y**2 < (size / 2 - 1) ** 2
        icons = np.zeros((len(STYLES), size, size, 4), np.uint8)
        for style in range(len(STYLES)):
            icons[style, inside, style] = 200
            icons[style, inside, 3] = 255
        arrays[size] = np.broadcast_to(icons, (len(OBJECTS), *icons.shape))
    return Icons(arrays)


def augmented(icons: Icons, styles: list[int], count: int = 60, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [augment_icon(rng, icons, 0, styles) for _ in range(count)]


def mean_colour(icon: Image.Image) -> np.ndarray:
    pixels = np.asarray(icon, np.float64)
    return np.average(pixels[..., :3].reshape(-1, 3), axis=0, weights=pixels[..., 3].ravel() + 1e-9)


def test_seed_reproduces_icons(discs: Icons) -> None:
    first, again = augmented(discs, [0, 1]), augmented(discs, [0, 1])
    assert [d.tobytes() for d in first] == [d.tobytes() for d in again]
    assert len({d.tobytes() for d in first}) == len(first)


@pytest.mark.parametrize(("styles", "unseen"), [([0, 1], 2), ([0, 2], 1), ([1], 0)])
def test_only_given_styles_are_used(discs: Icons, styles: list[int], unseen: int) -> None:
    """A held-out style must not leak in, not even by blending."""
    known = bytes_of(augmented(discs, styles))
    assert known == bytes_of(augmented(repainted(discs, unseen), styles))
    for style in styles:
        assert known != bytes_of(augmented(repainted(discs, style), styles))


def bytes_of(made: list[Image.Image]) -> list[bytes]:
    return [icon.tobytes() for icon in made]


def repainted(icons: Icons, style: int) -> Icons:
    """The same icons, but for one style."""
    arrays = {size: icons.arrays[size].copy() for size in ICON_SIZES}
    for array in arrays.values():
        array[:, style] = 99
    return Icons(arrays)


def test_size_and_colour_vary_but_the_object_stays_whole(discs: Icons) -> None:
    made = augmented(discs, [0])
    assert {d.mode for d in made} == {"RGBA"}
    sides = {d.size for d in made}
    assert all(w == h and 36 <= w <= 56 for w, h in sides)
    assert len(sides) > 5
    for icon in made:
        covered = (np.asarray(icon)[..., 3] > 127).mean()
        assert 0.6 < covered / (np.pi / 4) < 1.1
    reds = [mean_colour(d)[0] for d in made]
    assert max(reds) - min(reds) > 10


def test_svg_variants_are_used_with_their_probability(discs: Icons) -> None:
    """Variants are black squares; a style that is not given must not be used here either."""
    squares = np.zeros((len(STYLES), VARIANTS_PER_ICON, VARIANT_SIZE, VARIANT_SIZE, 4), np.uint8)
    squares[..., 3] = 255
    made = []
    for unseen in (0, 99):
        squares[2, ..., :3] = unseen
        variants = IconVariants(np.broadcast_to(squares, (len(OBJECTS), *squares.shape)))
        rng = np.random.default_rng(0)
        made.append([augment_icon(rng, discs, 0, [0, 1], variants) for _ in range(100)])
    assert bytes_of(made[0]) == bytes_of(made[1])
    black = sum(mean_colour(each).max() < 1 for each in made[0])
    assert 45 <= black <= 75


def test_small_affine_keeps_size_within_limits(discs: Icons) -> None:
    rng = np.random.default_rng(0)
    sides = {augment_icon(rng, discs, 0, [0], None, SMALL_AFFINE).width for _ in range(60)}
    assert min(sides) >= 44
    assert max(sides) <= 52


def test_paste_replaces_covered_pixels_alone(discs: Icons) -> None:
    image = blank_image("white", "4:3")
    assert image.shape == (56, 72, 3)
    paste_icon(image, discs.get(0, 2, 40), 30, 10)
    assert (image[30, 50] == (0, 0, 200)).all()
    assert (image[:10] == 255).all()
    assert (image[:, :30] == 255).all()
