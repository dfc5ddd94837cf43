"""Captions of a video, and questions about it with their answers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from recipes.nano.emoji_world.download import STYLES
from recipes.nano.emoji_world.motion import DIRECTIONS
from recipes.nano.emoji_world.objects import OBJECTS, with_article
from recipes.nano.emoji_world.video_scene import VideoScene

VideoQuestionKind = Literal["motion", "object", "describe"]

VIDEO_CAPTIONS: dict[str, float] = {
    "{object} {motion} on a {background} background, {style} style": 0.6,
    "{object} {motion}, {style} style": 0.4,
}
"""Caption templates and their probabilities."""

VIDEO_QUESTIONS: dict[VideoQuestionKind, tuple[str, ...]] = {
    "motion": ("How does it move?", "What does it do?", "What happens?"),
    "object": ("What is this?", "What is it?", "What is moving?"),
    "describe": ("Please describe the video", "Describe the video.", "Describe this clip."),
}
"""Wordings of each kind of question, all equally likely."""

DIRECTION_QUESTIONS = ("Which way does it move?", "Where does it go?")
"""More wordings of the question about the motion, if the answer is a direction."""

_FULL = next(iter(VIDEO_CAPTIONS))


def video_caption(scene: VideoScene, rng: np.random.Generator) -> str:
    """A caption from one of the templates in `VIDEO_CAPTIONS`."""
    templates = list(VIDEO_CAPTIONS)
    return _fill(templates[rng.choice(len(templates), p=list(VIDEO_CAPTIONS.values()))], scene)


def full_video_caption(scene: VideoScene) -> str:
    """The complete caption."""
    return _fill(_FULL, scene)


def video_question(kind: VideoQuestionKind, scene: VideoScene, rng: np.random.Generator) -> str:
    """A question of a kind, in a wording that fits the video."""
    wordings = VIDEO_QUESTIONS[kind]
    if kind == "motion" and direction_of(scene) is not None:
        wordings += DIRECTION_QUESTIONS
    return wordings[int(rng.integers(len(wordings)))]


def video_answer(scene: VideoScene, kind: VideoQuestionKind) -> str:
    """The correct answer: `"to the right"`, `"a fox"`, or the complete caption."""
    if kind == "motion":
        return direction_of(scene) or _motion_phrase(scene)
    return with_article(OBJECTS[scene.object]) if kind == "object" else full_video_caption(scene)


def direction_of(scene: VideoScene) -> str | None:
    """The direction of a sliding object as captions name it; None for every other motion."""
    direction = scene.motion.removeprefix("moving ")
    return direction if direction in DIRECTIONS else None


def _motion_phrase(scene: VideoScene) -> str:
    """The motion, with the occluder if there is one."""
    occluder = "" if scene.occluder is None else f" {with_article(OBJECTS[scene.occluder])}"
    return scene.motion + occluder


def _fill(template: str, scene: VideoScene) -> str:
    return template.format(
        object=with_article(OBJECTS[scene.object]),
        motion=_motion_phrase(scene),
        style=STYLES[scene.style],
        background=scene.background,
    )
