"""The fourth style: Firefox OS Emoji (`@iconify-json/fxemoji`, Mozilla, Apache-2.0).

193 of the 400 objects have a drawing of their name there. Forty of them are held out; a picture of
each of the others is all that is learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    SIZES,
    Icons,
    Scene,
    default_folder,
    usual_scene,
    with_article,
)
from recipes.nano.emoji_world.download import fetch_package
from recipes.nano.emoji_world.icons import drawing
from recipes.nano.evaluation.icon_classifier import REFERENCE_BACKGROUNDS, Judge

PACKAGE = "@iconify-json/fxemoji@1.2.2"
STYLE = "fxemoji"  # what captions call it
NUMBER = 3  # its place behind the three known styles, for the judge
HELD_OUT = 40


@dataclass(frozen=True)
class FourthStyle:
    """Its drawings: `icons` has one style only, clear where there is none."""

    icons: Icons
    learnt: tuple[int, ...]  # objects, as indices
    held_out: tuple[int, ...]

    @classmethod
    def load(cls, path: Path | None = None, seed: int = 0) -> FourthStyle:
        """Fetch and draw it: some seconds. Raises InputError without npm or a file at `path`."""
        path = fetch_package(PACKAGE, path or default_folder() / f"{STYLE}.json")
        icon_set = json.loads(path.read_text(encoding="utf-8"))
        known = set(icon_set["icons"]) | set(icon_set.get("aliases", {}))
        names = {thing: name.replace("-", "") for thing, name in enumerate(OBJECTS)}
        there = {thing: name for thing, name in names.items() if name in known}
        arrays = {}
        for size in SIZES:
            arrays[size] = np.zeros((len(OBJECTS), 1, size, size, 4), np.uint8)
            for thing, name in there.items():
                arrays[size][thing, 0] = drawing(icon_set, name, size)
        order = np.random.default_rng(seed).permutation(list(there)).tolist()
        return cls(Icons(arrays), tuple(sorted(order[HELD_OUT:])), tuple(sorted(order[:HELD_OUT])))

    def scenes(self, things: tuple[int, ...], rng: np.random.Generator) -> list[Scene]:
        """A picture of each object, in the middle, on a background by chance."""
        names = list(BACKGROUNDS)
        return [usual_scene(each, 0, names[rng.integers(len(names))]) for each in things]

    def taught_to(self, judge: Judge, backgrounds: Sequence[str] = REFERENCE_BACKGROUNDS) -> Judge:
        """The judge with this style as `NUMBER`; an object without a drawing is never nearest."""
        mine = Judge.build(self.icons, styles=(0,), backgrounds=backgrounds)
        lengths: NDArray[np.float32] = mine.lengths[0].copy()
        absent = np.setdiff1d(np.arange(len(OBJECTS)), (*self.learnt, *self.held_out))
        lengths.reshape(len(OBJECTS), -1)[absent] = np.inf
        references = {**judge.references, NUMBER: mine.references[0]}
        return Judge(references, {**judge.lengths, NUMBER: lengths})


def caption(scene: Scene) -> str:
    """What the picture of a scene in the fourth style is asked for with."""
    return (
        f"{with_article(OBJECTS[scene.object])} on a {scene.background} background, {STYLE} style"
    )
