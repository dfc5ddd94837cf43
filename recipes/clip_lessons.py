"""Documents about clips: drawn from a caption or from their beginning, asked about, and followed.

Clips *followed* are how a decoder that knows pictures comes to look at the group before. What comes
next in a clip can be copied from there, but to copy is of no use before it is known how far things
have moved, and to know that is of none before anything is copied: trained on all motions at once, a
decoder learns neither. So at first nothing moves, then one of the eight directions, then more of
them. What is captioned with another direction stands still, and only what follows the first group
counts, which is a picture like others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emu3.emoji_world import (
    MOTIONS,
    Icons,
    MovingScene,
    clip_answer,
    clip_caption,
    clip_question,
    held_out_motions,
    random_moving_scene,
    seen_pairs,
)
from emu3.emoji_world.clip import RATES, SECONDS
from emu3.emoji_world.clip_words import ClipKind
from emu3.emoji_world.motion import BEAT, SLIDES
from emu3.grammar import VideoCodes
from emu3.prompt import Prompts
from emu3.text import TextTokenizer
from emu3.train.documents import Document, weigh
from emu3.vision.tokenizer import VisionTokenizer
from recipes.clip_codes import CodesOfClips
from recipes.nano_decoder import (
    ANSWER_WEIGHT,
    CAPTION_WEIGHT,
    DROPPED_CAPTIONS,
    VISION_WEIGHT,
)

BEATS = {2: 0.3, 4: 0.55}
"""Lengths of clips and how often each is seen; the rest are as long as Emoji World's."""

CONTINUED = 0.3  # clips without a caption: what happens next follows from what is seen
KINDS: dict[ClipKind, float] = {"motion": 0.5, "object": 0.3, "describe": 0.2}
FOLLOWED = 8, 12  # frames of a clip to follow where nothing moves, and where something does
MOVED = 0.6  # clips to follow where something moves for sure, as soon as anything does

Maker = Callable[[MovingScene, VideoCodes, np.random.Generator], Document]


@dataclass(frozen=True)
class ClipLessons:
    """Clips of everything that may be seen to move, made anew for every document."""

    prompts: Prompts
    codes_of: CodesOfClips
    pairs: NDArray[np.int64]

    @classmethod
    def of(cls, vision: VisionTokenizer, text: TextTokenizer, icons: Icons) -> ClipLessons:
        """What there is to teach with."""
        return cls(Prompts.of(text), CodesOfClips(vision, icons), seen_pairs())

    def __call__(self, rng: np.random.Generator, drawn: int, asked: int) -> list[Document]:
        """So many documents of each kind."""
        scenes = [self.scene(rng) for _ in range(drawn + asked)]
        return self._documents(scenes, [self.draw] * drawn + [self.answer] * asked, rng)

    def followed(self, rng: np.random.Generator, count: int, ways: int) -> list[Document]:
        """Captioned clips in which the first so many of the eight directions are moved in."""
        scenes = [self.slide(rng, ways) for _ in range(count)]
        return self._documents(scenes, [self.follow] * count, rng)

    def _documents(
        self, scenes: Sequence[MovingScene], makers: Sequence[Maker], rng: np.random.Generator
    ) -> list[Document]:
        """Each scene as its maker has it; all are encoded together."""
        return [
            make(scene, VideoCodes(codes, scene.fps, scene.frames), rng)
            for make, scene, codes in zip(makers, scenes, self.codes_of(scenes), strict=True)
        ]

    def scene(self, rng: np.random.Generator) -> MovingScene:
        """Something that moves, for some time."""
        scene, fps = moving(rng, self.pairs, list(MOTIONS)), int(rng.choice(RATES))
        at = int(np.searchsorted(np.cumsum(list(BEATS.values())), rng.random(), side="right"))
        beats = [*BEATS, 0][at]
        frames = beats * BEAT if beats else fps * int(rng.choice(SECONDS))
        return replace(scene, fps=fps, frames=frames)

    def slide(self, rng: np.random.Generator, ways: int) -> MovingScene:
        """Something that slides in one of the first ways, or is said to slide and stands still."""
        names = [f"moving {way}" for way in SLIDES]
        surely = ways > 0 and rng.random() < MOVED
        scene = moving(rng, self.pairs, names[:ways] if surely else names)
        frames, known = FOLLOWED[ways > 0], scene.motion in names[:ways]
        return replace(scene, fps=8, frames=frames, still=0 if known else frames)

    def draw(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Caption, clip; the caption is dropped now and then, and oftener where the clip alone
        tells how it goes on."""
        dropped = CONTINUED if len(video.codes) > 1 else DROPPED_CAPTIONS
        words = "" if rng.random() < dropped else clip_caption(scene, rng)
        ids = self.prompts.document(words, video)
        visual = self.prompts.tokenizer.vocabulary.visual
        return Document(ids, weigh(ids, visual, CAPTION_WEIGHT, VISION_WEIGHT))

    def follow(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Caption, clip; only codes behind those of the first group count."""
        ids = self.prompts.document(clip_caption(scene, rng), video)
        visual = self.prompts.tokenizer.vocabulary.visual
        weights = weigh(ids, visual, 0.0, VISION_WEIGHT)
        weights[weights.nonzero()[: video.codes[0].numel(), 0]] = 0.0
        return Document(ids, weights)

    def answer(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Clip, question, answer; all but the last is only context."""
        kinds = list(KINDS)
        kind = kinds[int(rng.choice(len(kinds), p=list(KINDS.values())))]
        turn = (clip_question(kind, scene, rng), clip_answer(scene, kind))
        ids, said = self.prompts.chat_document(video, [turn])
        return Document(ids, said * ANSWER_WEIGHT)


def moving(rng: np.random.Generator, pairs: NDArray[np.int64], motions: list[str]) -> MovingScene:
    """Something in one of these motions, as it may be seen."""
    hidden, names = held_out_motions(), list(MOTIONS)
    while True:
        thing, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        motion = motions[int(rng.integers(len(motions)))]
        if not hidden[thing, names.index(motion)]:
            return random_moving_scene(rng, thing, style, motion)
