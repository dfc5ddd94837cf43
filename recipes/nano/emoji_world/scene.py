"""One picture of Emoji World: an icon somewhere on a flat background, and how it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu3.errors import InputError
from recipes.nano.emoji_world.icon_sets import HANDS
from recipes.nano.emoji_world.icons import SIZES, Icons
from recipes.nano.emoji_world.objects import OBJECTS, mirrorable

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "gray": (200, 200, 200),
    "yellow": (255, 236, 150),
    "green": (176, 224, 168),
    "blue": (168, 208, 248),
    "pink": (250, 190, 206),
}
"""The flat, light background colours, RGB 0 to 255."""

RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16")
"""Shapes of a picture, width:height."""

CODE = 8
"""Pixels along a side of what one code of the tokenizer covers."""

USUAL = 0.75
"""How often a picture is composed the usual way: its object in the middle, at `USUAL_SIZE`."""

USUAL_SIZE = 48
"""Side of an icon in a picture composed the usual way, in pixels; less where it would not fit."""

_AREA = 64 * 64
_SQUARE_PROBABILITY = 0.6
_LARGE_PROBABILITY = 0.75
_MIRROR_PROBABILITY = 0.25
_NAMES = tuple(BACKGROUNDS)


def grid(ratio: str) -> tuple[int, int]:
    """Height and width in codes of a picture of about 64 * 64 px: `"4:3"` gives (7, 9).

    Raises InputError for a ratio that is not in `RATIOS`.
    """
    if ratio not in RATIOS:
        raise InputError(f"ratio {ratio!r} is not one of {', '.join(RATIOS)}")
    width, height = (int(part) for part in ratio.split(":"))
    unit = math.sqrt(_AREA / (width * height)) / CODE
    return round(height * unit), round(width * unit)


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `size`, `x` and `y` (left and top of the icon) are in pixels.

    `style` is an index into `HANDS`: the three styles, then the other hands.

    Raises InputError for anything unknown and for an icon that would leave the picture.
    """

    object: int
    style: int
    background: str
    ratio: str
    size: int
    x: int
    y: int
    mirror: bool

    def __post_init__(self) -> None:
        h, w = self.shape
        if not (0 <= self.object < len(OBJECTS) and 0 <= self.style < len(HANDS)):
            raise InputError(f"there is no object {self.object} in style {self.style}")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background {self.background!r} is not one of {', '.join(_NAMES)}")
        if self.size not in SIZES:
            raise InputError(f"icon size {self.size} is not one of {SIZES}")
        if not (0 <= self.x <= w - self.size and 0 <= self.y <= h - self.size):
            raise InputError(f"a {self.size} px icon at ({self.x}, {self.y}) leaves {w}x{h} px")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        h, w = grid(self.ratio)
        return h * CODE, w * CODE


def random_scene(
    rng: np.random.Generator, object: int, style: int, *, usual: float = USUAL, aligned: bool = True
) -> Scene:
    """Put an object, drawn in a style, on something: as pictures mostly have it, or anywhere.

    With probability `usual` it stands in the middle as it is drawn; else where and how large is
    left to chance, and it may be mirrored. `aligned` keeps the icon's corner on the grid of codes;
    without it any pixel will do.
    """
    square = rng.random() < _SQUARE_PROBABILITY
    ratio = RATIOS[0] if square else RATIOS[1 + int(rng.integers(len(RATIOS) - 1))]
    background = _NAMES[int(rng.integers(len(_NAMES)))]
    if rng.random() < usual:
        return usual_scene(object, style, background, ratio)
    h, w = (side * CODE for side in grid(ratio))
    sizes = icon_sizes(ratio)
    size = sizes[0 if rng.random() < _LARGE_PROBABILITY else -1]
    step = CODE if aligned else 1
    x, y = (step * int(rng.integers((side - size) // step + 1)) for side in (w, h))
    # Drawn in any case, so that which objects may be mirrored does not shift later draws.
    mirror = bool(rng.random() < _MIRROR_PROBABILITY) and mirrorable(OBJECTS[object])
    return Scene(object, style, background, ratio, size, x, y, mirror)


def usual_scene(object: int, style: int, background: str, ratio: str = RATIOS[0]) -> Scene:
    """The object in the middle, as nearly as the grid of codes allows, the way it is drawn."""
    h, w = grid(ratio)
    size = min(USUAL_SIZE, icon_sizes(ratio)[0])
    x, y = ((side - size // CODE) // 2 * CODE for side in (w, h))
    return Scene(object, style, background, ratio, size, x, y, mirror=False)


def icon_sizes(ratio: str) -> tuple[int, ...]:
    """Sides in pixels of the icons that a picture may hold: one or two codes less than it."""
    short = min(grid(ratio)) * CODE
    return tuple(short - CODE * k for k in (1, 2) if short - CODE * k >= min(SIZES))


def compose(scene: Scene, icons: Icons) -> NDArray[np.uint8]:
    """Draw the scene: uint8 [height, width, 3], RGB."""
    icon = icons.get(scene.object, scene.style, scene.size)
    if scene.mirror:
        icon = icon[:, ::-1]
    out = blank(scene.background, scene.ratio)
    paste(out, icon, scene.x, scene.y)
    return out


def blank(background: str, ratio: str) -> NDArray[np.uint8]:
    """Nothing on a background: uint8 [height, width, 3], RGB."""
    h, w = grid(ratio)
    out = np.empty((h * CODE, w * CODE, 3), np.uint8)
    out[:] = BACKGROUNDS[background]
    return out


def paste(picture: NDArray[np.uint8], icon: NDArray[np.uint8], x: int, y: int) -> None:
    """Draw an icon, straight RGBA [h, w, 4], into a picture, its corner at (x, y)."""
    h, w = icon.shape[:2]
    under = picture[y : y + h, x : x + w].astype(np.uint16)
    # 255 * 255 + 127 still fits 16 bits, so this is exact rounding without floats.
    alpha = icon[..., 3:].astype(np.uint16)
    blend = (icon[..., :3] * alpha + under * (255 - alpha) + 127) // 255
    picture[y : y + h, x : x + w] = blend
