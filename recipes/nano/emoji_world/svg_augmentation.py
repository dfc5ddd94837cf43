"""An icon as its own artist might have drawn it on another day: part by part.

Icons are SVG documents of a few shapes each. Here every shape is moved, turned and recoloured a
little by itself, some are left out, gradients become flat or all shapes get an outline. What is
left is still that thing, put together anew; `variation.py` bends and tints it as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emu3.progress import count_progress
from recipes.nano.emoji_world.download import PACKAGES, fetch_icons
from recipes.nano.emoji_world.icons import default_folder, fit, name_in, render, save_array, svg
from recipes.nano.emoji_world.objects import OBJECTS

REDRAWN = 8
"""New drawings of each icon."""

SIDE = 56
"""Of their squares, in pixels."""

_SVG = "{http://www.w3.org/2000/svg}"
_SHAPES = {f"{_SVG}{tag}" for tag in ("path", "circle", "ellipse", "rect", "polygon", "polyline")}
_UNSEEN = {
    f"{_SVG}{tag}"
    for tag in ("defs", "clipPath", "mask", "linearGradient", "radialGradient", "filter", "pattern")
}
_GRADIENTS = {f"{_SVG}linearGradient", f"{_SVG}radialGradient"}
_HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})")
_REFERENCE = re.compile(r"url\(#(.*)\)")

# At most, each drawing has less of each: deviations but for the first.
_LEFT_OUT = 0.25  # of the shapes above the lowest, where there are more than _FEW
_FEW = 3
_SHIFT, _TURN, _SCALE = 0.03, 6.0, 0.08  # of the side, degrees, nats
_SHADE = 0.25  # nats; each channel besides by 0.7 of it
_FLAT, _OUTLINED = 0.5, 0.25  # how many drawings have no gradients, and an outline
_OUTLINE, _DARKER = 0.02, 0.6  # its width of the side, its colour of the shape's


@dataclass(frozen=True)
class Redrawn:
    """`array` is uint8 [400, styles, REDRAWN, SIDE, SIDE, 4], straight RGBA."""

    array: NDArray[np.uint8]

    @classmethod
    def load(cls, folder: Path | None = None, packages: Mapping[str, str] = PACKAGES) -> Redrawn:
        """Read the drawings, or make them in a minute or two where the folder lacks them."""
        where = default_folder() if folder is None else folder
        facts = [OBJECTS, packages, REDRAWN, SIDE, Path(__file__).read_text(encoding="utf-8")]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        path = where / f"redrawn-{digest}.npy"
        if not path.is_file():
            save_array(path, _all(where, packages))
        return cls(np.load(path, mmap_mode="r"))

    def any(self, rng: np.random.Generator, object: int, style: int) -> NDArray[np.uint8]:
        """One of the drawings of an object in a style, uint8 [SIDE, SIDE, 4]."""
        drawing: NDArray[np.uint8] = self.array[object, style, rng.integers(REDRAWN)]
        return drawing


def _all(folder: Path, packages: Mapping[str, str]) -> NDArray[np.uint8]:
    """Every icon redrawn, always the same way; clear where there is none."""
    sets = fetch_icons(folder, packages)
    icon_sets = [json.loads(sets[style].read_text(encoding="utf-8")) for style in packages]
    out = np.zeros((len(OBJECTS), len(packages), REDRAWN, SIDE, SIDE, 4), np.uint8)
    with count_progress("redrawing icons", len(OBJECTS) * len(packages)) as advance:
        for o, name in enumerate(OBJECTS):
            for s, icon_set in enumerate(icon_sets):
                if known := name_in(icon_set, name):
                    rng, document = np.random.default_rng((o, s)), svg(icon_set, known)
                    for k in range(REDRAWN):
                        out[o, s, k] = fit(render(redraw(rng, document)), SIDE)
                advance(1)
    return out


def redraw(rng: np.random.Generator, document: str) -> str:
    """An SVG document with its shapes drawn anew, each by itself; the lowest stays."""
    root = ET.fromstring(document)
    left, top, wide, high = (float(number) for number in root.attrib["viewBox"].split())
    hand = _Hand(rng, (left + wide / 2, top + high / 2), max(wide, high))
    gradients, shapes = _gradients(root), _shapes(root)
    left_out = rng.uniform(0, _LEFT_OUT) if len(shapes) > _FEW else 0.0
    flat, outlined = rng.random() < _FLAT, rng.random() < _OUTLINED
    for place, (parent, shape) in enumerate(shapes):
        if place and rng.random() < left_out:
            parent.remove(shape)
            continue
        hand.move(shape)
        hand.recolour(shape, gradients if flat else {})
        if outlined:
            hand.outline(shape)
    return ET.tostring(root, encoding="unicode")


class _Hand:
    """How far one drawing's shapes stray from where and how they were."""

    def __init__(self, rng: np.random.Generator, middle: tuple[float, float], side: float) -> None:
        self.rng, self.middle, self.side = rng, middle, side
        self.shift, self.turn, self.scale, self.shade = rng.uniform(
            0, (_SHIFT * side, _TURN, _SCALE, _SHADE)
        )

    def move(self, shape: ET.Element) -> None:
        """Shift, turn and stretch about the middle of the picture."""
        x, y = self.middle
        to_x, to_y = self.rng.normal(self.middle, self.shift)
        wide, high = np.exp(self.rng.normal(0, self.scale, 2))
        angle = self.rng.normal(0, self.turn)
        moved = (
            f"translate({to_x:.3f} {to_y:.3f}) rotate({angle:.3f}) "
            f"scale({wide:.4f} {high:.4f}) translate({-x:.3f} {-y:.3f})"
        )
        shape.set("transform", f"{moved} {shape.get('transform', '')}".rstrip())

    def recolour(self, shape: ET.Element, gradients: dict[str, list[str]]) -> None:
        """Lighter or darker and tinted; a gradient in `gradients` becomes one of its colours."""
        gain = np.exp(self.rng.normal(0, self.shade) + self.rng.normal(0, 0.7 * self.shade, 3))
        for paint in ("fill", "stroke"):
            colour = shape.get(paint, "")
            named = _REFERENCE.fullmatch(colour)
            if named and named[1] in gradients:
                colours = gradients[named[1]]
                colour = colours[self.rng.integers(len(colours))]
            if _HEX.fullmatch(colour):
                shape.set(paint, _hex(_rgb(colour) * gain))

    def outline(self, shape: ET.Element) -> None:
        """A darker line around a shape of one colour that has none."""
        colour = shape.get("fill", "")
        if _HEX.fullmatch(colour) and shape.get("stroke") is None:
            shape.set("stroke", _hex(_rgb(colour) * _DARKER))
            shape.set("stroke-width", f"{_OUTLINE * self.side:.3f}")


def _shapes(root: ET.Element) -> list[tuple[ET.Element, ET.Element]]:
    """What is seen, lowest first, each behind its parent."""
    found = []
    for child in root:
        if child.tag in _SHAPES:
            found.append((root, child))
        elif child.tag not in _UNSEEN:
            found += _shapes(child)
    return found


def _gradients(root: ET.Element) -> dict[str, list[str]]:
    """The colours of each gradient that has some of its own."""
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
