"""How well a model draws what it is asked for, and a voter that knows: for tuning recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from PIL import Image

from emu3 import Emu3
from emu3.training.preference_data import ScoreFunction
from recipes.nano.emoji_world import RATIOS, Scene
from recipes.nano.evaluation.icon_classifier import Judge, background_of
from recipes.nano.evaluation.proportions import Share

BATCH = 24  # prompts drawn at a time

# Student's t, 97.5%, by degrees of freedom: the interval of a mean of a few seeds.
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}


@dataclass(frozen=True)
class Wanted:
    """A request in words, and what a right picture of it shows; `style` is the judge's number."""

    words: str
    scene: Scene
    style: int


def accuracy(model: Emu3, wanted: Sequence[Wanted], judge: Judge, seed: int) -> dict[str, Share]:
    """Shares of pictures with the right object, style and background, and with all three.

    Drawn as the model's card says.
    """
    right: dict[str, list[bool]] = {"object": [], "style": [], "background": [], "all": []}
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        drawn = model.image(
            [each.words for each in part],
            ratio=RATIOS[0],
            seed=seed + start,
        )
        for picture, each in zip(drawn.images, part, strict=True):
            pixels = np.asarray(picture.convert("RGB"))
            found = (
                judge.nearest(pixels, each.style) == each.scene.object,
                judge.style_of(pixels) == each.style,
                background_of(pixels) == each.scene.background,
            )
            for name, value in zip(right, (*found, all(found)), strict=True):
                right[name].append(value)
    return {name: Share.of(values, chance=0.0) for name, values in right.items()}


def object_voter(wanted: Mapping[str, Wanted], judge: Judge) -> ScoreFunction:
    """Half for the right object, half for how near its true icon the picture is, in (0, 1]."""

    def vote(picture: Image.Image, request: str) -> float:
        each = wanted[request]
        apart = judge.distances(np.asarray(picture.convert("RGB")), each.style)
        nearness = math.exp(-float(apart[each.scene.object]))
        return 0.5 * (int(apart.argmin()) == each.scene.object) + 0.5 * nearness

    return vote


def background_voter(wanted: Mapping[str, Wanted]) -> ScoreFunction:
    """1 for the background that was asked for."""

    def vote(picture: Image.Image, request: str) -> float:
        found = background_of(np.asarray(picture.convert("RGB")))
        return float(found == wanted[request].scene.background)

    return vote


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of 2 to 10 values, and the ends of its 95% interval by Student's t."""
    mean = fmean(values)
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
