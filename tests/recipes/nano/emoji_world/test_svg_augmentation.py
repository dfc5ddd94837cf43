"""Augmentation of SVG documents shape by shape."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from recipes.nano.emoji_world.icons import crop_and_centre, render_svg
from recipes.nano.emoji_world.svg_augmentation import augment_svg

FACE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="128" height="128">
<defs><linearGradient id="sun"><stop stop-color="#ffff00"/><stop stop-color="#ff8800"/>
</linearGradient><clipPath id="cut"><rect width="5" height="5"/></clipPath></defs>
<circle cx="16" cy="16" r="14" fill="url(#sun)"/>
<g><circle cx="11" cy="12" r="2" fill="#000"/><circle cx="21" cy="12" r="2" fill="#000000"/></g>
<path d="M10 20h12v3h-12z" fill="#c00000"/><path d="M14 26h4v1h-4z" fill="none" stroke="#00f"/>
</svg>"""
TAG = "{http://www.w3.org/2000/svg}"


def augmented(count: int = 60) -> list[ET.Element]:
    rng = np.random.default_rng(0)
    return [ET.fromstring(augment_svg(rng, FACE)) for _ in range(count)]


def rendered_shapes(root: ET.Element) -> list[ET.Element]:
    group = root.find(f"{TAG}g")
    assert group is not None
    return [child for child in [*root, *group] if child.tag in (f"{TAG}circle", f"{TAG}path")]


def test_seed_reproduces_document() -> None:
    first, again = (
        [augment_svg(np.random.default_rng(k), FACE) for k in range(9)] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 9


def test_lowest_shape_is_never_removed() -> None:
    made = [rendered_shapes(root) for root in augmented()]
    assert all(shapes[0].get("r") == "14" for shapes in made)
    counts = [len(shapes) for shapes in made]
    assert max(counts) == 5
    assert 3.5 < np.mean(counts) < 5


def test_definitions_are_unchanged() -> None:
    for root in augmented(20):
        rect = root.find(f"{TAG}defs/{TAG}clipPath/{TAG}rect")
        assert rect is not None
        assert rect.attrib == {"width": "5", "height": "5"}


def test_proportions_of_flat_and_outlined_icons() -> None:
    lowest = [rendered_shapes(root)[0] for root in augmented(200)]
    flat = [shape for shape in lowest if shape.get("fill") != "url(#sun)"]
    assert 0.4 < len(flat) / len(lowest) < 0.6
    outlined = [shape for shape in flat if shape.get("stroke") is not None]
    assert 0.1 < len(outlined) / len(flat) < 0.4
    no_fill = [
        shape
        for root in augmented(50)
        for shape in rendered_shapes(root)
        if shape.get("fill") == "none"
    ]
    assert no_fill
    assert all(shape.get("stroke-width") is None for shape in no_fill)


def test_rendered_image_stays_similar() -> None:
    pytest.importorskip("resvg_py")
    true = crop_and_centre(render_svg(FACE), 56).astype(float)
    rng = np.random.default_rng(0)
    made = np.stack(
        [crop_and_centre(render_svg(augment_svg(rng, FACE)), 56) for _ in range(20)]
    ).astype(float)
    overlap = np.minimum(made[..., 3], true[..., 3]).sum((1, 2)) / true[..., 3].sum()
    assert overlap.min() > 0.8
    apart = np.abs(made - true).mean((1, 2, 3))
    assert 2 < apart.mean() < 60
    assert apart.std() > 1
