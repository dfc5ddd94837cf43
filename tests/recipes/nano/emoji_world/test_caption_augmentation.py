"""Captions that say less than nano knows, or more, and still name the thing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from recipes.nano.emoji_world import (
    HANDS,
    OBJECTS,
    STYLES,
    caption_augmentation,
    held_out_pairs,
    random_moving_scene,
    random_scene,
    seen_pairs,
    spoken,
)
from recipes.nano.emoji_world.caption_augmentation import MOVING, LooseWords, described, made_up

MANY = 3000
DREW = np.ones((len(OBJECTS), len(HANDS)), np.bool_)
DREW[::2, HANDS.index("streamline")] = False
WORDS = LooseWords(DREW)


def style_of(said: str) -> str | None:
    """The word before "style", if there is one."""
    words = said.replace(",", "").split()
    return words[words.index("style") - 1] if "style" in words else None


@pytest.fixture(scope="module")
def captions() -> list[tuple[int, int, str]]:
    """Things, their styles, and what is said of them."""
    rng, pairs = np.random.default_rng(0), seen_pairs()
    scenes = [random_scene(rng, *map(int, pairs[rng.integers(len(pairs))])) for _ in range(MANY)]
    return [(each.object, each.style, WORDS.picture(each, rng)) for each in scenes]


def test_the_thing_is_always_named(captions: list[tuple[int, int, str]]) -> None:
    assert all(spoken(OBJECTS[thing]) in said for thing, _, said in captions)


def test_styles_are_open_made_up_or_of_who_never_drew_it(
    captions: list[tuple[int, int, str]],
) -> None:
    kinds = Counter[str]()
    for thing, style, said in captions:
        asked = style_of(said)
        if asked is None:
            kinds["open"] += 1
        elif asked in HANDS and asked != STYLES[style]:
            kinds["never"] += 1
            assert not DREW[thing, HANDS.index(asked)]
        elif asked not in HANDS:
            kinds["made up"] += 1
    share = {kind: count / MANY for kind, count in kinds.items()}
    usual = 0.05  # of all other captions leave it open, too
    open_ = caption_augmentation.OPEN + usual * (1 - caption_augmentation.OPEN)
    assert share["open"] == pytest.approx(open_, abs=0.03)
    assert share["made up"] == pytest.approx(caption_augmentation.MADE_UP, abs=0.03)
    assert share["never"] == pytest.approx(
        caption_augmentation.NEVER / 2, abs=0.02
    )  # half lack a hand


def test_no_held_out_pair_is_asked_for(captions: list[tuple[int, int, str]]) -> None:
    held = {(int(thing), STYLES[style]) for thing, style in held_out_pairs()}
    assert not held & {(thing, style_of(said)) for thing, _, said in captions}


def test_other_hands_are_asked_for_by_name() -> None:
    rng, hand = np.random.default_rng(0), HANDS.index("emojione")
    said = [WORDS.picture(random_scene(rng, 5, hand), rng) for _ in range(200)]
    assert {style_of(each) for each in said} == {"emojione", None}
    assert sum(style_of(each) is None for each in said) < 30


def test_clips_that_slide_do_not_always_just_move() -> None:
    rng, car = np.random.default_rng(0), OBJECTS.index("automobile")
    scene = random_moving_scene(rng, car, 0, "moving to the right")
    said = [WORDS.clip(scene, rng) for _ in range(400)]
    verbs = Counter(each.split(" to the right")[0].split()[-1] for each in said)
    assert set(verbs) == {"moving", *MOVING}
    assert verbs["moving"] / len(said) == pytest.approx(
        1 - caption_augmentation.OTHERWISE, abs=0.06
    )
    adorned = sum(not each.startswith("a car ") for each in said) / len(said)
    assert adorned == pytest.approx(caption_augmentation.ADORNED, abs=0.06)


def test_what_is_named_for_a_colour_keeps_it() -> None:
    rng, apple = np.random.default_rng(0), OBJECTS.index("red-apple")
    pairs = [random_scene(rng, apple, 0) for _ in range(600)]
    adjectives = {WORDS.picture(each, rng).split(" red apple")[0].split()[-1] for each in pairs}
    assert not adjectives & {*caption_augmentation.COLOURED}
    assert len(adjectives) > 10


def test_adjectives_take_their_article_with_them() -> None:
    assert described("a car", "red") == "a red car"
    assert described("a car", "old") == "an old car"
    assert described("an ant", "red") == "a red ant"
    assert described("the sun", "old") == "the old sun"
    assert described("socks", "red") == "red socks"


def test_what_is_made_up_means_nothing() -> None:
    rng = np.random.default_rng(0)
    words = [made_up(rng) for _ in range(1000)]
    assert {len(each) for each in words} == {4, 6}
    assert len({*words}) > 900
    assert not {*words} & {*HANDS}
