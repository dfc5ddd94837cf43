"""Drawings as no style has them: another each time, of the same thing, and of nothing unseen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from recipes.nano.emoji_world import (
    GENTLY,
    OBJECTS,
    SIZES,
    STYLES,
    Icons,
    Redrawn,
    blank,
    paste,
    vary,
)
from recipes.nano.emoji_world.svg_augmentation import REDRAWN, SIDE


@pytest.fixture(scope="module")
def discs() -> Icons:
    """Discs of one colour a style: red, green, blue."""
    arrays = {}
    for size in SIZES:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = x**2 + y**2 < (size / 2 - 1) ** 2
        icons = np.zeros((len(STYLES), size, size, 4), np.uint8)
        for style in range(len(STYLES)):
            icons[style, inside, style] = 200
            icons[style, inside, 3] = 255
        arrays[size] = np.broadcast_to(icons, (len(OBJECTS), *icons.shape))
    return Icons(arrays)


def drawings(icons: Icons, styles: list[int], count: int = 60, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [vary(rng, icons, 0, styles) for _ in range(count)]


def colour(drawing: Image.Image) -> np.ndarray:
    pixels = np.asarray(drawing, np.float64)
    return np.average(pixels[..., :3].reshape(-1, 3), axis=0, weights=pixels[..., 3].ravel() + 1e-9)


def test_the_seed_decides(discs: Icons) -> None:
    first, again = drawings(discs, [0, 1]), drawings(discs, [0, 1])
    assert [d.tobytes() for d in first] == [d.tobytes() for d in again]
    assert len({d.tobytes() for d in first}) == len(first)


@pytest.mark.parametrize(("styles", "unseen"), [([0, 1], 2), ([0, 2], 1), ([1], 0)])
def test_only_the_styles_given_show(discs: Icons, styles: list[int], unseen: int) -> None:
    """A held-out style must never leak in, not even half transparent."""
    known = bytes_of(drawings(discs, styles))
    assert known == bytes_of(drawings(repainted(discs, unseen), styles))
    for style in styles:
        assert known != bytes_of(drawings(repainted(discs, style), styles))


def bytes_of(made: list[Image.Image]) -> list[bytes]:
    return [drawing.tobytes() for drawing in made]


def repainted(icons: Icons, style: int) -> Icons:
    """The same icons, but for one style."""
    arrays = {size: icons.arrays[size].copy() for size in SIZES}
    for array in arrays.values():
        array[:, style] = 99
    return Icons(arrays)


def test_it_is_turned_scaled_and_tinted_but_all_there(discs: Icons) -> None:
    made = drawings(discs, [0])
    assert {d.mode for d in made} == {"RGBA"}
    sides = {d.size for d in made}
    assert all(w == h and 36 <= w <= 56 for w, h in sides)
    assert len(sides) > 5
    for drawing in made:
        covered = (np.asarray(drawing)[..., 3] > 127).mean()
        assert 0.6 < covered / (np.pi / 4) < 1.1
    reds = [colour(d)[0] for d in made]
    assert max(reds) - min(reds) > 10


def test_drawings_made_anew_take_turns_with_those_that_are_known(discs: Icons) -> None:
    """Black squares here; and the style that is not given must not show, in these either."""
    squares = np.zeros((len(STYLES), REDRAWN, SIDE, SIDE, 4), np.uint8)
    squares[..., 3] = 255
    made = []
    for unseen in (0, 99):
        squares[2, ..., :3] = unseen
        redrawn = Redrawn(np.broadcast_to(squares, (len(OBJECTS), *squares.shape)))
        rng = np.random.default_rng(0)
        made.append([vary(rng, discs, 0, [0, 1], redrawn) for _ in range(100)])
    assert bytes_of(made[0]) == bytes_of(made[1])
    black = sum(colour(each).max() < 1 for each in made[0])
    assert 45 <= black <= 75


def test_gently_it_stays_about_as_large_as_it_is_drawn(discs: Icons) -> None:
    rng = np.random.default_rng(0)
    sides = {vary(rng, discs, 0, [0], None, GENTLY).width for _ in range(60)}
    assert min(sides) >= 44
    assert max(sides) <= 52


def test_pasting_draws_over_what_is_there(discs: Icons) -> None:
    picture = blank("white", "4:3")
    assert picture.shape == (56, 72, 3)
    paste(picture, discs.get(0, 2, 40), 30, 10)
    assert (picture[30, 50] == (0, 0, 200)).all()
    assert (picture[:10] == 255).all()
    assert (picture[:, :30] == 255).all()
