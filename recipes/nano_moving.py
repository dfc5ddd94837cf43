"""nano's decoder on pictures and clips: `python -m recipes.nano_moving runs/moving`.

Reads the tokenizer of `runs/motion` and goes on from the nano that comes with the package, on what
it has learned from before and on Emoji World in motion: clips to draw from a caption or from their
beginning, and clips to answer about. Kill it whenever you like: the same command goes on. Then
`python -m recipes.nano runs/moving runs/motion` puts both in place of the package's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from emu3.checkpoint import Place, open_checkpoint
from emu3.decoder.transformer import Transformer
from emu3.emoji_world import (
    CODE,
    Icons,
    MovingScene,
    Redrawn,
    clip_answer,
    clip_caption,
    clip_question,
    seen_pairs,
)
from emu3.emoji_world.clip import RATES, SECONDS
from emu3.emoji_world.clip_words import ClipKind
from emu3.emoji_world.motion import BEHIND
from emu3.grammar import VideoCodes
from emu3.precision import FP32
from emu3.prompt import Prompts
from emu3.text import TextTokenizer
from emu3.train.documents import Document, weigh
from emu3.vision.tokenizer import VisionTokenizer
from recipes import nano_decoder, nano_motion, nano_vision
from recipes.clip_codes import GROUP, CodesOfClips
from recipes.nano_decoder import ANSWER_WEIGHT, DROPPED_CAPTIONS, VISION_WEIGHT, Mix
from recipes.nano_variations import variations

RUN = replace(
    nano_decoder.RUN,
    steps=520,
    micro_batch=14,
    learning_rate=2e-3,
    warmup=50,
    hold=130,
    schedule="linear",
    save_every=50,
    seed=2,
)

STILLS = Mix(drawn=16, asked=4, named=8)
CLIPS_DRAWN, CLIPS_ASKED = 10, 4  # of a step

COURSES = 2500
"""So many choices of object, style, motion and background are seen, each at many places and in many
lengths. Each has to be encoded, which costs as much as learning from it once or twice."""

GROUPS = {1: 0.42, 2: 0.28, 4: 0.22}
"""Lengths of clips in groups and how often each is seen; the rest are as long as Emoji World's."""

CONTINUED = 0.3  # clips without a caption: what happens next follows from what is seen
STILL = 1 / 3  # clips that begin with a group that stands still, like a picture
KINDS: dict[ClipKind, float] = {"motion": 0.5, "object": 0.3, "describe": 0.2}


@dataclass(frozen=True)
class ClipLessons:
    """Clips drawn and clips asked about, of a fixed choice of courses."""

    prompts: Prompts
    codes_of: CodesOfClips
    courses: tuple[MovingScene, ...]

    @classmethod
    def of(
        cls, vision: VisionTokenizer, text: TextTokenizer, icons: Icons, courses: int
    ) -> ClipLessons:
        """Choose what is ever seen, by a seed of its own."""
        rng, seen = np.random.default_rng(7), seen_pairs()
        chosen = tuple(nano_motion.moving(rng, seen) for _ in range(courses))
        return cls(Prompts.of(text), CodesOfClips(vision, icons), chosen)

    def scene(self, rng: np.random.Generator) -> MovingScene:
        """One of the courses, somewhere, for some time."""
        course = self.courses[rng.integers(len(self.courses))]
        fps, groups = int(rng.choice(RATES)), self._groups(rng)
        frames = groups * GROUP if groups else fps * int(rng.choice(SECONDS))
        still = GROUP if frames > GROUP and rng.random() < STILL else 0
        scene = replace(course, fps=fps, frames=frames, still=still)
        if course.motion == BEHIND:
            return scene  # stands where it must
        x, y = (CODE // 2 + CODE * int(each) for each in rng.integers(2, 6, 2))
        return replace(scene, x=x, y=y)

    def _groups(self, rng: np.random.Generator) -> int:
        """A length in groups; 0 for one of the world's."""
        at = int(np.searchsorted(np.cumsum(list(GROUPS.values())), rng.random(), side="right"))
        return [*GROUPS, 0][at]

    def __call__(self, rng: np.random.Generator, drawn: int, asked: int) -> list[Document]:
        """So many documents of each kind."""
        scenes = [self.scene(rng) for _ in range(drawn + asked)]
        documents = []
        for index, (scene, codes) in enumerate(zip(scenes, self.codes_of(scenes), strict=True)):
            video = VideoCodes(codes, scene.fps, scene.frames)
            make = self.draw if index < drawn else self.answer
            documents.append(make(scene, video, rng))
        return documents

    def draw(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Caption, clip; the caption is dropped now and then, and oftener where the clip alone
        tells how it goes on."""
        dropped = CONTINUED if len(video.codes) > 1 else DROPPED_CAPTIONS
        words = "" if rng.random() < dropped else clip_caption(scene, rng)
        ids = self.prompts.document(words, video)
        visual = self.prompts.tokenizer.vocabulary.visual
        return Document(ids, weigh(ids, visual, 1.0, VISION_WEIGHT))

    def answer(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Clip, question, answer; all but the last is only context."""
        kinds = list(KINDS)
        kind = kinds[int(rng.choice(len(kinds), p=list(KINDS.values())))]
        turn = (clip_question(kind, scene, rng), clip_answer(scene, kind))
        ids, said = self.prompts.chat_document(video, [turn])
        return Document(ids, said * ANSWER_WEIGHT)


def main(folder: Path, motion: Path) -> Transformer:
    """Train the package's decoder further, on the codes of the tokenizer that sees motion."""
    nano = open_checkpoint("nano", None, Place(torch.device("cpu"), FP32))
    vision, icons = nano_vision.opened(motion / nano_vision.MODEL), Icons.load()
    folder.mkdir(parents=True, exist_ok=True)
    nano.text.save(folder)
    varied = variations(vision, icons, Redrawn.load(), folder)
    stills = nano_decoder.Lessons(STILLS, vision, nano.text, icons, varied)
    clips = ClipLessons.of(vision, nano.text, icons, COURSES)

    def lessons(rng: np.random.Generator) -> list[Document]:
        return stills(rng) + clips(rng, CLIPS_DRAWN, CLIPS_ASKED)

    decoder = nano.decoder.requires_grad_(True)
    return nano_decoder.learn(decoder, nano.text, vision, RUN, folder, lessons)


if __name__ == "__main__":
    names = [*sys.argv[1:], *("runs/moving", "runs/motion")[len(sys.argv) - 1 :]]
    main(*map(Path, names))
