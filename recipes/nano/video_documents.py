"""Documents about clips: drawn from a caption, gone on with, asked about, and followed.

Clips *followed* are how a decoder that knows pictures comes to look at the group before. What comes
next in a clip can be copied from there, but to copy is of no use before it is known how far things
have moved, and to know that is of none before anything is copied: trained on all motions at once, a
decoder learns neither. So at first nothing moves, then one of the eight directions, then more of
them. What is captioned with another direction stands still, and only what follows the first group
counts, which is a picture like others.

Where things go is some two nats among a group's many, which a decoder does without for long: what
changes is mostly told by what has changed before it. So a group's codes count for much until some
have changed, and an answer that names a motion for more than others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.document_format import VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.training.lm_loss import TrainingSequence, modality_loss_weights
from recipes.nano.emoji_world import (
    CODE,
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
from recipes.nano.emoji_world.motion import BEAT, SLIDES, WORLD
from recipes.nano.emoji_world.video_captions import ClipKind, direction
from recipes.nano.emoji_world.video_scene import RATES, SECONDS
from recipes.nano.image_documents import (
    CAPTION_WEIGHT,
    DROPPED_CAPTIONS,
    VISION_WEIGHT,
)
from recipes.nano.video_codes import CodesOfClips

BEATS = {2: 0.15, 4: 0.65}
"""Beats of clips asked about, and how many have so many; the others are of any usual length."""

DRAWN = {1: 0.4, 2: 0.1, 4: 0.4}
"""The same of clips drawn from captions: how each motion begins is a picture to learn by itself."""

LONGER = {4: 0.4, 8: 0.4, 12: 0.2}
"""The same of clips to go on with."""

SLIDING = 0.4  # clips of something that slides: eight of fifteen motions, the easiest to draw
WAYS = tuple(f"moving {way}" for way in SLIDES)
OTHERWISE = tuple(name for name in MOTIONS if name not in WAYS)
SILENT = 0.4  # clips to go on with that have no caption: what comes next follows from what is seen
ELSEWHERE = 0.5  # clips read that do not begin in the middle, as those gone on with do not
ASKED: tuple[tuple[ClipKind, ...], ...] = (
    ("describe",),
    ("describe",),
    ("object", "motion"),
    ("motion",),
)
"""What a clip is asked about, each as often as the others.

The motion comes last: only behind a last answer is there an EOS to learn, and a decoder that is
never told where "up" ends goes on, "up and to the left".
"""

FOLLOWED = 8, 12  # frames of a clip to follow where nothing moves, and where something does
MOVED = 0.6  # clips to follow where something moves for sure, as soon as anything does

FIRST, FIRST_WEIGHT = 3, 1.0  # of a group: codes until so many have changed say where it goes
BEGINS_WEIGHT = 1.5  # codes of the first group: it is a picture like others
COUNTS: dict[ClipKind, float] = {"motion": 20.0, "object": 12.0, "describe": 10.0}
"""How much a token of an answer counts: of one that is a motion, one or two say which.

Within an answer all count alike: what counts for more is expected where it does not belong.
"""

Say = Callable[[MovingScene, np.random.Generator], str]
Maker = Callable[[MovingScene, VideoCodes, np.random.Generator], TrainingSequence]


@dataclass(frozen=True)
class ClipMix:
    """Documents about clips, of a step."""

    drawn: int = 0  # from their captions
    longer: int = 0  # to go on with, by what is said or what is seen
    asked: int = 0
    which_way: int = 0  # asked where things slide to


@dataclass(frozen=True)
class ClipLessons:
    """Clips of everything that may be seen to move, made anew for every document."""

    prompts: PromptTemplates
    codes_of: CodesOfClips
    pairs: NDArray[np.int64]
    say: Say = clip_caption

    @classmethod
    def of(
        cls, vision: VisionTokenizer, text: TextTokenizer, icons: Icons, say: Say = clip_caption
    ) -> ClipLessons:
        """What there is to teach with, and how clips are captioned."""
        return cls(
            PromptTemplates.from_tokenizer(text), CodesOfClips(vision, icons), seen_pairs(), say
        )

    def __call__(self, rng: np.random.Generator, mix: ClipMix) -> list[TrainingSequence]:
        """As many documents of each kind as the mix says."""
        lessons = [
            *((self.scene(rng, DRAWN), self.draw) for _ in range(mix.drawn)),
            *((elsewhere(self.scene(rng, LONGER), rng), self.go_on) for _ in range(mix.longer)),
            *((elsewhere(self.scene(rng, BEATS), rng), self.answer) for _ in range(mix.asked)),
            *((elsewhere(self.way(rng), rng), self.answer) for _ in range(mix.which_way)),
        ]
        return self._documents(lessons, rng)

    def followed(self, rng: np.random.Generator, count: int, ways: int) -> list[TrainingSequence]:
        """Captioned clips in which the first so many of the eight directions are moved in."""
        return self._documents([(self.slide(rng, ways), self.follow) for _ in range(count)], rng)

    def _documents(
        self, lessons: Sequence[tuple[MovingScene, Maker]], rng: np.random.Generator
    ) -> list[TrainingSequence]:
        """Each scene as its maker has it; all are encoded together."""
        codes = self.codes_of([scene for scene, _ in lessons])
        return [
            make(scene, VideoCodes(each, scene.fps, scene.frames), rng)
            for (scene, make), each in zip(lessons, codes, strict=True)
        ]

    def scene(self, rng: np.random.Generator, beats: dict[int, float]) -> MovingScene:
        """Something that moves, for so many beats or as long as clips are; it is seen to move."""
        names = WAYS if rng.random() < SLIDING else OTHERWISE
        scene, fps = moving(rng, self.pairs, names), int(rng.choice(RATES))
        at = int(np.searchsorted(np.cumsum(list(beats.values())), rng.random(), side="right"))
        known = [*beats, 0][at]
        frames = known * BEAT if known else fps * int(rng.choice(SECONDS))
        still = scene.still if frames > 2 * BEAT else 0
        return replace(scene, fps=fps, frames=frames, still=still)

    def way(self, rng: np.random.Generator) -> MovingScene:
        """Something that slides, for two to six beats."""
        scene = moving(rng, self.pairs, WAYS)
        return replace(scene, fps=8, frames=BEAT * int(rng.integers(2, 7)), still=0)

    def slide(self, rng: np.random.Generator, ways: int) -> MovingScene:
        """Something that slides in one of the first ways, or is said to slide and stands still."""
        surely = ways > 0 and rng.random() < MOVED
        scene = moving(rng, self.pairs, WAYS[:ways] if surely else WAYS)
        frames, known = FOLLOWED[ways > 0], scene.motion in WAYS[:ways]
        return replace(scene, fps=8, frames=frames, still=0 if known else frames)

    def draw(
        self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """Caption, clip; the caption is dropped now and then, so that guidance has its branch."""
        if rng.random() < DROPPED_CAPTIONS:
            return self._clip("", video, CAPTION_WEIGHT, known=2)
        return self._clip(self.say(scene, rng), video, CAPTION_WEIGHT, known=1)

    def go_on(
        self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """Caption, clip, or a clip alone, whose second group is the first to say how it moves.

        Only what follows the first group counts: clips that are drawn begin in the middle.
        """
        if rng.random() < SILENT:
            return self._behind_the_first(self._clip("", video, 0.0, known=2), video)
        return self.follow(scene, video, rng)

    def follow(
        self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """Caption, clip; only codes behind those of the first group count."""
        document = self._clip(self.say(scene, rng), video, 0.0, known=1)
        return self._behind_the_first(document, video)

    def _behind_the_first(self, document: TrainingSequence, video: VideoCodes) -> TrainingSequence:
        """The document, with the codes of the first group only to be read."""
        document.loss_weights[
            self._codes(document.token_ids).nonzero()[: video.codes[0].numel(), 0]
        ] = 0.0
        return document

    def answer(
        self, scene: MovingScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """Clip, question, answer, or two of each; all but the answers is only context."""
        kinds = ASKED[int(rng.integers(len(ASKED)))]
        turns = [(clip_question(kind, scene, rng), clip_answer(scene, kind)) for kind in kinds]
        ids, said = self.prompts.chat_document(video, turns)
        begins = said & ~said.roll(1)  # no document begins with an answer
        turn = (begins.cumsum(0) - 1).clamp(min=0)
        return TrainingSequence(ids, said * torch.tensor([COUNTS[kind] for kind in kinds])[turn])

    def _clip(self, words: str, video: VideoCodes, caption: float, known: int) -> TrainingSequence:
        """A caption and a clip, of which it is known how it goes on after so many groups."""
        ids = self.prompts.document(words, video)
        weights = modality_loss_weights(
            ids, self.prompts.tokenizer.vocabulary.visual, caption, VISION_WEIGHT
        )
        weights[self._codes(ids)] = weights_of(video.codes, known).flatten()
        return TrainingSequence(ids, weights)

    def _codes(self, ids: Tensor) -> Tensor:
        """Which ids are codes."""
        visual = self.prompts.tokenizer.vocabulary.visual
        return (ids >= visual.start) & (ids < visual.stop)


def weights_of(codes: Tensor, known: int) -> Tensor:
    """How much predicting each code [t, h, w] of a clip counts.

    The first group counts as pictures do. After so many groups it is `known` how it goes on, and
    what changes first says that. What a code counts for hangs on those before it alone: if it hung
    on the code itself, some would be foreseen too often.
    """
    weights = torch.full(codes.shape, VISION_WEIGHT)
    weights[0] = BEGINS_WEIGHT
    changed = (codes[1:] != codes[:-1]).flatten(1).long()
    begins = (changed.cumsum(1) - changed < FIRST).view_as(codes[1:])
    weights[known:][begins[known - 1 :]] = FIRST_WEIGHT
    return weights


def elsewhere(scene: MovingScene, rng: np.random.Generator) -> MovingScene:
    """What slides, anywhere; other motions, and some slides, where they begin in Emoji World."""
    if direction(scene) is None or rng.random() >= ELSEWHERE:
        return scene
    x, y = (int(by) * CODE for by in rng.integers(WORLD // CODE, size=2))
    return replace(scene, x=(scene.x + x) % WORLD, y=(scene.y + y) % WORLD)


def moving(
    rng: np.random.Generator, pairs: NDArray[np.int64], motions: Sequence[str]
) -> MovingScene:
    """Something in one of these motions, as it may be seen."""
    hidden, names = held_out_motions(), list(MOTIONS)
    while True:
        thing, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        motion = motions[int(rng.integers(len(motions)))]
        if not hidden[thing, names.index(motion)]:
            return random_moving_scene(rng, thing, style, motion)
