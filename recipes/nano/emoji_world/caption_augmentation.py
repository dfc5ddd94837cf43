"""Captions as people write them: that leave the style open, name one nobody drew the thing in, or
say more than nano knows.

Whoever has only read captions in which every word tells takes a word that tells nothing for half of
one that does, and draws half of this and half of that. Asked for a thing in a style it was never
seen in, nano drew a blur where it could have drawn the thing: with no style asked for it drew it in
92% of 120 such pairs, with the style in 74%. So it reads words here that change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world import (
    HANDS,
    OBJECTS,
    STYLES,
    MovingScene,
    Scene,
    caption,
    clip_caption,
    open_caption,
    with_article,
)

OPEN = 0.25  # captions of pictures in the three styles that leave the style open,
MADE_UP = 0.20  # that ask for a style that is none,
NEVER = 0.20  # or for a hand that never drew the thing, where there is one
ADORNED = 0.15  # captions in which the thing has an adjective, for what it is worth,
OTHERWISE = 0.15  # and of clips that slide, in which it does not just move

PLAIN = (
    *("small", "little", "tiny", "big", "large", "huge", "round", "old", "new", "modern"),
    *("happy", "sad", "cute", "funny", "friendly", "pretty", "nice", "lovely", "beautiful"),
    *("simple", "single", "shiny", "bright", "dark", "fast", "slow", "wooden", "golden"),
)
COLOURED = (
    *("red", "blue", "green", "yellow", "pink", "purple"),
    *("orange", "brown", "black", "white", "gray"),
)
MOVING = (
    *("going", "driving", "walking", "running", "flying"),
    *("swimming", "rolling", "sliding", "travelling"),
)

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


@dataclass(frozen=True)
class LooseWords:
    """Says what a scene shows; `drew` [400, hands] tells which hands drew which things."""

    drew: NDArray[np.bool_]

    def picture(self, scene: Scene, rng: np.random.Generator) -> str:
        """A caption; other hands than the three styles are always asked for by their names."""
        if scene.style >= len(STYLES):
            return adorned(caption(scene, rng), scene.object, rng)
        never = np.flatnonzero(~self.drew[scene.object])
        chance = rng.random()
        if chance < OPEN:
            said = open_caption(scene, rng)
        elif chance < OPEN + MADE_UP:
            said = in_style(caption(scene, rng), scene.style, made_up(rng))
        elif chance < OPEN + MADE_UP + NEVER and len(never):
            hand = HANDS[never[rng.integers(len(never))]]
            said = in_style(caption(scene, rng), scene.style, hand)
        else:
            said = caption(scene, rng)
        return adorned(said, scene.object, rng)

    def clip(self, scene: MovingScene, rng: np.random.Generator) -> str:
        """A caption of a clip."""
        said = clip_caption(scene, rng)
        if rng.random() < OTHERWISE:
            said = said.replace(" moving ", f" {MOVING[rng.integers(len(MOVING))]} ", 1)
        return adorned(said, scene.object, rng)


def in_style(said: str, style: int, other: str) -> str:
    """A caption that asks for another style than the picture's."""
    return said.replace(f"{HANDS[style]} style", f"{other} style")


def made_up(rng: np.random.Generator) -> str:
    """A word of two or three syllables that means nothing."""
    return "".join(
        str(letters[rng.integers(len(letters))])
        for _ in range(2 + int(rng.integers(2)))
        for letters in (_CONSONANTS, _VOWELS)
    )


def adorned(said: str, thing: int, rng: np.random.Generator) -> str:
    """Some captions with an adjective before the thing; what is named for a colour keeps it."""
    if rng.random() >= ADORNED:
        return said
    name = with_article(OBJECTS[thing])
    words = PLAIN if {*name.split()} & {*COLOURED} else PLAIN + COLOURED
    return said.replace(name, described(name, words[rng.integers(len(words))]), 1)


def described(name: str, adjective: str) -> str:
    """`"a car"` as `"a red car"`, `"socks"` as `"red socks"`."""
    article, _, rest = name.partition(" ")
    if article not in ("a", "an", "the"):
        return f"{adjective} {name}"
    if article != "the":
        article = "an" if adjective[0] in _VOWELS else "a"
    return f"{article} {adjective} {rest}"
