"""Augmented captions: other words, but always the object."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from recipes.nano.emoji_world import (
    ICON_SETS,
    OBJECTS,
    STYLES,
    display_name,
    held_out_pairs,
    random_scene,
    random_video_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.caption_augmentation import (
    ADJECTIVE,
    COLOURS,
    NO_STYLE,
    NONSENSE_STYLE,
    OTHER_VERB,
    UNAVAILABLE_STYLE,
    VERBS,
    CaptionAugmentation,
    insert_adjective,
    nonsense_word,
)

MANY = 3000
AVAILABLE = np.ones((len(OBJECTS), len(ICON_SETS)), np.bool_)
AVAILABLE[::2, ICON_SETS.index("streamline")] = False
AUGMENTATION = CaptionAugmentation(AVAILABLE)


def style_in(text: str) -> str | None:
    """The word before "style", if there is one."""
    words = text.replace(",", "").split()
    return words[words.index("style") - 1] if "style" in words else None


@pytest.fixture(scope="module")
def captions() -> list[tuple[int, int, str]]:
    """Rows of object, style and caption."""
    rng, pairs = np.random.default_rng(0), seen_pairs()
    scenes = [random_scene(rng, *map(int, pairs[rng.integers(len(pairs))])) for _ in range(MANY)]
    return [(each.object, each.style, AUGMENTATION.image_caption(each, rng)) for each in scenes]


def test_object_is_always_named(captions: list[tuple[int, int, str]]) -> None:
    assert all(display_name(OBJECTS[index]) in text for index, _, text in captions)


def test_proportions_of_missing_nonsense_and_unavailable_styles(
    captions: list[tuple[int, int, str]],
) -> None:
    kinds = Counter[str]()
    for index, style, text in captions:
        asked = style_in(text)
        if asked is None:
            kinds["none"] += 1
        elif asked in ICON_SETS and asked != STYLES[style]:
            kinds["unavailable"] += 1
            assert not AVAILABLE[index, ICON_SETS.index(asked)]
        elif asked not in ICON_SETS:
            kinds["nonsense"] += 1
    share = {kind: count / MANY for kind, count in kinds.items()}
    without = NO_STYLE + 0.05 * (1 - NO_STYLE)  # one in twenty other captions has no style
    assert share["none"] == pytest.approx(without, abs=0.03)
    assert share["nonsense"] == pytest.approx(NONSENSE_STYLE, abs=0.03)
    # Half of the objects are available in all sets.
    assert share["unavailable"] == pytest.approx(UNAVAILABLE_STYLE / 2, abs=0.02)


def test_no_held_out_pair_is_named(captions: list[tuple[int, int, str]]) -> None:
    held = {(int(index), STYLES[style]) for index, style in held_out_pairs()}
    assert not held & {(index, style_in(text)) for index, _, text in captions}


def test_other_icon_sets_are_always_named() -> None:
    rng, icon_set = np.random.default_rng(0), ICON_SETS.index("emojione")
    texts = [AUGMENTATION.image_caption(random_scene(rng, 5, icon_set), rng) for _ in range(200)]
    assert {style_in(each) for each in texts} == {"emojione", None}
    assert sum(style_in(each) is None for each in texts) < 30


def test_sliding_objects_get_other_verbs() -> None:
    rng, car = np.random.default_rng(0), OBJECTS.index("automobile")
    scene = random_video_scene(rng, car, 0, "moving to the right")
    texts = [AUGMENTATION.video_caption(scene, rng) for _ in range(400)]
    verbs = Counter(each.split(" to the right")[0].split()[-1] for each in texts)
    assert set(verbs) == {"moving", *VERBS}
    assert verbs["moving"] / len(texts) == pytest.approx(1 - OTHER_VERB, abs=0.06)
    with_adjective = sum(not each.startswith("a car ") for each in texts) / len(texts)
    assert with_adjective == pytest.approx(ADJECTIVE, abs=0.06)


def test_objects_named_after_a_colour_get_no_other() -> None:
    rng, apple = np.random.default_rng(0), OBJECTS.index("red-apple")
    scenes = [random_scene(rng, apple, 0) for _ in range(600)]
    adjectives = {
        AUGMENTATION.image_caption(each, rng).split(" red apple")[0].split()[-1] for each in scenes
    }
    assert not adjectives & {*COLOURS}
    assert len(adjectives) > 10


def test_article_agrees_with_adjective() -> None:
    assert insert_adjective("a car", "red") == "a red car"
    assert insert_adjective("a car", "old") == "an old car"
    assert insert_adjective("an ant", "red") == "a red ant"
    assert insert_adjective("the sun", "old") == "the old sun"
    assert insert_adjective("socks", "red") == "red socks"


def test_nonsense_words_differ_and_are_no_styles() -> None:
    rng = np.random.default_rng(0)
    words = [nonsense_word(rng) for _ in range(1000)]
    assert {len(each) for each in words} == {4, 6}
    assert len({*words}) > 900
    assert not {*words} & {*ICON_SETS}
