"""What can be said about a clip: captions to draw from, questions and their answers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from recipes.nano.emoji_world.icons import STYLES
from recipes.nano.emoji_world.motion import SLIDES
from recipes.nano.emoji_world.objects import OBJECTS, with_article
from recipes.nano.emoji_world.video_scene import MovingScene

ClipKind = Literal["motion", "object", "describe"]

CLIP_CAPTIONS: dict[str, float] = {
    "{object} {motion} on a {background} background, {style} style": 0.6,
    "{object} {motion}, {style} style": 0.4,
}
"""Wordings of a caption and how often each is used."""

CLIP_QUESTIONS: dict[ClipKind, tuple[str, ...]] = {
    "motion": ("How does it move?", "What does it do?", "What happens?"),
    "object": ("What is this?", "What is it?", "What is moving?"),
    "describe": ("Please describe the video", "Describe the video.", "Describe this clip."),
}
"""Wordings of each kind of question, equally frequent."""

WHICH_WAY = ("Which way does it move?", "Where does it go?")
"""More wordings of the question about the motion, where the answer is a direction."""

_FULL = next(iter(CLIP_CAPTIONS))


def clip_caption(scene: MovingScene, rng: np.random.Generator) -> str:
    """A caption in one of the wordings of `CLIP_CAPTIONS`."""
    wordings = list(CLIP_CAPTIONS)
    return _say(wordings[rng.choice(len(wordings), p=list(CLIP_CAPTIONS.values()))], scene)


def full_clip_caption(scene: MovingScene) -> str:
    """The wording that says everything."""
    return _say(_FULL, scene)


def clip_question(kind: ClipKind, scene: MovingScene, rng: np.random.Generator) -> str:
    """A question of a kind, in a wording that fits the clip."""
    wordings = CLIP_QUESTIONS[kind]
    if kind == "motion" and direction(scene) is not None:
        wordings += WHICH_WAY
    return wordings[int(rng.integers(len(wordings)))]


def clip_answer(scene: MovingScene, kind: ClipKind) -> str:
    """The right answer to any question of a kind: `"to the right"`, `"a fox"`, a whole caption."""
    if kind == "motion":
        return direction(scene) or _motion(scene)
    return with_article(OBJECTS[scene.object]) if kind == "object" else full_clip_caption(scene)


def direction(scene: MovingScene) -> str | None:
    """The way something slides, as it is said; None for what does not slide."""
    way = scene.motion.removeprefix("moving ")
    return way if way in SLIDES else None


def _motion(scene: MovingScene) -> str:
    """The motion as it is said, with what it passes behind."""
    front = "" if scene.front is None else f" {with_article(OBJECTS[scene.front])}"
    return scene.motion + front


def _say(wording: str, scene: MovingScene) -> str:
    return wording.format(
        object=with_article(OBJECTS[scene.object]),
        motion=_motion(scene),
        style=STYLES[scene.style],
        background=scene.background,
    )
