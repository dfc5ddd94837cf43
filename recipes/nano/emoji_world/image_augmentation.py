"""An icon as another hand might have drawn it: bent, tinted, simpler, or half another style.

Two drawings of a thing are few to learn from what it looks like in a third style. Variations keep
what makes it that thing and change what a style would change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from recipes.nano.emoji_world.icons import Icons
from recipes.nano.emoji_world.svg_augmentation import Redrawn

RENDERED = 56
"""Side in pixels of the drawings that are varied: the largest there is."""


class Bent(NamedTuple):
    """How far a drawing may be bent as a whole."""

    turn: float  # degrees at most, either way
    stretch: float  # at most, along one axis
    sides: tuple[int, int]  # px, smallest and largest


WIDELY = Bent(15.0, 1.25, (36, RENDERED))
GENTLY = Bent(8.0, 1.15, (44, 52))  # about as large as in a picture composed the usual way

# Between its drawings in two styles a thing's mean colour differs by 0.25 nats in brightness and
# 0.35 in each channel besides, the sides of its box by 0.07 nats, and in one thing of ten by 0.26.
_BLENDED = 0.35  # how often the other style shows through
_REDRAWN = 0.6  # how often its parts are drawn anew, where such drawings are given
_CELLS, _WARP = 3, 0.035  # a net over it, and how far its knots move: of a side, a deviation
_FLAT, _COLOURS = 0.25, (4, 12)  # how often it has so few colours
_PLAIN, _BRUSHES = 0.25, (3, 5)  # how often details go that are smaller than so many pixels
_SHADE, _TINT = 0.25, 0.35  # nats, a standard deviation: of all channels, of each; at most
_SATURATION = (0.4, 1.6)


def vary(
    rng: np.random.Generator,
    icons: Icons,
    object: int,
    styles: Sequence[int],
    redrawn: Redrawn | None = None,
    bent: Bent = WIDELY,
) -> Image.Image:
    """A new drawing of an object, RGBA and square, from its drawings in `styles` alone."""
    order = rng.permutation(np.asarray(styles)).tolist()
    anew = redrawn if redrawn is not None and rng.random() < _REDRAWN else None

    def drawn(style: int) -> Image.Image:
        known = icons.get(object, style, RENDERED) if anew is None else anew.any(rng, object, style)
        return Image.fromarray(known, "RGBA")

    drawing = drawn(order[0])
    other, share = order[-1], rng.uniform(0.2, 0.5)
    if rng.random() < _BLENDED and len(order) > 1:
        # Premultiplied, or the colour of clear pixels would show.
        layers = drawing.convert("RGBa"), drawn(other).convert("RGBa")
        drawing = Image.blend(*layers, share).convert("RGBA")
    return _tinted(rng, _simpler(rng, _warped(rng, _bent(rng, drawing, bent))))


def _bent(rng: np.random.Generator, drawing: Image.Image, most: Bent) -> Image.Image:
    """Turned and stretched about its middle, then scaled to a side of its own."""
    side = int(rng.integers(most.sides[0], most.sides[1] + 1))
    angle = math.radians(rng.uniform(-most.turn, most.turn))
    stretch = math.exp(rng.uniform(-1, 1) * math.log(most.stretch))
    wide, high = RENDERED / side * stretch, RENDERED / side / stretch
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[wide * cos, wide * sin], [-high * sin, high * cos]])  # new pixel to old
    shift = RENDERED / 2 - turn @ np.full(2, side / 2)
    matrix = (*turn[0], shift[0], *turn[1], shift[1])
    bilinear, affine = Image.Resampling.BILINEAR, Image.Transform.AFFINE
    return drawing.transform((side, side), affine, matrix, bilinear)


def _warped(rng: np.random.Generator, drawing: Image.Image) -> Image.Image:
    """Bent here and there: each knot of a net over it is pulled somewhere."""
    side = drawing.width
    lines = np.linspace(0, side, _CELLS + 1)
    knots = np.stack(np.meshgrid(lines, lines, indexing="ij"), -1)  # (y, x) of [row, column]
    knots += rng.normal(0, _WARP * side, knots.shape)
    edges = lines.round().astype(int).tolist()
    mesh = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            box = edges[column], edges[row], edges[column + 1], edges[row + 1]
            corners = ((0, 0), (1, 0), (1, 1), (0, 1))  # counter-clockwise from the upper left
            pulled = [knots[row + down, column + right] for down, right in corners]
            mesh.append((box, tuple(float(each) for y, x in pulled for each in (x, y))))
    # Of straight RGBA the transform mixes premultiplied colours by itself.
    return drawing.transform(drawing.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _simpler(rng: np.random.Generator, drawing: Image.Image) -> Image.Image:
    """Without its smallest details, or in few colours; coverage as it was."""
    coverage, colours = drawing.getchannel("A"), drawing.convert("RGB")
    if rng.random() < _PLAIN:
        colours = colours.filter(ImageFilter.MedianFilter(int(rng.choice(_BRUSHES))))
    if rng.random() < _FLAT:
        colours = colours.quantize(int(rng.integers(_COLOURS[0], _COLOURS[1] + 1))).convert("RGB")
    colours.putalpha(coverage)
    return colours


def _tinted(rng: np.random.Generator, drawing: Image.Image) -> Image.Image:
    """Lighter or darker, each channel by itself, colours fuller or paler; coverage as it was."""
    coverage = drawing.getchannel("A")
    flat = ImageEnhance.Color(drawing.convert("RGB")).enhance(rng.uniform(*_SATURATION))
    gain = np.exp(rng.uniform() * (rng.normal(0, _SHADE) + rng.normal(0, _TINT, 3)))
    pixels: NDArray[np.float64] = np.asarray(flat) * gain
    tinted = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")
    tinted.putalpha(coverage)
    return tinted
