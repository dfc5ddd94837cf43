"""Captions of a scene, and questions about it with their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np

from recipes.nano.emoji_world.icon_sets import ICON_SETS
from recipes.nano.emoji_world.objects import OBJECTS, with_article
from recipes.nano.emoji_world.scene import Scene

T = TypeVar("T")
QuestionKind = Literal["object", "style", "background", "describe"]

_FULL = "{object} on a {background} background, {style} style"

CAPTIONS: dict[str, float] = {
    _FULL: 0.50,
    "{object}, {style} style": 0.25,
    "{style} style, {object} on a {background} background": 0.05,
    "a picture of {object} in {style} style": 0.05,
    "an icon of {object} on {background}, {style} style": 0.05,
    "{object} in {style} style on a {background} background": 0.05,
    "{object}": 0.025,
    "{object} on a {background} background": 0.025,
}
"""Caption templates and their probabilities; one in twenty has no style."""

KINDS: dict[QuestionKind, float] = {
    "object": 0.5,
    "style": 0.15,
    "background": 0.15,
    "describe": 0.2,
}
"""Kinds of questions and their probabilities."""

QUESTIONS: dict[QuestionKind, tuple[str, ...]] = {
    "object": (
        "What is this?",
        "What is it?",
        "What is in the picture?",
        "What does the image show?",
        "Which object is shown?",
    ),
    "style": (
        "Which style is it?",
        "What style is this?",
        "Which style is it drawn in?",
        "What is the style of the image?",
    ),
    "background": (
        "What colour is the background?",
        "What color is the background?",
        "What is the background colour?",
        "What is the background color?",
        "Which colour is the background?",
        "Which color is the background?",
    ),
    "describe": (
        "Please describe the image",
        "Please describe the picture",
        "Describe the image.",
        "Describe this picture.",
    ),
}
"""Wordings of each kind of question, all equally likely."""

_ANSWERS: dict[QuestionKind, str] = {
    "object": "{object}",
    "style": "{style}",
    "background": "{background}",
    "describe": _FULL,
}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption from one of the templates in `CAPTIONS`; all of them name the object."""
    return _fill(_sample(CAPTIONS, rng), scene)


def caption_without_style(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that does not name the style."""
    templates = [template for template in CAPTIONS if "{style}" not in template]
    return _fill(templates[int(rng.integers(len(templates)))], scene)


def full_caption(scene: Scene) -> str:
    """The complete caption: `"a red apple on a blue background, noto style"`."""
    return _fill(_FULL, scene)


def question_answer(scene: Scene, rng: np.random.Generator) -> tuple[QuestionKind, str, str]:
    """A question about the scene with its answer, as (kind, question, answer)."""
    kind = _sample(KINDS, rng)
    return kind, _question(kind, rng), answer(scene, kind)


def dialogue(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """One to three questions of different kinds about the scene, each with its answer."""
    kinds, weights = list(KINDS), list(KINDS.values())
    chosen = rng.choice(len(kinds), 1 + int(rng.integers(3)), replace=False, p=weights)
    return [(_question(kinds[k], rng), answer(scene, kinds[k])) for k in chosen]


def answer(scene: Scene, kind: QuestionKind) -> str:
    """The correct answer to every question of a kind."""
    return _fill(_ANSWERS[kind], scene)


def _question(kind: QuestionKind, rng: np.random.Generator) -> str:
    wordings = QUESTIONS[kind]
    return wordings[int(rng.integers(len(wordings)))]


def _fill(template: str, scene: Scene) -> str:
    return template.format(
        object=with_article(OBJECTS[scene.object]),
        style=ICON_SETS[scene.style],
        background=scene.background,
    )


def _sample(weights: Mapping[T, float], rng: np.random.Generator) -> T:
    """A key with the probability given by its weight; the weights add up to 1."""
    keys = list(weights)
    bounds = np.cumsum(list(weights.values()))
    chosen = int(np.searchsorted(bounds, rng.random(), side="right"))
    return keys[min(chosen, len(keys) - 1)]  # the last one if rounding leaves something over
