"""nano's decoder, from scratch: `python -m recipes.nano_decoder runs/decoder`.

Reads the codes of `runs/vision`, teaches itself a byte-level BPE of 1,024 ranks, and trains on
Emoji World without its held-out pairs: more than half of the documents draw a caption, the others
answer questions about a picture, mostly one of an icon as no style draws it. Kill it whenever you
like: the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from emu3.config import DecoderConfig
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import SamplingParams
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import RANKS_FILE, TextTokenizer
from emu3.training.bpe_training import train_text
from emu3.training.decoder import DecoderTraining, Documents, fresh, train_decoder
from emu3.training.lm_loss import Document, weigh
from emu3.training.mixed_precision import has_bf16
from emu3.training.token_noise import corrupt
from emu3.training.visual_embedding_init import nearest_entries, start_alike
from recipes import nano_vision
from recipes.nano.emoji_world import (
    QUESTIONS,
    Icons,
    Redrawn,
    Scene,
    answer,
    caption,
    dialogue,
    full_caption,
    held_out_pairs,
    question_answer,
    random_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.scene import USUAL as MOSTLY
from recipes.nano_codes import CodesOfScenes
from recipes.nano_variations import variations

RANKS = 1024
DROPPED_CAPTIONS = 0.08  # so that guidance has an unconditional branch
USUAL = 0.9  # how many pictures to draw are composed the usual way
CORRUPTED = 0.5  # how many pictures are read with some of their codes wrong, up to the share of
MOST_WRONG = {"draw": 1.0, "answer": 0.5}
ALIKE = 0.7  # how many pictures asked about have codes much like the right ones,
MOST_ALIKE = 0.8  # up to what share of their codes,
NEAREST = 8  # and among how many they are chosen
FREELY = "{}, free style"  # what is asked for where a drawing is of no style
CAPTION_WEIGHT = 0.1  # which object is asked for next is nothing to learn
VISION_WEIGHT = 0.5
ANSWER_WEIGHT = 4.0  # an answer is five tokens among eighty

Say = Callable[[Scene, np.random.Generator], str]

RUN = DecoderTraining(
    steps=3000,
    micro_batch=24,
    learning_rate=4e-3,
    warmup=30,
    decay=0.01,
    clip=1.0,
    bf16=has_bf16("cpu"),
    report_every=10,
    save_every=100,
    seed=0,
)


@dataclass(frozen=True)
class Mix:
    """Documents of a step."""

    drawn: int  # pictures of the world, from their captions
    asked: int  # some questions each about pictures of the world
    named: int  # drawings as no style has them, and what they show
    freely: int = 0  # such drawings, to be drawn
    others: int = 0  # pictures by other hands, from their captions


MIX = Mix(drawn=30, asked=6, named=12)


def config_for(text: TextTokenizer) -> DecoderConfig:
    """The published architecture, small, over this vocabulary."""
    return DecoderConfig(
        **text.vocabulary.config_keys(),
        hidden_size=384,
        intermediate_size=1152,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        rope_theta=10_000.0,
        attention_dropout=0.0,  # every picture is seen about once; the paper's 0.1 slows it here
        image_area=64 * 64,
    )


def corpus(seed: int = 0) -> list[str]:
    """Everything that is said about some four thousand scenes, and the sizes of pictures."""
    rng = np.random.default_rng(seed)
    texts = [f"{h}*{w}" for h in range(1, 100) for w in range(1, 100)]
    pairs = seen_pairs()
    for _ in range(4000):
        thing, style = pairs[rng.integers(len(pairs))]
        scene = random_scene(rng, int(thing), int(style))
        _, question, answer = question_answer(scene, rng)
        texts += [caption(scene, rng), question + ". ASSISTANT:", " " + answer]
    return [*texts, *["You are a helpful assistant. USER: "] * 200]


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
        self.alike = nearest_entries(vision.quantize.embedding.weight.detach(), NEAREST)
        self.pairs = seen_pairs() if pairs is None else pairs

    def __call__(self, rng: np.random.Generator) -> list[Document]:
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
        drawn += [self.freely(rng) for _ in range(self.mix.freely)]
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

    def codes_in(self, documents: list[Document]) -> torch.Tensor:
        """Every visual id of these documents [N]."""
        ids, visual = torch.cat([each.ids for each in documents]), self.visual
        return ids[(ids >= visual.start) & (ids < visual.stop)]

    def corrupted(
        self, document: Document, most: float, pool: torch.Tensor, rng: np.random.Generator
    ) -> Document:
        """Some documents with up to that share of their codes wrong, the others as they are."""
        if rng.random() >= CORRUPTED:
            return document
        share = float(rng.uniform(0, most))
        return replace(document, read=corrupt(document.ids, self.visual, share, pool, rng))

    def much_alike(self, codes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Most pictures with up to a share of their codes [h, w] replaced by near ones."""
        if rng.random() >= ALIKE:
            return codes
        chosen = torch.from_numpy(rng.random(codes.shape) < rng.uniform(0, MOST_ALIKE))
        others = self.alike[codes, torch.from_numpy(rng.integers(NEAREST, size=codes.shape))]
        return torch.where(chosen, others, codes)

    def draw(self, scene: Scene, codes: torch.Tensor, rng: np.random.Generator) -> Document:
        """Caption, picture; the caption is dropped now and then."""
        words = "" if rng.random() < DROPPED_CAPTIONS else self.say(scene, rng)
        return self.picture(words, codes)

    def picture(self, words: str, codes: torch.Tensor) -> Document:
        """A caption and codes [h, w]; of both every id counts."""
        ids = self.prompts.document(words, codes)
        return Document(ids, weigh(ids, self.visual, CAPTION_WEIGHT, VISION_WEIGHT))

    def answer(self, codes: torch.Tensor, turns: list[tuple[str, str]]) -> Document:
        """Picture, questions, answers; all but these is only context, as in the paper's Chat."""
        ids, said = self.prompts.chat_document(codes, turns)
        return Document(ids, said * ANSWER_WEIGHT)

    def variation(self, rng: np.random.Generator) -> tuple[str, torch.Tensor]:
        """An object as no style draws it: its name and codes [h, w]."""
        scene = self.scene(rng)
        source = self.variations[rng.integers(len(self.variations))]
        made = source[scene.ratio][scene.object]
        return answer(scene, "object"), made[rng.integers(len(made))].long()

    def named(self, rng: np.random.Generator) -> Document:
        """Such a drawing, and what it shows."""
        name, codes = self.variation(rng)
        question = QUESTIONS["object"][rng.integers(len(QUESTIONS["object"]))]
        return self.answer(self.much_alike(codes, rng), [(question, name)])

    def freely(self, rng: np.random.Generator) -> Document:
        """Such a drawing, to be drawn."""
        name, codes = self.variation(rng)
        return self.picture(FREELY.format(name), codes)


def main(vision_folder: Path, folder: Path) -> Transformer:
    """A text tokenizer and a decoder, from nothing."""
    vision = nano_vision.opened(vision_folder / nano_vision.CODES)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RANKS_FILE).exists():
        train_text(corpus(), RANKS, vision.config.codebook_size).save(folder)
    text = TextTokenizer.from_folder(folder)
    model = fresh(config_for(text), RUN.seed)
    start_alike(model, text.vocabulary.visual, vision.quantize.embedding.weight)
    icons = Icons.load()
    varied = variations(vision, icons, Redrawn.load(), folder)
    lessons = Lessons(MIX, vision, text, icons, varied)
    return learn(model, text, vision, RUN, folder, lessons)


def learn(
    model: Transformer,
    text: TextTokenizer,
    vision: VisionTokenizer,
    run: DecoderTraining,
    folder: Path,
    lessons: Documents,
) -> Transformer:
    """Train, with a sheet of seen (above) and held-out (below) drawings at every checkpoint."""
    prompts = PromptTemplates.from_tokenizer(text)
    rng = np.random.default_rng(1)
    pairs = [*rng.permutation(seen_pairs())[:16], *rng.permutation(held_out_pairs())[:16]]
    scenes = [random_scene(rng, int(thing), int(style)) for thing, style in pairs]

    @torch.no_grad()
    def sheet(model: Transformer, step: int) -> None:
        ids = generate_visual(
            model,
            prompts.document_format,
            [prompts.image(full_caption(scene), (8, 8)) for scene in scenes],
            [prompts.image("", (8, 8))] * len(scenes),
            [(8, 8)] * len(scenes),
            SamplingParams(),
            guidance_scale=3.0,
            seeds=list(range(len(scenes))),
        )
        codes = torch.stack([prompts.document_format.decode_body(row, 8, 8) for row in ids])
        pixels = vision.decode(codes).clamp(-1, 1).add(1).mul(127.5).byte()
        rows = pixels.view(2, 16, 3, 64, 64).permute(0, 3, 1, 4, 2).reshape(128, 1024, 3)
        Image.fromarray(rows.numpy()).save(folder / f"sheet-{step:06d}.png")

    return train_decoder(model, run, lessons, text.vocabulary.visual, folder, on_save=sheet)


if __name__ == "__main__":
    folders = [*map(Path, sys.argv[1:]), Path("runs/decoder"), Path("runs/vision")]
    main(vision_folder=folders[1] if len(sys.argv) > 2 else folders[-1], folder=folders[0])
