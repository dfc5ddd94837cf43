"""Training documents about videos: generation, continuation, questions, and a curriculum.

The curriculum teaches a decoder that was trained on images to attend to the previous frame. Later
frames can be copied, but copying is of no use before the decoder knows how far objects have moved,
and that is of no use before it copies: trained on all motions at once, it learns neither. So at
first nothing moves, then one of the eight directions, then more of them. A caption with another
direction comes with a video in which nothing moves, and only the frames after the first count.

A direction is about two nats of the many of a frame, which a decoder can do without for long, since
most changes follow from earlier changes. So the codes of a frame weigh more until some of them have
changed, and answers that name a motion weigh more than others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

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
    CODE_SIZE,
    MOTIONS,
    Icons,
    VideoQuestionKind,
    VideoScene,
    held_out_motions,
    random_video_scene,
    seen_pairs,
    video_answer,
    video_caption,
    video_question,
)
from recipes.nano.emoji_world.motion import CANVAS_SIZE, DIRECTIONS, FRAMES_PER_POSE
from recipes.nano.emoji_world.video_captions import direction_of
from recipes.nano.emoji_world.video_scene import DURATIONS, FRAME_RATES
from recipes.nano.image_documents import CAPTION_WEIGHT, DROPPED_CAPTIONS, VISION_WEIGHT
from recipes.nano.scene_encoding import VideoEncoder

# Frames of codes of a video, and the proportion of videos with so many; the rest has any duration.
QUESTION_LENGTHS = {2: 0.15, 4: 0.65}
GENERATION_LENGTHS = {1: 0.4, 2: 0.1, 4: 0.4}  # a first frame is an image to learn on its own
CONTINUATION_LENGTHS = {4: 0.4, 8: 0.4, 12: 0.2}

SLIDING = 0.4  # proportion of sliding objects: eight of fifteen motions, the easiest to generate
SLIDES = tuple(f"moving {direction}" for direction in DIRECTIONS)
OTHER_MOTIONS = tuple(name for name in MOTIONS if name not in SLIDES)
WITHOUT_CAPTION = 0.4  # of videos to continue: what comes next follows from the frames alone
RANDOM_START = 0.5  # of videos that are read; those to generate start in the middle

QUESTIONS: tuple[tuple[VideoQuestionKind, ...], ...] = (
    ("describe",),
    ("describe",),
    ("object", "motion"),
    ("motion",),
)
"""Questions about one video, all combinations equally likely.

The motion comes last. Only the last answer is followed by EOS, and a decoder that never sees the
end of "up" continues it to "up and to the left".
"""

CURRICULUM_FRAMES = 8, 12  # of a video in which nothing moves, and in which an object does
CURRICULUM_MOVING = 0.6  # proportion of videos with motion, once there is any

FIRST_FRAME_WEIGHT = 1.5  # in the loss, per code; the first frame is an image like others
ONSET_WEIGHT = (
    1.0  # of the codes of a frame until ONSET_CHANGES of them differ from the frame before
)
ONSET_CHANGES = 3
ANSWER_WEIGHTS: dict[VideoQuestionKind, float] = {"motion": 20.0, "object": 12.0, "describe": 10.0}
"""Weight of a token of an answer; one or two tokens decide on the motion.

All tokens of an answer weigh the same. A word with a higher weight is generated where it does not
belong.
"""

CaptionFunction = Callable[[VideoScene, np.random.Generator], str]
DocumentMaker = Callable[[VideoScene, VideoCodes, np.random.Generator], TrainingSequence]


@dataclass(frozen=True)
class VideoMix:
    """Documents per step."""

    captioned: int = 0  # generated from their captions
    continued: int = 0  # continued, from a caption or from the first frames alone
    questions: int = 0
    directions: int = 0  # sliding objects, with questions


@dataclass(frozen=True)
class VideoDocuments:
    """Makes the video documents of a step. Nothing held out is among them."""

    prompts: PromptTemplates
    encode: VideoEncoder
    pairs: NDArray[np.int64]
    caption_function: CaptionFunction = video_caption

    @classmethod
    def build(
        cls,
        vision: VisionTokenizer,
        text: TextTokenizer,
        icons: Icons,
        caption_function: CaptionFunction = video_caption,
    ) -> Self:
        """Documents of all pairs of object and style that are not held out."""
        prompts = PromptTemplates.from_tokenizer(text)
        return cls(prompts, VideoEncoder(vision, icons), seen_pairs(), caption_function)

    def __call__(self, rng: np.random.Generator, mix: VideoMix) -> list[TrainingSequence]:
        """The documents of one step."""
        jobs: list[tuple[VideoScene, DocumentMaker]] = [
            *((self.scene(rng, GENERATION_LENGTHS), self.generation) for _ in range(mix.captioned)),
            *(
                (randomise_start(self.scene(rng, CONTINUATION_LENGTHS), rng), self.continuation)
                for _ in range(mix.continued)
            ),
            *(
                (randomise_start(self.scene(rng, QUESTION_LENGTHS), rng), self.chat)
                for _ in range(mix.questions)
            ),
            *(
                (randomise_start(self.sliding_scene(rng), rng), self.chat)
                for _ in range(mix.directions)
            ),
        ]
        return self._make(jobs, rng)

    def curriculum(
        self, rng: np.random.Generator, count: int, directions: int
    ) -> list[TrainingSequence]:
        """Captioned videos in which only the first `directions` of the eight directions move."""
        scenes = [self.curriculum_scene(rng, directions) for _ in range(count)]
        return self._make([(scene, self.captioned_continuation) for scene in scenes], rng)

    def _make(
        self, jobs: Sequence[tuple[VideoScene, DocumentMaker]], rng: np.random.Generator
    ) -> list[TrainingSequence]:
        """The document of each scene; all scenes are encoded together."""
        encoded = self.encode([scene for scene, _ in jobs])
        return [
            make(scene, VideoCodes(codes, scene.fps, scene.frames), rng)
            for (scene, make), codes in zip(jobs, encoded, strict=True)
        ]

    def scene(self, rng: np.random.Generator, lengths: Mapping[int, float]) -> VideoScene:
        """A random scene, in which motion is visible if it has more than one pose."""
        names = SLIDES if rng.random() < SLIDING else OTHER_MOTIONS
        scene, fps = random_seen_scene(rng, self.pairs, names), int(rng.choice(FRAME_RATES))
        bounds = np.cumsum(list(lengths.values()))
        at = int(np.searchsorted(bounds, rng.random(), side="right"))
        poses = [*lengths, 0][at]
        frames = poses * FRAMES_PER_POSE if poses else fps * int(rng.choice(DURATIONS))
        delay = scene.delay if frames > 2 * FRAMES_PER_POSE else 0
        return replace(scene, fps=fps, frames=frames, delay=delay)

    def sliding_scene(self, rng: np.random.Generator) -> VideoScene:
        """A sliding object in two to six poses."""
        scene = random_seen_scene(rng, self.pairs, SLIDES)
        return replace(scene, fps=8, frames=FRAMES_PER_POSE * int(rng.integers(2, 7)), delay=0)

    def curriculum_scene(self, rng: np.random.Generator, directions: int) -> VideoScene:
        """An object that slides in one of the first directions, or is captioned to and stands."""
        moving = directions > 0 and rng.random() < CURRICULUM_MOVING
        scene = random_seen_scene(rng, self.pairs, SLIDES[:directions] if moving else SLIDES)
        frames, moves = CURRICULUM_FRAMES[directions > 0], scene.motion in SLIDES[:directions]
        return replace(scene, fps=8, frames=frames, delay=0 if moves else frames)

    def generation(
        self, scene: VideoScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """The caption, or sometimes an empty one, and the video."""
        if rng.random() < DROPPED_CAPTIONS:
            return self._video("", video, CAPTION_WEIGHT, predictable_from=2)
        text = self.caption_function(scene, rng)
        return self._video(text, video, CAPTION_WEIGHT, predictable_from=1)

    def continuation(
        self, scene: VideoScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """A video with or without its caption; only frames after the first count.

        The first frame may start anywhere, unlike that of a video to generate.
        """
        if rng.random() < WITHOUT_CAPTION:
            document = self._video("", video, 0.0, predictable_from=2)
            return self._without_first_frame(document, video)
        return self.captioned_continuation(scene, video, rng)

    def captioned_continuation(
        self, scene: VideoScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """A video with its caption; only frames after the first count."""
        document = self._video(self.caption_function(scene, rng), video, 0.0, predictable_from=1)
        return self._without_first_frame(document, video)

    def _without_first_frame(
        self, document: TrainingSequence, video: VideoCodes
    ) -> TrainingSequence:
        """The document with weight 0 for the codes of the first frame."""
        first = self._is_code(document.token_ids).nonzero()[: video.codes[0].numel(), 0]
        document.loss_weights[first] = 0.0
        return document

    def chat(
        self, scene: VideoScene, video: VideoCodes, rng: np.random.Generator
    ) -> TrainingSequence:
        """A video, one or two questions and their answers; only answers have a weight."""
        kinds = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        turns = [(video_question(kind, scene, rng), video_answer(scene, kind)) for kind in kinds]
        ids, is_answer = self.prompts.chat_document(video, turns)
        starts = is_answer & ~is_answer.roll(1)  # no document begins with an answer
        turn = (starts.cumsum(0) - 1).clamp(min=0)
        weights = torch.tensor([ANSWER_WEIGHTS[kind] for kind in kinds])
        return TrainingSequence(ids, is_answer * weights[turn])

    def _video(
        self, text: str, video: VideoCodes, caption_weight: float, predictable_from: int
    ) -> TrainingSequence:
        """A caption and a video; see `code_weights`."""
        ids = self.prompts.document(text, video)
        visual = self.prompts.tokenizer.vocabulary.visual
        weights = modality_loss_weights(ids, visual, caption_weight, VISION_WEIGHT)
        weights[self._is_code(ids)] = code_weights(video.codes, predictable_from).flatten()
        return TrainingSequence(ids, weights)

    def _is_code(self, ids: Tensor) -> Tensor:
        """Mask of the visual token ids."""
        visual = self.prompts.tokenizer.vocabulary.visual
        return (ids >= visual.start) & (ids < visual.stop)


def code_weights(codes: Tensor, predictable_from: int) -> Tensor:
    """Loss weights [t, h, w] of the codes [t, h, w] of a video.

    From frame number `predictable_from` on the motion is known, and the codes up to the first
    changes, which depend on it, weigh `ONSET_WEIGHT`. The weight of a code depends on earlier codes
    only: if it depended on the code itself, it would be a hint, and frequencies would be learned
    wrongly.
    """
    weights = torch.full(codes.shape, VISION_WEIGHT)
    weights[0] = FIRST_FRAME_WEIGHT
    changed = (codes[1:] != codes[:-1]).flatten(1).long()
    onset = (changed.cumsum(1) - changed < ONSET_CHANGES).view_as(codes[1:])
    weights[predictable_from:][onset[predictable_from - 1 :]] = ONSET_WEIGHT
    return weights


def randomise_start(scene: VideoScene, rng: np.random.Generator) -> VideoScene:
    """Half of the sliding objects start anywhere, so that position does not tell direction."""
    if direction_of(scene) is None or rng.random() >= RANDOM_START:
        return scene
    x, y = (int(by) * CODE_SIZE for by in rng.integers(CANVAS_SIZE // CODE_SIZE, size=2))
    return replace(scene, x=(scene.x + x) % CANVAS_SIZE, y=(scene.y + y) % CANVAS_SIZE)


def random_seen_scene(
    rng: np.random.Generator, pairs: NDArray[np.int64], motions: Sequence[str]
) -> VideoScene:
    """A random scene in one of these motions whose pair of object and motion is not held out."""
    hidden, names = held_out_motions(), list(MOTIONS)
    while True:
        index, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        motion = motions[int(rng.integers(len(motions)))]
        if not hidden[index, names.index(motion)]:
            return random_video_scene(rng, index, style, motion)
