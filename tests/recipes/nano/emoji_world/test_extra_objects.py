"""Things in two styles, and captions that ask for the third."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recipes.nano.emoji_world import OBJECTS, SIZES, STYLES, extra_objects, random_scene, spoken
from recipes.nano.emoji_world.extra_objects import THINGS, UNKNOWN, known_in, pairs, said

MANY = 3000


def style_of(words: str) -> str | None:
    """The word before "style", if there is one."""
    each = words.replace(",", "").split()
    return each[each.index("style") - 1] if "style" in each else None


def test_none_of_them_is_one_of_the_400_and_each_is_known_in_two_styles() -> None:
    assert len({*THINGS, *OBJECTS}) == len(THINGS) + len(OBJECTS)
    assert not {*map(spoken, THINGS)} & {*map(spoken, OBJECTS)}
    known = Counter(thing for thing, _ in pairs().tolist())
    assert known == dict.fromkeys(range(len(THINGS)), 2)
    styles = Counter(style for _, style in pairs().tolist())
    assert max(styles.values()) - min(styles.values()) <= 1  # none is left out more than another


def test_captions_name_the_thing_and_ask_for_its_style_or_the_one_it_is_not_known_in() -> None:
    rng, kinds = np.random.default_rng(0), Counter[str]()
    for thing, style in pairs()[rng.integers(len(pairs()), size=MANY)].tolist():
        words = said(random_scene(rng, thing, style), rng)
        assert spoken(THINGS[thing]) in words
        asked = style_of(words)
        if asked is None:
            kinds["open"] += 1
        elif asked == STYLES[style]:
            kinds["known"] += 1
        else:
            assert STYLES.index(asked) not in known_in(thing)
            kinds["unknown"] += 1
    assert kinds["open"] / MANY == pytest.approx(0.05, abs=0.02)
    assert kinds["unknown"] / MANY == pytest.approx(0.95 * UNKNOWN, abs=0.03)


def test_the_drawing_in_the_third_style_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_objects, "THINGS", THINGS[:3])
    square = '<path fill="#{}" d="M0 0h16v16H0z"/>'
    for style, colour in zip(STYLES, ("ff0000", "00ff00", "0000ff"), strict=True):
        body = {"body": square.format(colour)}
        known = {"icons": dict.fromkeys(THINGS[:3], body), "aliases": {}}
        (tmp_path / f"{style}.json").write_text(json.dumps(known))
    icons = extra_objects.icons(tmp_path)
    for size in SIZES:
        for thing in range(3):
            for style in range(len(STYLES)):
                drawn = icons.get(thing, style, size).reshape(-1, 4)
                own = [255 * (channel == style) for channel in range(3)]
                expected = [*own, 255] if style in known_in(thing) else [0] * 4
                assert (drawn == expected).all()
