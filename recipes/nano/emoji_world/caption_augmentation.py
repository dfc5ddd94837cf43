"""Captions with words that carry no information: no style, unknown styles, adjectives, other verbs.

A model that has only read captions in which every word matters responds to an unknown word with a
mixture of images. Asked for an object in a style it was not trained on in that style, nano
generated a blur where it could have generated the object in another style; without a style in the
caption it generated the object for 92% of 120 such pairs, with it for 74%. Trained on these
captions it ignores what it does not know (docs/nano_log.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.captions import caption, caption_without_style
from recipes.nano.emoji_world.download import STYLES
from recipes.nano.emoji_world.icon_sets import ICON_SETS
from recipes.nano.emoji_world.objects import OBJECTS, with_article
from recipes.nano.emoji_world.scene import Scene
from recipes.nano.emoji_world.video_captions import video_caption
from recipes.nano.emoji_world.video_scene import VideoScene

# Probabilities, for captions of images in the three styles:
NO_STYLE = 0.25
NONSENSE_STYLE = 0.20  # a made-up word for the style
UNAVAILABLE_STYLE = 0.20  # an icon set that lacks the object, if there is one
# And for all captions:
ADJECTIVE = 0.15  # an adjective before the object
OTHER_VERB = 0.15  # in videos of sliding objects, another verb than "moving"

ADJECTIVES = (
    *("small", "little", "tiny", "big", "large", "huge", "round", "old", "new", "modern"),
    *("happy", "sad", "cute", "funny", "friendly", "pretty", "nice", "lovely", "beautiful"),
    *("simple", "single", "shiny", "bright", "dark", "fast", "slow", "wooden", "golden"),
)
COLOURS = (
    *("red", "blue", "green", "yellow", "pink", "purple"),
    *("orange", "brown", "black", "white", "gray"),
)
VERBS = (
    *("going", "driving", "walking", "running", "flying"),
    *("swimming", "rolling", "sliding", "travelling"),
)

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


@dataclass(frozen=True)
class CaptionAugmentation:
    """Augmented captions; `available` [400, ICON_SETS] is the mask of existing icons."""

    available: NDArray[np.bool_]

    def image_caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """A caption of an image. Sets other than the three styles are always named."""
        if scene.style >= len(STYLES):
            return with_adjective(caption(scene, rng), scene.object, rng)
        unavailable = np.flatnonzero(~self.available[scene.object])
        chance = rng.random()
        if chance < NO_STYLE:
            text = caption_without_style(scene, rng)
        elif chance < NO_STYLE + NONSENSE_STYLE:
            text = replace_style(caption(scene, rng), scene.style, nonsense_word(rng))
        elif chance < NO_STYLE + NONSENSE_STYLE + UNAVAILABLE_STYLE and len(unavailable):
            other = ICON_SETS[unavailable[rng.integers(len(unavailable))]]
            text = replace_style(caption(scene, rng), scene.style, other)
        else:
            text = caption(scene, rng)
        return with_adjective(text, scene.object, rng)

    def video_caption(self, scene: VideoScene, rng: np.random.Generator) -> str:
        """A caption of a video."""
        text = video_caption(scene, rng)
        if rng.random() < OTHER_VERB:
            text = text.replace(" moving ", f" {VERBS[rng.integers(len(VERBS))]} ", 1)
        return with_adjective(text, scene.object, rng)


def replace_style(text: str, style: int, other: str) -> str:
    """A caption with the name of its style replaced."""
    return text.replace(f"{ICON_SETS[style]} style", f"{other} style")


def nonsense_word(rng: np.random.Generator) -> str:
    """A pronounceable word of two or three syllables without meaning."""
    return "".join(
        str(letters[rng.integers(len(letters))])
        for _ in range(2 + int(rng.integers(2)))
        for letters in (_CONSONANTS, _VOWELS)
    )


def with_adjective(text: str, index: int, rng: np.random.Generator) -> str:
    """The caption, with probability `ADJECTIVE` with an adjective before the object.

    Objects named after a colour get no second one.
    """
    if rng.random() >= ADJECTIVE:
        return text
    name = with_article(OBJECTS[index])
    words = ADJECTIVES if {*name.split()} & {*COLOURS} else ADJECTIVES + COLOURS
    return text.replace(name, insert_adjective(name, words[rng.integers(len(words))]), 1)


def insert_adjective(name: str, adjective: str) -> str:
    """`"a car"` becomes `"a red car"`, and `"socks"` becomes `"red socks"`."""
    article, _, rest = name.partition(" ")
    if article not in ("a", "an", "the"):
        return f"{adjective} {name}"
    if article != "the":
        article = "an" if adjective[0] in _VOWELS else "a"
    return f"{article} {adjective} {rest}"
