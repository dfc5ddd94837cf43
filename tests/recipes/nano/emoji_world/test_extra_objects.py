"""The additional objects, and captions that ask for the missing style."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recipes.nano.emoji_world import (
    ICON_SIZES,
    OBJECTS,
    STYLES,
    display_name,
    extra_objects,
    random_scene,
)
from recipes.nano.emoji_world.extra_objects import (
    EXTRA_OBJECTS,
    MISSING_STYLE,
    available_styles,
    extra_caption,
    extra_pairs,
    load_extra_icons,
)

MANY = 3000


def style_in(text: str) -> str | None:
    """The word before "style", if there is one."""
    words = text.replace(",", "").split()
    return words[words.index("style") - 1] if "style" in words else None


def test_objects_are_new_and_each_has_two_styles() -> None:
    assert len({*EXTRA_OBJECTS, *OBJECTS}) == len(EXTRA_OBJECTS) + len(OBJECTS)
    assert not {*map(display_name, EXTRA_OBJECTS)} & {*map(display_name, OBJECTS)}
    counts = Counter(index for index, _ in extra_pairs().tolist())
    assert counts == dict.fromkeys(range(len(EXTRA_OBJECTS)), 2)
    styles = Counter(style for _, style in extra_pairs().tolist())
    assert max(styles.values()) - min(styles.values()) <= 1  # missing equally often


def test_captions_name_object_and_some_ask_for_missing_style() -> None:
    rng, kinds = np.random.default_rng(0), Counter[str]()
    pairs = extra_pairs()
    for index, style in pairs[rng.integers(len(pairs), size=MANY)].tolist():
        text = extra_caption(random_scene(rng, index, style), rng)
        assert display_name(EXTRA_OBJECTS[index]) in text
        asked = style_in(text)
        if asked is None:
            kinds["none"] += 1
        elif asked == STYLES[style]:
            kinds["known"] += 1
        else:
            assert STYLES.index(asked) not in available_styles(index)
            kinds["missing"] += 1
    assert kinds["none"] / MANY == pytest.approx(0.05, abs=0.02)
    assert kinds["missing"] / MANY == pytest.approx(0.95 * MISSING_STYLE, abs=0.03)


def test_icons_of_missing_style_are_transparent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_objects, "EXTRA_OBJECTS", EXTRA_OBJECTS[:3])
    square = '<path fill="#{}" d="M0 0h16v16H0z"/>'
    for style, colour in zip(STYLES, ("ff0000", "00ff00", "0000ff"), strict=True):
        body = {"body": square.format(colour)}
        known = {"icons": dict.fromkeys(EXTRA_OBJECTS[:3], body), "aliases": {}}
        (tmp_path / f"{style}.json").write_text(json.dumps(known))
    icons = load_extra_icons(tmp_path)
    for size in ICON_SIZES:
        for index in range(3):
            for style in range(len(STYLES)):
                pixels = icons.get(index, style, size).reshape(-1, 4)
                own = [255 * (channel == style) for channel in range(3)]
                expected = [*own, 255] if style in available_styles(index) else [0] * 4
                assert (pixels == expected).all()
