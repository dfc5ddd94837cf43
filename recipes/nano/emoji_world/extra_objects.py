"""More things, each in two of the three styles alone: what to draw when the third is asked for.

All 400 things of Emoji World are there in every style but where a pair is held out, so whoever has
only learned these has never been asked for a thing in a style it does not know it in, takes such
words to mean half of this and half of that, and draws a blur. Here they mean the thing, drawn as
it is known. The evaluation knows none of these things, and nano is not asked what they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world import (
    OBJECTS,
    SIZES,
    STYLES,
    Icons,
    Scene,
    caption,
    default_folder,
    fetch_icons,
    with_article,
)
from recipes.nano.emoji_world.caption_augmentation import in_style
from recipes.nano.emoji_world.icons import drawing

UNKNOWN = 0.4  # captions that ask for the style which the thing is not known in

_NAMES = """
badger beaver bison boar chicken chipmunk donkey dodo dove goat goose hamster leopard llama mammoth
moose mosquito orangutan otter ox oyster poodle ram rat seal skunk sloth squid turkey water-buffalo
worm beetle cockroach cricket fly blowfish coral

bagel chestnut falafel fondue fortune-cookie melon moon-cake olive pea-pod rice-ball tamale dumpling
custard dango bento-box ginger-root hibiscus hyacinth blossom shamrock rosette christmas-tree

articulated-lorry auto-rickshaw ferry minibus monorail pickup-truck trolleybus motor-boat
kick-scooter bank hospital hotel hut school stadium statue-of-liberty tokyo-tower desert-island

abacus amphora banjo barber-pole brick carousel-horse cigarette clamp clipboard clutch-bag comet
crayon crutch elevator fax-machine feather file-cabinet flashlight flying-disc funeral-urn hook jar
knot lab-coat label long-drum magic-wand military-helmet mirror moai mouse-trap notebook oil-drum
package pager petri-dish pick plunger postbox pushpin razor receipt rock safety-pin sari satellite
scroll seat slot-machine softball sled tennis test-tube ticket trackball trident-emblem
video-camera videocassette wind-chime
"""

THINGS: tuple[str, ...] = tuple(_NAMES.split())
"""Icon names, the same in all three sets; none of them is one of the 400."""


def known_in(thing: int) -> NDArray[np.int64]:
    """The two styles in which a thing is drawn."""
    return np.delete(np.arange(len(STYLES)), thing % len(STYLES))


def pairs() -> NDArray[np.int64]:
    """Everything there is to draw, as rows (thing, style)."""
    return np.array([(thing, style) for thing in range(len(THINGS)) for style in known_in(thing)])


def icons(folder: Path | None = None) -> Icons:
    """Their drawings, uint8 [things, styles, size, size, 4] of each size; the third style clear."""
    where = default_folder() if folder is None else folder
    sets = {
        style: json.loads(path.read_text(encoding="utf-8"))
        for style, path in fetch_icons(where).items()
    }
    arrays = {size: np.zeros((len(THINGS), len(STYLES), size, size, 4), np.uint8) for size in SIZES}
    for thing, style in pairs():
        for size, array in arrays.items():
            array[thing, style] = drawing(sets[STYLES[style]], THINGS[thing], size)
    return Icons(arrays)


def said(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of a scene whose object is one of `THINGS`; some ask for the style it is not in."""
    of = with_article(OBJECTS[scene.object])
    words = caption(scene, rng).replace(of, with_article(THINGS[scene.object]), 1)
    if rng.random() < UNKNOWN:
        words = in_style(words, scene.style, STYLES[scene.object % len(STYLES)])
    return words
