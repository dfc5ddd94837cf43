"""Augmentation of an icon's SVG document, shape by shape.

An icon consists of a few shapes. Each is moved, rotated, scaled and recoloured on its own, some are
removed, gradients become flat colours, or all shapes get an outline. The object stays recognisable.
`image_augmentation` warps and recolours the result as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emu3.progress import count_progress
from recipes.nano.emoji_world.download import STYLE_PACKAGES, fetch_icons
from recipes.nano.emoji_world.icons import (
    crop_and_centre,
    default_folder,
    find_icon_name,
    icon_svg,
    render_svg,
    save_array,
)
from recipes.nano.emoji_world.objects import OBJECTS

VARIANTS_PER_ICON = 8

VARIANT_SIZE = 56
"""Side of a variant in pixels."""

_SVG = "{http://www.w3.org/2000/svg}"
_SHAPES = {f"{_SVG}{tag}" for tag in ("path", "circle", "ellipse", "rect", "polygon", "polyline")}
_NOT_RENDERED = {
    f"{_SVG}{tag}"
    for tag in ("defs", "clipPath", "mask", "linearGradient", "radialGradient", "filter", "pattern")
}
_GRADIENTS = {f"{_SVG}linearGradient", f"{_SVG}radialGradient"}
_HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})")
_REFERENCE = re.compile(r"url\(#(.*)\)")

# Upper limits; every variant has limits of its own below these.
_REMOVED = 0.25  # proportion of the shapes above the lowest, if there are more than _FEW
_FEW = 3
_SHIFT, _ROTATION, _SCALE = 0.03, 6.0, 0.08  # standard deviations: of the side, degrees, log
_BRIGHTNESS = 0.25  # standard deviation of the log gain; each channel has another 0.7 of it
_FLAT, _OUTLINED = 0.5, 0.25  # probabilities of no gradients, and of an outline
_OUTLINE_WIDTH, _OUTLINE_GAIN = 0.02, 0.6  # of the side; of the colour of the shape


@dataclass(frozen=True)
class IconVariants:
    """`array` is uint8 [400, styles, VARIANTS_PER_ICON, VARIANT_SIZE, VARIANT_SIZE, 4], RGBA."""

    array: NDArray[np.uint8]

    @classmethod
    def load(cls, folder: Path | None = None, packages: Mapping[str, str] = STYLE_PACKAGES) -> Self:
        """Load the variants, or render them, which takes minutes, if the folder lacks them."""
        where = default_folder() if folder is None else folder
        source = Path(__file__).read_text(encoding="utf-8")
        facts = [OBJECTS, packages, VARIANTS_PER_ICON, VARIANT_SIZE, source]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        path = where / f"variants-{digest}.npy"
        if not path.is_file():
            save_array(path, _render_all(where, packages))
        return cls(np.load(path, mmap_mode="r"))

    def sample(self, rng: np.random.Generator, object: int, style: int) -> NDArray[np.uint8]:
        """One variant of an icon, uint8 [VARIANT_SIZE, VARIANT_SIZE, 4]."""
        variant: NDArray[np.uint8] = self.array[object, style, rng.integers(VARIANTS_PER_ICON)]
        return variant


def _render_all(folder: Path, packages: Mapping[str, str]) -> NDArray[np.uint8]:
    """The variants of all icons, with fixed seeds; transparent where a set lacks the object."""
    sets = fetch_icons(folder, packages)
    icon_sets = [json.loads(sets[style].read_text(encoding="utf-8")) for style in packages]
    shape = (len(OBJECTS), len(packages), VARIANTS_PER_ICON, VARIANT_SIZE, VARIANT_SIZE, 4)
    out = np.zeros(shape, np.uint8)
    with count_progress("rendering icon variants", len(OBJECTS) * len(packages)) as advance:
        for o, name in enumerate(OBJECTS):
            for s, icon_set in enumerate(icon_sets):
                if known := find_icon_name(icon_set, name):
                    rng, document = np.random.default_rng((o, s)), icon_svg(icon_set, known)
                    for k in range(VARIANTS_PER_ICON):
                        variant = render_svg(augment_svg(rng, document))
                        out[o, s, k] = crop_and_centre(variant, VARIANT_SIZE)
                advance(1)
    return out


def augment_svg(rng: np.random.Generator, document: str) -> str:
    """An SVG document with augmented shapes; the lowest shape is never removed."""
    root = ET.fromstring(document)
    left, top, wide, high = (float(number) for number in root.attrib["viewBox"].split())
    augmentation = _ShapeAugmentation(rng, (left + wide / 2, top + high / 2), max(wide, high))
    gradients, shapes = _gradients(root), _shapes(root)
    removed = rng.uniform(0, _REMOVED) if len(shapes) > _FEW else 0.0
    flat, outlined = rng.random() < _FLAT, rng.random() < _OUTLINED
    for place, (parent, shape) in enumerate(shapes):
        if place and rng.random() < removed:
            parent.remove(shape)
            continue
        augmentation.move(shape)
        augmentation.recolour(shape, gradients if flat else {})
        if outlined:
            augmentation.outline(shape)
    return ET.tostring(root, encoding="unicode")


class _ShapeAugmentation:
    """The limits of one variant, and what is done to its shapes."""

    def __init__(self, rng: np.random.Generator, centre: tuple[float, float], side: float) -> None:
        self.rng, self.centre, self.side = rng, centre, side
        self.shift, self.rotation, self.scale, self.brightness = rng.uniform(
            0, (_SHIFT * side, _ROTATION, _SCALE, _BRIGHTNESS)
        )

    def move(self, shape: ET.Element) -> None:
        """Shift, rotate and scale about the centre of the document."""
        x, y = self.centre
        to_x, to_y = self.rng.normal(self.centre, self.shift)
        wide, high = np.exp(self.rng.normal(0, self.scale, 2))
        angle = self.rng.normal(0, self.rotation)
        moved = (
            f"translate({to_x:.3f} {to_y:.3f}) rotate({angle:.3f}) "
            f"scale({wide:.4f} {high:.4f}) translate({-x:.3f} {-y:.3f})"
        )
        shape.set("transform", f"{moved} {shape.get('transform', '')}".rstrip())

    def recolour(self, shape: ET.Element, gradients: dict[str, list[str]]) -> None:
        """Change brightness and tint; a gradient in `gradients` becomes one of its colours."""
        common = self.rng.normal(0, self.brightness)
        gain = np.exp(common + self.rng.normal(0, 0.7 * self.brightness, 3))
        for paint in ("fill", "stroke"):
            colour = shape.get(paint, "")
            reference = _REFERENCE.fullmatch(colour)
            if reference and reference[1] in gradients:
                colours = gradients[reference[1]]
                colour = colours[self.rng.integers(len(colours))]
            if _HEX.fullmatch(colour):
                shape.set(paint, _hex(_rgb(colour) * gain))

    def outline(self, shape: ET.Element) -> None:
        """Add a darker outline to a shape of one colour that has none."""
        colour = shape.get("fill", "")
        if _HEX.fullmatch(colour) and shape.get("stroke") is None:
            shape.set("stroke", _hex(_rgb(colour) * _OUTLINE_GAIN))
            shape.set("stroke-width", f"{_OUTLINE_WIDTH * self.side:.3f}")


def _shapes(root: ET.Element) -> list[tuple[ET.Element, ET.Element]]:
    """Rendered shapes with their parents as (parent, shape), lowest first."""
    found = []
    for child in root:
        if child.tag in _SHAPES:
            found.append((root, child))
        elif child.tag not in _NOT_RENDERED:
            found += _shapes(child)
    return found


def _gradients(root: ET.Element) -> dict[str, list[str]]:
    """The colours of each gradient that has stops of its own, by id."""
    found = {}
    for each in root.iter():
        if each.tag in _GRADIENTS:
            colours = [stop.get("stop-color", "") for stop in each]
            if known := [colour for colour in colours if _HEX.fullmatch(colour)]:
                found[each.get("id", "")] = known
    return found


def _rgb(colour: str) -> NDArray[np.float64]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)], np.float64)


def _hex(rgb: NDArray[np.float64]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb.clip(0, 255).round().astype(int))
