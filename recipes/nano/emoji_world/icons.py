"""Icons of the 400 objects, rasterised to RGBA arrays."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import MissingExtraError
from emu3.progress import count_progress
from recipes.nano.emoji_world.download import STYLE_PACKAGES, fetch_icons
from recipes.nano.emoji_world.objects import OBJECTS

ICON_SIZES = (40, 48, 56)
"""Sides in pixels of the squares that icons are rasterised to."""

_RENDER_SIZE = 128  # px, before downscaling
_MIN_ALPHA = 8  # of 255; fainter pixels of a shadow must not widen the bounding box


def default_folder() -> Path:
    """`$EMU3_CACHE/emoji_world`, by default `~/.cache/emu3/emoji_world`."""
    root = os.environ.get("EMU3_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "emu3") / "emoji_world"


@dataclass(frozen=True)
class Icons:
    """Rasterised icons: `arrays[size]` is uint8 [400, styles, size, size, 4], straight RGBA."""

    arrays: dict[int, NDArray[np.uint8]]

    @classmethod
    def load(
        cls, folder: Path | None = None, packages: Mapping[str, str] = STYLE_PACKAGES
    ) -> Icons:
        """Load the icons of all `ICON_SIZES`; missing ones are downloaded and rasterised."""
        where = default_folder() if folder is None else folder
        return cls({size: rasterise(where, size, packages) for size in ICON_SIZES})

    def get(self, object: int, style: int, size: int) -> NDArray[np.uint8]:
        """One icon, uint8 [size, size, 4]; raises KeyError on a size that is not in `arrays`."""
        icon: NDArray[np.uint8] = self.arrays[size][object, style]
        return icon


def cache_path(folder: Path, size: int, packages: Mapping[str, str] = STYLE_PACKAGES) -> Path:
    """The cache file of `rasterise`; its name is a hash of the objects and package versions."""
    facts = json.dumps([OBJECTS, packages, _RENDER_SIZE, _MIN_ALPHA])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return folder / f"icons-{size}-{digest}.npy"


def rasterise(
    folder: Path, size: int, packages: Mapping[str, str] = STYLE_PACKAGES
) -> NDArray[np.uint8]:
    """All icons as uint8 [400, styles, size, size, 4], from the cache if it exists.

    Straight RGBA. Each icon is cropped to its visible pixels, scaled with its aspect ratio until
    the longer side fills the square, and centred. Icons that a set lacks are transparent.
    """
    path = cache_path(folder, size, packages)
    if path.is_file():
        cached: NDArray[np.uint8] = np.load(path)
        return cached
    sets = fetch_icons(folder, packages)
    out = np.zeros((len(OBJECTS), len(packages), size, size, 4), np.uint8)
    with count_progress(f"rasterising icons at {size} px", len(OBJECTS) * len(packages)) as advance:
        for s, style in enumerate(packages):
            icon_set = json.loads(sets[style].read_text(encoding="utf-8"))
            for o, name in enumerate(OBJECTS):
                if known := find_icon_name(icon_set, name):
                    out[o, s] = rasterise_icon(icon_set, known, size)
                advance(1)
    save_array(path, out)
    return out


def find_icon_name(icon_set: dict[str, Any], name: str) -> str | None:
    """The name of an object in an Iconify set; None if the set lacks it."""
    known = {**icon_set["icons"], **icon_set.get("aliases", {})}
    return next((each for each in (name, name.replace("-", "")) if each in known), None)


def rasterise_icon(icon_set: dict[str, Any], name: str, size: int) -> NDArray[np.uint8]:
    """One icon of an Iconify set, uint8 [size, size, 4], straight RGBA.

    Raises KeyError if the set lacks it, and MissingExtraError without resvg_py.
    """
    return crop_and_centre(render_svg(icon_svg(icon_set, name)), size)


def icon_svg(icon_set: dict[str, Any], name: str) -> str:
    """One icon of an Iconify set as an SVG document; raises KeyError if the set lacks it."""
    icons, aliases = icon_set["icons"], icon_set.get("aliases", {})
    while name not in icons:
        name = aliases[name]["parent"]
    icon = icons[name]

    def of(key: str, default: int) -> float:
        return float(icon.get(key, icon_set.get(key, default)))

    box = f"{of('left', 0)} {of('top', 0)} {of('width', 16)} {of('height', 16)}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    side = f'width="{_RENDER_SIZE}" height="{_RENDER_SIZE}"'
    return f'<svg {spaces} viewBox="{box}" {side}>{icon["body"]}</svg>'


def render_svg(document: str) -> Image.Image:
    """Render an SVG document as RGBA; raises MissingExtraError without resvg_py."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtraError("resvg_py", "nano", "rendering the icons") from error
    png = bytes(svg_to_bytes(svg_string=document, skip_system_fonts=True))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def crop_and_centre(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Crop to the visible pixels and centre in a square: uint8 [size, size, 4], straight RGBA."""
    visible = image.getchannel("A").point([0] * _MIN_ALPHA + [255] * (256 - _MIN_ALPHA))
    image = image.crop(visible.getbbox())
    scale = size / max(image.size)
    w, h = (max(1, round(side * scale)) for side in image.size)
    # Premultiplied ("RGBa"), or the black of transparent pixels would bleed into the edges.
    small = image.convert("RGBa").resize((w, h), Image.Resampling.LANCZOS).convert("RGBA")
    out = np.zeros((size, size, 4), np.uint8)
    top, left = (size - h) // 2, (size - w) // 2
    out[top : top + h, left : left + w] = np.asarray(small)
    return out


def save_array(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an array atomically, so that a concurrent reader never sees half of it."""
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with half.open("wb") as file:
            np.save(file, array)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
