"""Icons part by part: another drawing each time, of the same parts."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from recipes.nano.emoji_world.icons import fit, render
from recipes.nano.emoji_world.svg_augmentation import redraw

FACE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="128" height="128">
<defs><linearGradient id="sun"><stop stop-color="#ffff00"/><stop stop-color="#ff8800"/>
</linearGradient><clipPath id="cut"><rect width="5" height="5"/></clipPath></defs>
<circle cx="16" cy="16" r="14" fill="url(#sun)"/>
<g><circle cx="11" cy="12" r="2" fill="#000"/><circle cx="21" cy="12" r="2" fill="#000000"/></g>
<path d="M10 20h12v3h-12z" fill="#c00000"/><path d="M14 26h4v1h-4z" fill="none" stroke="#00f"/>
</svg>"""
TAG = "{http://www.w3.org/2000/svg}"


def redrawn(count: int = 60) -> list[ET.Element]:
    rng = np.random.default_rng(0)
    return [ET.fromstring(redraw(rng, FACE)) for _ in range(count)]


def seen(root: ET.Element) -> list[ET.Element]:
    group = root.find(f"{TAG}g")
    assert group is not None
    return [child for child in [*root, *group] if child.tag in (f"{TAG}circle", f"{TAG}path")]


def test_the_seed_decides() -> None:
    first, again = ([redraw(np.random.default_rng(k), FACE) for k in range(9)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 9


def test_the_lowest_shape_always_stays_and_others_sometimes() -> None:
    made = [seen(root) for root in redrawn()]
    assert all(shapes[0].get("r") == "14" for shapes in made)
    counts = [len(shapes) for shapes in made]
    assert max(counts) == 5
    assert 3.5 < np.mean(counts) < 5


def test_what_is_not_seen_is_left_alone() -> None:
    for root in redrawn(20):
        rect = root.find(f"{TAG}defs/{TAG}clipPath/{TAG}rect")
        assert rect is not None
        assert rect.attrib == {"width": "5", "height": "5"}


def test_some_have_no_gradient_and_some_an_outline() -> None:
    lowest = [seen(root)[0] for root in redrawn(200)]
    flat = [shape for shape in lowest if shape.get("fill") != "url(#sun)"]
    assert 0.4 < len(flat) / len(lowest) < 0.6
    outlined = [shape for shape in flat if shape.get("stroke") is not None]
    assert 0.1 < len(outlined) / len(flat) < 0.4
    no_fill = [shape for root in redrawn(50) for shape in seen(root) if shape.get("fill") == "none"]
    assert no_fill
    assert all(shape.get("stroke-width") is None for shape in no_fill)


def test_it_is_nearly_the_same_picture() -> None:
    pytest.importorskip("resvg_py")
    true = fit(render(FACE), 56).astype(float)
    rng = np.random.default_rng(0)
    made = np.stack([fit(render(redraw(rng, FACE)), 56) for _ in range(20)]).astype(float)
    overlap = np.minimum(made[..., 3], true[..., 3]).sum((1, 2)) / true[..., 3].sum()
    assert overlap.min() > 0.8
    apart = np.abs(made - true).mean((1, 2, 3))
    assert 2 < apart.mean() < 60
    assert apart.std() > 1
