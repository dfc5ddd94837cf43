"""nano's decoder on pictures and clips: `python -m recipes.nano_moving runs/moving`.

Goes on from the nano that comes with the package, on what it has learned from before and on Emoji
World in motion: clips to draw from a caption or from their beginning, and clips to answer about.
Kill it whenever you like: the same command goes on. Then `python -m recipes.nano --moving
runs/moving` puts the decoder in place of the package's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emu3.checkpoint import Place, open_checkpoint
from emu3.decoder.transformer import Transformer
from emu3.emoji_world import (
    MOTIONS,
    Hands,
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
from emu3.emoji_world.motion import BEAT
from emu3.grammar import VideoCodes
from emu3.precision import FP32
from emu3.prompt import Prompts
from emu3.text import TextTokenizer
from emu3.train.compiled import MULTIPLE, compile_blocks
from emu3.train.documents import Document, weigh
from emu3.vision.tokenizer import VisionTokenizer
from recipes import nano_decoder
from recipes.clip_codes import CodesOfClips
from recipes.nano_decoder import (
    ANSWER_WEIGHT,
    CAPTION_WEIGHT,
    DROPPED_CAPTIONS,
    VISION_WEIGHT,
    Mix,
)
from recipes.nano_variations import by_others, variations

RUN = replace(
    nano_decoder.RUN,
    steps=2400,
    micro_batch=16,
    learning_rate=2e-3,
    warmup=50,
    hold=700,
    schedule="linear",
    multiple=8 * MULTIPLE,  # clips are of many lengths, and each is compiled by itself
    seed=6,
)

STILLS = Mix(drawn=12, asked=2, named=14, others=4)
CLIPS_DRAWN, CLIPS_ASKED = 12, 4  # of a step

COURSES = 12_000
"""So many choices of object, style, motion and background are seen, in many lengths. Each has to be
encoded, two or three pictures on average, which costs as much as learning from it once."""

BEATS = {2: 0.3, 4: 0.55}
"""Lengths of clips and how often each is seen; the rest are as long as Emoji World's."""

CONTINUED = 0.3  # clips without a caption: what happens next follows from what is seen
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
        chosen = tuple(moving(rng, seen) for _ in range(courses))
        return cls(Prompts.of(text), CodesOfClips(vision, icons), chosen)

    def scene(self, rng: np.random.Generator) -> MovingScene:
        """One of the courses, for some time."""
        course = self.courses[rng.integers(len(self.courses))]
        fps, beats = int(rng.choice(RATES)), self._beats(rng)
        frames = beats * BEAT if beats else fps * int(rng.choice(SECONDS))
        return replace(course, fps=fps, frames=frames)

    def _beats(self, rng: np.random.Generator) -> int:
        """A length in beats; 0 for one of the world's."""
        at = int(np.searchsorted(np.cumsum(list(BEATS.values())), rng.random(), side="right"))
        return [*BEATS, 0][at]

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
        return Document(ids, weigh(ids, visual, CAPTION_WEIGHT, VISION_WEIGHT))

    def answer(self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator) -> Document:
        """Clip, question, answer; all but the last is only context."""
        kinds = list(KINDS)
        kind = kinds[int(rng.choice(len(kinds), p=list(KINDS.values())))]
        turn = (clip_question(kind, scene, rng), clip_answer(scene, kind))
        ids, said = self.prompts.chat_document(video, [turn])
        return Document(ids, said * ANSWER_WEIGHT)


def moving(rng: np.random.Generator, pairs: NDArray[np.int64]) -> MovingScene:
    """Something that moves as it may be seen to."""
    hidden, names = held_out_motions(), list(MOTIONS)
    while True:
        thing, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        motion = int(rng.integers(len(names)))
        if not hidden[thing, motion]:
            return random_moving_scene(rng, thing, style, names[motion])


def main(folder: Path) -> Transformer:
    """Train the package's decoder further; its text and vision tokenizers stay what they are."""
    nano = open_checkpoint("nano", None, Place(torch.device("cpu"), FP32))
    decoder = nano.decoder.requires_grad_(True)
    if RUN.bf16:
        compile_blocks(decoder)
    vision, hands = nano.codec.vision, Hands.load()
    folder.mkdir(parents=True, exist_ok=True)
    nano.text.save(folder)
    varied = (
        variations(vision, hands.icons, hands.redrawn, folder),
        by_others(vision, hands, folder),
    )
    stills = nano_decoder.Lessons(
        STILLS, vision, nano.text, hands.icons, *varied, others=hands.others
    )
    clips = ClipLessons.of(vision, nano.text, hands.icons, COURSES)

    def lessons(rng: np.random.Generator) -> list[Document]:
        return stills(rng) + clips(rng, CLIPS_DRAWN, CLIPS_ASKED)

    return nano_decoder.learn(decoder, nano.text, vision, RUN, folder, lessons)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/moving"))
