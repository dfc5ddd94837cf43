"""Accuracy of generated images, and reward functions: shared by the fine-tuning recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from PIL import Image

from emu3 import Emu3
from emu3.evaluation import Proportion
from emu3.training.preference_data import ScoreFunction
from recipes.nano.emoji_world import RATIOS, Scene
from recipes.nano.evaluation.icon_classifier import NearestIconClassifier, classify_background

BATCH = 24  # prompts per call of the model

# 97.5% quantiles of Student's t by degrees of freedom: the interval of a mean over a few seeds.
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
class Target:
    """A prompt and the scene that a correct image shows; `style` is the classifier's index."""

    prompt: str
    scene: Scene
    style: int


def generation_accuracy(
    model: Emu3, targets: Sequence[Target], classifier: NearestIconClassifier, seed: int
) -> dict[str, Proportion]:
    """Proportions of images with the correct object, style and background, and with all three.

    Sampled with the generation defaults of the model's checkpoint.
    """
    correct: dict[str, list[bool]] = {"object": [], "style": [], "background": [], "all": []}
    for start in range(0, len(targets), BATCH):
        batch = targets[start : start + BATCH]
        result = model.image([each.prompt for each in batch], ratio=RATIOS[0], seed=seed + start)
        for image, target in zip(result.images, batch, strict=True):
            pixels = np.asarray(image.convert("RGB"))
            found = (
                classifier.classify(pixels, target.style) == target.scene.object,
                classifier.classify_style(pixels) == target.style,
                classify_background(pixels) == target.scene.background,
            )
            for name, value in zip(correct, (*found, all(found)), strict=True):
                correct[name].append(value)
    return {name: Proportion.of(values, chance=0.0) for name, values in correct.items()}


def object_reward(
    targets: Mapping[str, Target], classifier: NearestIconClassifier
) -> ScoreFunction:
    """A reward in (0, 1] by prompt: half for the correct object, half for being near its icon."""

    def reward(image: Image.Image, prompt: str) -> float:
        target = targets[prompt]
        distances = classifier.distances(np.asarray(image.convert("RGB")), target.style)
        nearness = math.exp(-float(distances[target.scene.object]))
        return 0.5 * (int(distances.argmin()) == target.scene.object) + 0.5 * nearness

    return reward


def background_reward(targets: Mapping[str, Target]) -> ScoreFunction:
    """A reward by prompt: 1 for the background of the prompt, else 0."""

    def reward(image: Image.Image, prompt: str) -> float:
        found = classify_background(np.asarray(image.convert("RGB")))
        return float(found == targets[prompt].scene.background)

    return reward


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of 2 to 10 values and the bounds of its 95% interval by Student's t."""
    mean = fmean(values)
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
