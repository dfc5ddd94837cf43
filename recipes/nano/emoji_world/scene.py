"""An image of Emoji World: an icon on a flat background, and its rendering."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu3.errors import InputError
from recipes.nano.emoji_world.icon_sets import ICON_SETS
from recipes.nano.emoji_world.icons import ICON_SIZES, Icons
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
"""Aspect ratios of an image, width:height."""

CODE_SIZE = 8
"""Pixels along a side of the patch that one visual code stands for."""

CENTRED_PROBABILITY = 0.75
"""Probability of a centred composition: the object in the middle, at `CENTRED_SIZE`."""

CENTRED_SIZE = 48
"""Side in pixels of the icon in a centred composition; less where it would not fit."""

_AREA = 64 * 64
_SQUARE_PROBABILITY = 0.6
_LARGE_PROBABILITY = 0.75
_MIRROR_PROBABILITY = 0.25
_NAMES = tuple(BACKGROUNDS)


def code_grid(ratio: str) -> tuple[int, int]:
    """Height and width in codes of an image of about 64 * 64 px: `"4:3"` gives (7, 9).

    Raises InputError on a ratio that is not in `RATIOS`.
    """
    if ratio not in RATIOS:
        raise InputError(f"ratio {ratio!r} is not one of {', '.join(RATIOS)}")
    width, height = (int(part) for part in ratio.split(":"))
    unit = math.sqrt(_AREA / (width * height)) / CODE_SIZE
    return round(height * unit), round(width * unit)


@dataclass(frozen=True)
class Scene:
    """The content of an image. `size`, `x` and `y` (left and top of the icon) are in pixels.

    `style` is an index into `ICON_SETS`: the three styles, then the other sets.
    Raises InputError on unknown values and on an icon that leaves the image.
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
        if not (0 <= self.object < len(OBJECTS) and 0 <= self.style < len(ICON_SETS)):
            raise InputError(f"there is no object {self.object} in style {self.style}")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background {self.background!r} is not one of {', '.join(_NAMES)}")
        if self.size not in ICON_SIZES:
            raise InputError(f"icon size {self.size} is not one of {ICON_SIZES}")
        if not (0 <= self.x <= w - self.size and 0 <= self.y <= h - self.size):
            raise InputError(f"a {self.size} px icon at ({self.x}, {self.y}) leaves {w}x{h} px")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        h, w = code_grid(self.ratio)
        return h * CODE_SIZE, w * CODE_SIZE


def random_scene(
    rng: np.random.Generator,
    object: int,
    style: int,
    *,
    centred: float = CENTRED_PROBABILITY,
    aligned: bool = True,
) -> Scene:
    """A random composition of an object in a style.

    With probability `centred` the composition is `centred_scene`; otherwise position and size are
    random, and the icon may be mirrored. `aligned` restricts the icon's corner to multiples of
    `CODE_SIZE`.
    """
    square = rng.random() < _SQUARE_PROBABILITY
    ratio = RATIOS[0] if square else RATIOS[1 + int(rng.integers(len(RATIOS) - 1))]
    background = _NAMES[int(rng.integers(len(_NAMES)))]
    if rng.random() < centred:
        return centred_scene(object, style, background, ratio)
    h, w = (side * CODE_SIZE for side in code_grid(ratio))
    sizes = icon_sizes(ratio)
    size = sizes[0 if rng.random() < _LARGE_PROBABILITY else -1]
    step = CODE_SIZE if aligned else 1
    x, y = (step * int(rng.integers((side - size) // step + 1)) for side in (w, h))
    # Sampled in any case, so that `mirrorable` does not shift later random numbers.
    mirror = bool(rng.random() < _MIRROR_PROBABILITY) and mirrorable(OBJECTS[object])
    return Scene(object, style, background, ratio, size, x, y, mirror)


def centred_scene(object: int, style: int, background: str, ratio: str = RATIOS[0]) -> Scene:
    """The object in the middle, as nearly as multiples of `CODE_SIZE` allow, not mirrored."""
    h, w = code_grid(ratio)
    size = min(CENTRED_SIZE, icon_sizes(ratio)[0])
    x, y = ((side - size // CODE_SIZE) // 2 * CODE_SIZE for side in (w, h))
    return Scene(object, style, background, ratio, size, x, y, mirror=False)


def icon_sizes(ratio: str) -> tuple[int, ...]:
    """Sides in pixels of the icons that fit: one or two codes less than the shorter side."""
    short = min(code_grid(ratio)) * CODE_SIZE
    return tuple(short - CODE_SIZE * k for k in (1, 2) if short - CODE_SIZE * k >= min(ICON_SIZES))


def render_scene(scene: Scene, icons: Icons) -> NDArray[np.uint8]:
    """Render a scene: uint8 [height, width, 3], RGB."""
    icon = icons.get(scene.object, scene.style, scene.size)
    if scene.mirror:
        icon = icon[:, ::-1]
    out = blank_image(scene.background, scene.ratio)
    paste_icon(out, icon, scene.x, scene.y)
    return out


def blank_image(background: str, ratio: str) -> NDArray[np.uint8]:
    """An image of the background alone: uint8 [height, width, 3], RGB."""
    h, w = code_grid(ratio)
    out = np.empty((h * CODE_SIZE, w * CODE_SIZE, 3), np.uint8)
    out[:] = BACKGROUNDS[background]
    return out


def paste_icon(image: NDArray[np.uint8], icon: NDArray[np.uint8], x: int, y: int) -> None:
    """Blend an icon, straight RGBA [h, w, 4], into an image, its corner at (x, y), in place."""
    h, w = icon.shape[:2]
    under = image[y : y + h, x : x + w].astype(np.uint16)
    # 255 * 255 + 127 still fits 16 bits, so this is exact rounding without floats.
    alpha = icon[..., 3:].astype(np.uint16)
    blend = (icon[..., :3] * alpha + under * (255 - alpha) + 127) // 255
    image[y : y + h, x : x + w] = blend
