"""136 additional objects, each trained on in two of the three styles.

Of the 400 objects, only held-out pairs lack a style, so without these objects the model is never
asked for an object in a style that it does not know it in, and responds to such a caption with a
blur. Two in five captions here ask for the missing style, and the image is in one of the others.
The evaluation does not use these objects, and the model is not asked to name them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world.caption_augmentation import replace_style
from recipes.nano.emoji_world.captions import caption
from recipes.nano.emoji_world.download import STYLES, fetch_icons
from recipes.nano.emoji_world.icons import ICON_SIZES, Icons, default_folder, rasterise_icon
from recipes.nano.emoji_world.objects import OBJECTS, with_article
from recipes.nano.emoji_world.scene import Scene

MISSING_STYLE = 0.4  # probability of a caption that asks for the missing style

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

EXTRA_OBJECTS: tuple[str, ...] = tuple(_NAMES.split())
"""Icon names, the same in all three sets; none of them is one of the 400 objects."""


def available_styles(index: int) -> NDArray[np.int64]:
    """The two styles of an additional object."""
    return np.delete(np.arange(len(STYLES)), index % len(STYLES))


def extra_pairs() -> NDArray[np.int64]:
    """All pairs to train on, as rows (index in `EXTRA_OBJECTS`, style)."""
    return np.array(
        [(index, style) for index in range(len(EXTRA_OBJECTS)) for style in available_styles(index)]
    )


def load_extra_icons(folder: Path | None = None) -> Icons:
    """Icons of each size, uint8 [136, styles, size, size, 4]; the third style is transparent."""
    where = default_folder() if folder is None else folder
    sets = {
        style: json.loads(path.read_text(encoding="utf-8"))
        for style, path in fetch_icons(where).items()
    }
    shape = (len(EXTRA_OBJECTS), len(STYLES))
    arrays = {size: np.zeros((*shape, size, size, 4), np.uint8) for size in ICON_SIZES}
    for index, style in extra_pairs():
        for size, array in arrays.items():
            array[index, style] = rasterise_icon(sets[STYLES[style]], EXTRA_OBJECTS[index], size)
    return Icons(arrays)


def extra_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of a scene whose object is an index into `EXTRA_OBJECTS`."""
    name = with_article(OBJECTS[scene.object])
    text = caption(scene, rng).replace(name, with_article(EXTRA_OBJECTS[scene.object]), 1)
    if rng.random() < MISSING_STYLE:
        text = replace_style(text, scene.style, STYLES[scene.object % len(STYLES)])
    return text
