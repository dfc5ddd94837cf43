"""Drawings of the 400 objects in some styles, as RGBA arrays ready to be pasted."""

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
from recipes.nano.emoji_world.download import PACKAGES, STYLES, fetch_icons
from recipes.nano.emoji_world.objects import OBJECTS

__all__ = [
    "SIZES",
    "STYLES",
    "Icons",
    "default_folder",
    "fetch_icons",
    "fit",
    "rasterise",
    "render",
    "save_array",
]

SIZES = (40, 48, 56)
"""Sides of the squares, in pixels, that scenes draw icons in."""

_RENDER = 128  # px: large enough that shrinking it is what decides the quality
_VISIBLE = 8  # alpha below this is a shadow's tail and must not widen the bounding box


def default_folder() -> Path:
    """`$EMU3_CACHE/emoji_world`, or `~/.cache/emu3/emoji_world` where that is not set."""
    root = os.environ.get("EMU3_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "emu3") / "emoji_world"


@dataclass(frozen=True)
class Icons:
    """Rasterised icons: `arrays[size]` is uint8 [400, styles, size, size, 4], straight RGBA."""

    arrays: dict[int, NDArray[np.uint8]]

    @classmethod
    def load(cls, folder: Path | None = None, packages: Mapping[str, str] = PACKAGES) -> Icons:
        """Read the icons of all `SIZES`, fetching and rasterising what the folder lacks."""
        where = default_folder() if folder is None else folder
        return cls({size: rasterise(where, size, packages) for size in SIZES})

    def get(self, object: int, style: int, size: int) -> NDArray[np.uint8]:
        """One icon, uint8 [size, size, 4]; KeyError for a size that was not rasterised."""
        icon: NDArray[np.uint8] = self.arrays[size][object, style]
        return icon


def cache_path(folder: Path, size: int, packages: Mapping[str, str] = PACKAGES) -> Path:
    """Where `rasterise` keeps its result; the name changes with the objects and versions."""
    facts = json.dumps([OBJECTS, packages, _RENDER, _VISIBLE])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return folder / f"icons-{size}-{digest}.npy"


def rasterise(folder: Path, size: int, packages: Mapping[str, str] = PACKAGES) -> NDArray[np.uint8]:
    """All icons as uint8 [400, styles, size, size, 4], from the cache if it is there.

    Straight RGBA. Each drawing is cropped to what can be seen of it, scaled with its aspect kept
    until the longer side fills the square, and centred. What a set does not have is clear.
    """
    path = cache_path(folder, size, packages)
    if path.is_file():
        cached: NDArray[np.uint8] = np.load(path)
        return cached
    sets = fetch_icons(folder, packages)
    out = np.zeros((len(OBJECTS), len(packages), size, size, 4), np.uint8)
    with count_progress(f"drawing icons at {size} px", len(OBJECTS) * len(packages)) as advance:
        for s, style in enumerate(packages):
            icon_set = json.loads(sets[style].read_text(encoding="utf-8"))
            for o, name in enumerate(OBJECTS):
                if known := name_in(icon_set, name):
                    out[o, s] = drawing(icon_set, known, size)
                advance(1)
    save_array(path, out)
    return out


def name_in(icon_set: dict[str, Any], name: str) -> str | None:
    """What an Iconify set calls an object; None where it has no drawing of it."""
    known = {**icon_set["icons"], **icon_set.get("aliases", {})}
    return next((each for each in (name, name.replace("-", "")) if each in known), None)


def drawing(icon_set: dict[str, Any], name: str, size: int) -> NDArray[np.uint8]:
    """One icon of an Iconify set, uint8 [size, size, 4], straight RGBA; KeyError if it lacks it.

    Raises MissingExtraError without resvg_py.
    """
    return fit(render(svg(icon_set, name)), size)


def svg(icon_set: dict[str, Any], name: str) -> str:
    """One icon of an Iconify set as a whole SVG document; KeyError if the set lacks it."""
    icons, aliases = icon_set["icons"], icon_set.get("aliases", {})
    while name not in icons:
        name = aliases[name]["parent"]
    icon = icons[name]

    def of(key: str, default: int) -> float:
        return float(icon.get(key, icon_set.get(key, default)))

    box = f"{of('left', 0)} {of('top', 0)} {of('width', 16)} {of('height', 16)}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    side = f'width="{_RENDER}" height="{_RENDER}"'
    return f'<svg {spaces} viewBox="{box}" {side}>{icon["body"]}</svg>'


def render(document: str) -> Image.Image:
    """An SVG document as RGBA; MissingExtraError without resvg_py."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtraError("resvg_py", "emoji", "drawing the icons") from error
    png = bytes(svg_to_bytes(svg_string=document, skip_system_fonts=True))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def fit(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Crop to the visible box and centre in a square: uint8 [size, size, 4], straight RGBA."""
    visible = picture.getchannel("A").point([0] * _VISIBLE + [255] * (256 - _VISIBLE))
    picture = picture.crop(visible.getbbox())
    scale = size / max(picture.size)
    w, h = (max(1, round(side * scale)) for side in picture.size)
    # Premultiplied ("RGBa"), or the black of clear pixels would bleed into the edges.
    small = picture.convert("RGBa").resize((w, h), Image.Resampling.LANCZOS).convert("RGBA")
    out = np.zeros((size, size, 4), np.uint8)
    top, left = (size - h) // 2, (size - w) // 2
    out[top : top + h, left : left + w] = np.asarray(small)
    return out


def save_array(path: Path, array: NDArray[np.uint8]) -> None:
    """Write under a temporary name first, so that nobody ever reads half a file."""
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with half.open("wb") as file:
            np.save(file, array)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
