"""Augmentation of an icon: affine and mesh warps, colour jitter, simplification, style blending.

Two icons of an object are few to learn from what it looks like in a third style. The augmentation
keeps the object recognisable and changes what styles differ in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from recipes.nano.emoji_world.icons import Icons
from recipes.nano.emoji_world.svg_augmentation import IconVariants

SOURCE_SIZE = 56
"""Side in pixels of the icons that are augmented: the largest size."""


class AffineLimits(NamedTuple):
    """Limits of the affine transform."""

    rotation: float  # degrees, in both directions
    stretch: float  # factor along one axis
    sizes: tuple[int, int]  # px, smallest and largest side


LARGE_AFFINE = AffineLimits(15.0, 1.25, (36, SOURCE_SIZE))
SMALL_AFFINE = AffineLimits(8.0, 1.15, (44, 52))  # near the size in centred compositions

# Measured between two styles of an object: the log of its mean colour differs by 0.25 in brightness
# and by 0.35 per channel besides, the log of its sides by 0.07, and for one object in ten by 0.26.
_BLEND = 0.35  # probability of blending with another style
_SVG_VARIANT = 0.6  # probability of an SVG variant as the source, where there are some
_CELLS, _WARP = (
    3,
    0.035,
)  # cells of the mesh along a side; standard deviation of its nodes, of a side
_QUANTISE, _COLOURS = 0.25, (4, 12)  # probability of few colours, and how few
_MEDIAN, _KERNELS = 0.25, (3, 5)  # probability of a median filter, and its sizes in pixels
_BRIGHTNESS, _TINT = 0.25, 0.35  # largest standard deviations of log gain: common, per channel
_SATURATION = (0.4, 1.6)


def augment_icon(
    rng: np.random.Generator,
    icons: Icons,
    object: int,
    styles: Sequence[int],
    variants: IconVariants | None = None,
    limits: AffineLimits = LARGE_AFFINE,
) -> Image.Image:
    """An augmented icon of an object, RGBA and square, from its icons in `styles` alone."""
    order = rng.permutation(np.asarray(styles)).tolist()
    source = variants if variants is not None and rng.random() < _SVG_VARIANT else None

    def load(style: int) -> Image.Image:
        if source is None:
            return Image.fromarray(icons.get(object, style, SOURCE_SIZE), "RGBA")
        return Image.fromarray(source.sample(rng, object, style), "RGBA")

    icon = load(order[0])
    other, share = order[-1], rng.uniform(0.2, 0.5)
    if rng.random() < _BLEND and len(order) > 1:
        # Premultiplied, or the colour of transparent pixels would show.
        layers = icon.convert("RGBa"), load(other).convert("RGBa")
        icon = Image.blend(*layers, share).convert("RGBA")
    return _colour_jitter(rng, _simplify(rng, _mesh_warp(rng, _affine(rng, icon, limits))))


def _affine(rng: np.random.Generator, icon: Image.Image, limits: AffineLimits) -> Image.Image:
    """Rotate and stretch about the centre, then scale to a random size."""
    side = int(rng.integers(limits.sizes[0], limits.sizes[1] + 1))
    angle = math.radians(rng.uniform(-limits.rotation, limits.rotation))
    stretch = math.exp(rng.uniform(-1, 1) * math.log(limits.stretch))
    wide, high = SOURCE_SIZE / side * stretch, SOURCE_SIZE / side / stretch
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[wide * cos, wide * sin], [-high * sin, high * cos]])  # new pixel to old
    shift = SOURCE_SIZE / 2 - linear @ np.full(2, side / 2)
    matrix = (*linear[0], shift[0], *linear[1], shift[1])
    bilinear, affine = Image.Resampling.BILINEAR, Image.Transform.AFFINE
    return icon.transform((side, side), affine, matrix, bilinear)


def _mesh_warp(rng: np.random.Generator, icon: Image.Image) -> Image.Image:
    """Warp with a mesh whose nodes are displaced at random."""
    side = icon.width
    lines = np.linspace(0, side, _CELLS + 1)
    nodes = np.stack(np.meshgrid(lines, lines, indexing="ij"), -1)  # (y, x) of [row, column]
    nodes += rng.normal(0, _WARP * side, nodes.shape)
    edges = lines.round().astype(int).tolist()
    mesh = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            box = edges[column], edges[row], edges[column + 1], edges[row + 1]
            corners = ((0, 0), (1, 0), (1, 1), (0, 1))  # counter-clockwise from the upper left
            displaced = [nodes[row + down, column + right] for down, right in corners]
            mesh.append((box, tuple(float(each) for y, x in displaced for each in (x, y))))
    # For straight RGBA, Pillow interpolates premultiplied colours.
    return icon.transform(icon.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _simplify(rng: np.random.Generator, icon: Image.Image) -> Image.Image:
    """Remove small details or reduce the number of colours; alpha is kept."""
    alpha, colours = icon.getchannel("A"), icon.convert("RGB")
    if rng.random() < _MEDIAN:
        colours = colours.filter(ImageFilter.MedianFilter(int(rng.choice(_KERNELS))))
    if rng.random() < _QUANTISE:
        colours = colours.quantize(int(rng.integers(_COLOURS[0], _COLOURS[1] + 1))).convert("RGB")
    colours.putalpha(alpha)
    return colours


def _colour_jitter(rng: np.random.Generator, icon: Image.Image) -> Image.Image:
    """Change brightness, the gain of each channel and saturation; alpha is kept."""
    alpha = icon.getchannel("A")
    saturated = ImageEnhance.Color(icon.convert("RGB")).enhance(rng.uniform(*_SATURATION))
    gain = np.exp(rng.uniform() * (rng.normal(0, _BRIGHTNESS) + rng.normal(0, _TINT, 3)))
    pixels: NDArray[np.float64] = np.asarray(saturated) * gain
    tinted = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")
    tinted.putalpha(alpha)
    return tinted
