"""Documents about images: generation from a caption, and questions about an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

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
from recipes.nano.emoji_world.scene import USUAL as MOSTLY
from recipes.nano.scene_codes import CodesOfScenes

DROPPED_CAPTIONS = 0.08  # so that guidance has an unconditional branch
USUAL = 0.9  # how many pictures to draw are composed the usual way
CORRUPTED = 0.5  # how many pictures are read with some of their codes wrong, up to the share of
MOST_WRONG = {"draw": 1.0, "answer": 0.5}
ALIKE = 0.7  # how many pictures asked about have codes much like the right ones,
MOST_ALIKE = 0.8  # up to what share of their codes,
NEAREST = 8  # and among how many they are chosen
CAPTION_WEIGHT = 0.1  # which object is asked for next is nothing to learn
VISION_WEIGHT = 0.5
ANSWER_WEIGHT = 4.0  # an answer is five tokens among eighty

Say = Callable[[Scene, np.random.Generator], str]


@dataclass(frozen=True)
class Mix:
    """Documents of a step."""

    drawn: int  # pictures of the world, from their captions
    asked: int  # some questions each about pictures of the world
    named: int  # drawings as no style has them, and what they show
    others: int = 0  # pictures by other hands, from their captions


class Lessons:
    """The documents of a step: scenes drawn and scenes asked about."""

    def __init__(
        self,
        mix: Mix,
        vision: VisionTokenizer,
        text: TextTokenizer,
        icons: Icons,
        *variations: Mapping[str, torch.Tensor],
        others: NDArray[np.int64] | None = None,
        say: Say = caption,
        pairs: NDArray[np.int64] | None = None,
    ) -> None:
        """What there is to teach with.

        `variations`, each as often as another, by ratio: codes [objects, any number, h, w] of
        drawings of no style. `others`: rows (object, hand) of pictures by other hands; `icons`
        has their drawings, too. `say`: how pictures to draw are captioned. `pairs`: rows (object,
        style) of the pictures that are not by others; all that are not held out, unless told.
        """
        self.mix, self.variations, self.others = mix, variations, others
        self.say = say
        self.codes_of = CodesOfScenes(vision, icons)
        self.prompts = PromptTemplates.from_tokenizer(text)
        self.visual = text.vocabulary.visual
        self.alike = nearest_codes(vision.quantize.embedding.weight.detach(), NEAREST)
        self.pairs = seen_pairs() if pairs is None else pairs

    def __call__(self, rng: np.random.Generator) -> list[TrainingSequence]:
        """As many documents of each kind as the mix says."""
        scenes = [self.scene(rng, usual=USUAL) for _ in range(self.mix.drawn)]
        scenes += [self.by_another(rng) for _ in range(self.mix.others)]
        drawn = [
            self.draw(scene, codes, rng)
            for scene, codes in zip(scenes, self.codes_of(scenes), strict=True)
        ]
        scenes = [self.scene(rng) for _ in range(self.mix.asked)]
        answered = [
            self.answer(self.much_alike(codes, rng), dialogue(scene, rng))
            for scene, codes in zip(scenes, self.codes_of(scenes), strict=True)
        ]
        answered += [self.named(rng) for _ in range(self.mix.named)]
        pool = self.codes_in(drawn)
        return [
            *(self.corrupted(each, MOST_WRONG["draw"], pool, rng) for each in drawn),
            *(self.corrupted(each, MOST_WRONG["answer"], pool, rng) for each in answered),
        ]

    def scene(self, rng: np.random.Generator, usual: float = MOSTLY) -> Scene:
        thing, style = self.pairs[rng.integers(len(self.pairs))]
        return random_scene(rng, int(thing), int(style), usual=usual)

    def by_another(self, rng: np.random.Generator) -> Scene:
        if self.others is None:
            raise ValueError("a mix with pictures by other hands needs their pairs")
        thing, hand = self.others[rng.integers(len(self.others))]
        return random_scene(rng, int(thing), int(hand), usual=USUAL)

    def codes_in(self, documents: list[TrainingSequence]) -> torch.Tensor:
        """Every visual id of these documents [N]."""
        ids, visual = torch.cat([each.token_ids for each in documents]), self.visual
        return ids[(ids >= visual.start) & (ids < visual.stop)]

    def corrupted(
        self, document: TrainingSequence, most: float, pool: torch.Tensor, rng: np.random.Generator
    ) -> TrainingSequence:
        """Some documents with up to that share of their codes wrong, the others as they are."""
        if rng.random() >= CORRUPTED:
            return document
        share = float(rng.uniform(0, most))
        return replace(
            document,
            input_ids=replace_visual_tokens(document.token_ids, self.visual, share, pool, rng),
        )

    def much_alike(self, codes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Most pictures with up to a share of their codes [h, w] replaced by near ones."""
        if rng.random() >= ALIKE:
            return codes
        chosen = torch.from_numpy(rng.random(codes.shape) < rng.uniform(0, MOST_ALIKE))
        others = self.alike[codes, torch.from_numpy(rng.integers(NEAREST, size=codes.shape))]
        return torch.where(chosen, others, codes)

    def draw(self, scene: Scene, codes: torch.Tensor, rng: np.random.Generator) -> TrainingSequence:
        """Caption, picture; the caption is dropped now and then."""
        words = "" if rng.random() < DROPPED_CAPTIONS else self.say(scene, rng)
        return self.picture(words, codes)

    def picture(self, words: str, codes: torch.Tensor) -> TrainingSequence:
        """A caption and codes [h, w]; of both every id counts."""
        ids = self.prompts.document(words, codes)
        return TrainingSequence(
            ids, modality_loss_weights(ids, self.visual, CAPTION_WEIGHT, VISION_WEIGHT)
        )

    def answer(self, codes: torch.Tensor, turns: list[tuple[str, str]]) -> TrainingSequence:
        """Picture, questions, answers; all but these is only context, as in the paper's Chat."""
        ids, said = self.prompts.chat_document(codes, turns)
        return TrainingSequence(ids, said * ANSWER_WEIGHT)

    def variation(self, rng: np.random.Generator) -> tuple[str, torch.Tensor]:
        """An object as no style draws it: its name and codes [h, w]."""
        scene = self.scene(rng)
        source = self.variations[rng.integers(len(self.variations))]
        made = source[scene.ratio][scene.object]
        return answer(scene, "object"), made[rng.integers(len(made))].long()

    def named(self, rng: np.random.Generator) -> TrainingSequence:
        """Such a drawing, and what it shows."""
        name, codes = self.variation(rng)
        question = QUESTIONS["object"][rng.integers(len(QUESTIONS["object"]))]
        return self.answer(self.much_alike(codes, rng), [(question, name)])
