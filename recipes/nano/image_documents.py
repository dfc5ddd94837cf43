"""Training documents about images: generation from a caption, and questions about an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.training.lm_loss import TrainingSequence, modality_loss_weights
from emu3.training.token_noise import replace_visual_tokens
from emu3.training.visual_embedding_init import nearest_codes
from recipes.nano.emoji_world import (
    QUESTIONS,
    Icons,
    Scene,
    answer,
    caption,
    dialogue,
    random_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.scene import CENTRED_PROBABILITY
from recipes.nano.scene_encoding import SceneEncoder

DROPPED_CAPTIONS = 0.08  # probability of an empty caption, the unconditional branch of guidance
CENTRED_GENERATION = 0.9  # probability of a centred composition in images to generate

NOISY = 0.5  # probability that some input codes of a document are replaced by other codes
MAX_NOISE = {"generation": 1.0, "question": 0.5}  # largest proportion of replaced codes
SUBSTITUTED = 0.7  # probability that codes of an image in a question are replaced by near codes
MAX_SUBSTITUTION = 0.8  # largest proportion of such codes
NEIGHBOURS = 8  # nearest codebook entries that a code may be replaced by

CAPTION_WEIGHT = 0.1  # in the loss; which object a caption names is random
VISION_WEIGHT = 0.5
ANSWER_WEIGHT = 4.0  # an answer is about five tokens of eighty

CaptionFunction = Callable[[Scene, np.random.Generator], str]


@dataclass(frozen=True)
class ImageMix:
    """Documents per step."""

    captioned: int  # scenes, generated from their captions
    questions: int = 0  # scenes, with one to three questions each
    naming: int = 0  # augmented images, with the question which object they show
    other_sets: int = 0  # scenes of other icon sets than the three styles, from their captions


class ImageDocuments:
    """Makes the image documents of a step."""

    def __init__(
        self,
        mix: ImageMix,
        vision: VisionTokenizer,
        text: TextTokenizer,
        icons: Icons,
        augmented: Sequence[Mapping[str, Tensor]] = (),
        other_pairs: NDArray[np.int64] | None = None,
        caption_function: CaptionFunction = caption,
        pairs: NDArray[np.int64] | None = None,
    ) -> None:
        """Set up the sources.

        `augmented` are collections of augmented images, used equally often: by aspect ratio, codes
        [objects, count, h, w]. `other_pairs` are rows (object, icon set) of `mix.other_sets`.
        `pairs` are rows (object, style) of all other scenes, by default those that are not held
        out. `icons` has the icons of all pairs.
        """
        self.mix, self.augmented, self.other_pairs = mix, augmented, other_pairs
        self.caption_function = caption_function
        self.encode = SceneEncoder(vision, icons)
        self.prompts = PromptTemplates.from_tokenizer(text)
        self.visual = text.vocabulary.visual
        self.neighbours = nearest_codes(vision.quantize.embedding.weight.detach(), NEIGHBOURS)
        self.pairs = seen_pairs() if pairs is None else pairs

    def __call__(self, rng: np.random.Generator) -> list[TrainingSequence]:
        """The documents of one step, generation first."""
        scenes = [self.scene(rng, CENTRED_GENERATION) for _ in range(self.mix.captioned)]
        scenes += [self.other_scene(rng) for _ in range(self.mix.other_sets)]
        generation = [
            self.generation(scene, codes, rng)
            for scene, codes in zip(scenes, self.encode(scenes), strict=True)
        ]
        scenes = [self.scene(rng) for _ in range(self.mix.questions)]
        questions = [
            self.chat(self.substitute(codes, rng), dialogue(scene, rng))
            for scene, codes in zip(scenes, self.encode(scenes), strict=True)
        ]
        questions += [self.naming(rng) for _ in range(self.mix.naming)]
        pool = self._visual_ids(generation)
        return [
            *(self.add_noise(each, MAX_NOISE["generation"], pool, rng) for each in generation),
            *(self.add_noise(each, MAX_NOISE["question"], pool, rng) for each in questions),
        ]

    def scene(self, rng: np.random.Generator, centred: float = CENTRED_PROBABILITY) -> Scene:
        """A random scene of a pair to train on."""
        index, style = self.pairs[rng.integers(len(self.pairs))]
        return random_scene(rng, int(index), int(style), centred=centred)

    def other_scene(self, rng: np.random.Generator) -> Scene:
        """A random scene of another icon set."""
        if self.other_pairs is None:
            raise ValueError("a mix with other icon sets needs other_pairs")
        index, icon_set = self.other_pairs[rng.integers(len(self.other_pairs))]
        return random_scene(rng, int(index), int(icon_set), centred=CENTRED_GENERATION)

    def generation(self, scene: Scene, codes: Tensor, rng: np.random.Generator) -> TrainingSequence:
        """The caption, or sometimes an empty one, and the image codes [h, w]."""
        dropped = rng.random() < DROPPED_CAPTIONS
        return self.captioned_image("" if dropped else self.caption_function(scene, rng), codes)

    def captioned_image(self, text: str, codes: Tensor) -> TrainingSequence:
        """A caption and image codes [h, w]; all tokens have a weight."""
        ids = self.prompts.document(text, codes)
        return TrainingSequence(
            ids, modality_loss_weights(ids, self.visual, CAPTION_WEIGHT, VISION_WEIGHT)
        )

    def chat(self, codes: Tensor, turns: list[tuple[str, str]]) -> TrainingSequence:
        """An image, questions and answers; only answers have a weight, as in Emu3-Chat."""
        ids, is_answer = self.prompts.chat_document(codes, turns)
        return TrainingSequence(ids, is_answer * ANSWER_WEIGHT)

    def naming(self, rng: np.random.Generator) -> TrainingSequence:
        """An augmented image, and the question which object it shows."""
        name, codes = self.augmented_image(rng)
        question = QUESTIONS["object"][rng.integers(len(QUESTIONS["object"]))]
        return self.chat(self.substitute(codes, rng), [(question, name)])

    def augmented_image(self, rng: np.random.Generator) -> tuple[str, Tensor]:
        """The name of an object, and the codes [h, w] of an augmented image of it."""
        scene = self.scene(rng)
        source = self.augmented[int(rng.integers(len(self.augmented)))]
        images = source[scene.ratio][scene.object]
        return answer(scene, "object"), images[rng.integers(len(images))].long()

    def add_noise(
        self, document: TrainingSequence, most: float, pool: Tensor, rng: np.random.Generator
    ) -> TrainingSequence:
        """The document, sometimes with up to a proportion `most` of its input codes replaced."""
        if rng.random() >= NOISY:
            return document
        proportion = float(rng.uniform(0, most))
        return replace(
            document,
            input_ids=replace_visual_tokens(document.token_ids, self.visual, proportion, pool, rng),
        )

    def substitute(self, codes: Tensor, rng: np.random.Generator) -> Tensor:
        """The codes [h, w], mostly with some of them replaced by near codebook entries."""
        if rng.random() >= SUBSTITUTED:
            return codes
        chosen = torch.from_numpy(rng.random(codes.shape) < rng.uniform(0, MAX_SUBSTITUTION))
        which = torch.from_numpy(rng.integers(NEIGHBOURS, size=codes.shape))
        return torch.where(chosen, self.neighbours[codes, which], codes)

    def _visual_ids(self, documents: list[TrainingSequence]) -> Tensor:
        """All visual token ids of some documents, [N]."""
        if not documents:
            return torch.empty(0, dtype=torch.long)
        ids, visual = torch.cat([each.token_ids for each in documents]), self.visual
        return ids[(ids >= visual.start) & (ids < visual.stop)]
