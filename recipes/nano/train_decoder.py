"""Train nano's decoder from scratch: `python -m recipes.nano.train_decoder runs/decoder`.

The recipe has five phases, each in a folder of its own and each starting from the weights of the
one before:

* `images` trains four blocks on images alone: generation from captions and questions.
* `videos` inserts a fifth block whose attention starts on the previous frame, teaches it to copy in
  a curriculum of 500 steps, and then mixes images and videos.
* `refine-1` to `refine-3` restart at a lower learning rate with more images. Each result is
  averaged with the weights it started from, which generalises better than either of the two.

The model in the package was trained by fourteen runs with these documents, of which these phases
are the condensed form; docs/nano_log.md lists them. The sequence as written here has not been run
from start to end.

An interrupted command resumes from the last checkpoint. `--start nano --phase refine-3` trains the
model of the package further instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emu3 import Emu3
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.evaluation import save_image_grid
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import RANKS_FILE, TextTokenizer
from emu3.training.bpe_training import train_bpe
from emu3.training.checkpointing import load_state, save_state
from emu3.training.compilation import PAD_MULTIPLE, compile_blocks
from emu3.training.decoder import DecoderTrainingConfig, init_decoder, train_decoder
from emu3.training.lm_loss import TrainingSequence
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.visual_embedding_init import init_visual_embeddings
from recipes.nano.augmented_images import (
    OTHER_IMAGES,
    STYLE_IMAGES,
    augmented_other_images,
    augmented_style_images,
)
from recipes.nano.emoji_world import (
    IconSets,
    caption,
    full_caption,
    held_out_pairs,
    question_answer,
    random_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.caption_augmentation import CaptionAugmentation
from recipes.nano.emoji_world.extra_objects import extra_caption, extra_pairs, load_extra_icons
from recipes.nano.image_documents import ImageDocuments, ImageMix
from recipes.nano.model import assemble, config_for
from recipes.nano.previous_frame_block import insert_previous_frame_block
from recipes.nano.train_vision import CODES, load_vision
from recipes.nano.video_documents import VideoDocuments, VideoMix

RANKS = 1024
WEIGHTS = "weights.pt"  # in the folder of a finished phase
SAMPLES = 16  # images of each kind on the contact sheet of a checkpoint

FRAME_TOKENS = 73  # eight rows of eight codes and EOL, and EOF
INSERTED_AT = 2  # the index of the block whose attention starts on the previous frame
SAMPLE = VideoMix(captioned=48, questions=4)  # what the inserted block is initialised from

CURRICULUM = {80: 0, 150: 1, 200: 2, 270: 4, 500: 8}
"""Step to the number of directions in which objects move until then.

Trained on all motions at once, a decoder learns neither to copy the previous frame nor how far an
object has moved, since each is of no use without the other.
"""
CURRICULUM_VIDEOS, CURRICULUM_MIX = 16, VideoMix(directions=10)  # per step


@dataclass(frozen=True)
class Phase:
    """One stage of the recipe."""

    name: str
    run: DecoderTrainingConfig
    images: ImageMix
    videos: VideoMix | None = None
    extra_objects: int = 0  # documents per step that generate an additional object
    image_weight: float = 1.0  # of the loss; videos have more tokens, most of them predictable
    curriculum: Mapping[int, int] = field(default_factory=dict)
    augmented: float = 1.0  # proportion of the usual number of augmented images per object
    average: float = 1.0  # weight of the result in its mean with the weights it started from


RUN = DecoderTrainingConfig(
    steps=16_500,
    micro_batch_size=30,
    learning_rate=4e-3,
    warmup_steps=60,
    hold_steps=4_000,
    schedule="linear",
    weight_decay=0.01,
    max_grad_norm=1.0,
    bf16=has_fast_bf16("cpu"),
    pad_to_multiple_of=2 * PAD_MULTIPLE,
    report_every=10,
    save_every=100,
    seed=0,
)

VIDEO_RUN = replace(
    RUN,
    steps=5_600,
    micro_batch_size=8,
    learning_rate=2e-3,
    warmup_steps=40,
    hold_steps=3_000,
    pad_to_multiple_of=4
    * PAD_MULTIPLE,  # documents differ in length, and every length is compiled separately
    seed=1,
)

PHASES = (
    Phase("images", RUN, ImageMix(captioned=14, questions=4, naming=32, other_sets=10)),
    Phase(
        "videos",
        VIDEO_RUN,
        ImageMix(captioned=16, questions=2, naming=26, other_sets=4),
        VideoMix(captioned=10, continued=3, questions=5, directions=6),
        image_weight=3.0,
        curriculum=CURRICULUM,
    ),
    Phase(
        "refine-1",
        replace(VIDEO_RUN, steps=1000, hold_steps=450, seed=2),
        ImageMix(captioned=14, questions=2, naming=60, other_sets=6),
        VideoMix(captioned=4, continued=2, questions=5, directions=3),
        image_weight=2.0,
        augmented=0.25,
        average=0.5,
    ),
    Phase(
        "refine-2",
        replace(VIDEO_RUN, steps=1000, hold_steps=450, seed=3),
        ImageMix(captioned=20, questions=2, naming=34, other_sets=6),
        VideoMix(captioned=4, continued=2, questions=5, directions=3),
        extra_objects=20,
        image_weight=2.0,
        augmented=0.25,
        average=0.5,
    ),
    Phase(
        "refine-3",
        replace(VIDEO_RUN, steps=140, learning_rate=1e-3, warmup_steps=10, hold_steps=20, seed=4),
        ImageMix(captioned=14, questions=2, naming=50, other_sets=4),
        VideoMix(captioned=4, continued=2, questions=5, directions=3),
        extra_objects=12,
        image_weight=2.0,
        augmented=0.25,
        average=0.5,
    ),
)


def corpus(seed: int = 0) -> list[str]:
    """The text that the BPE is trained on: captions, questions, answers and image sizes."""
    rng = np.random.default_rng(seed)
    texts = [f"{h}*{w}" for h in range(1, 100) for w in range(1, 100)]
    pairs = seen_pairs()
    for _ in range(4000):
        thing, style = pairs[rng.integers(len(pairs))]
        scene = random_scene(rng, int(thing), int(style))
        _, question, answer = question_answer(scene, rng)
        texts += [caption(scene, rng), question + ". ASSISTANT:", " " + answer]
    return [*texts, *["You are a helpful assistant. USER: "] * 200]


@dataclass
class StepDocuments:
    """The documents of a step. The number of steps so far is part of a training checkpoint."""

    sources: Sequence[ImageDocuments]
    videos: VideoDocuments | None
    phase: Phase
    curriculum: Mapping[int, int]
    step: int = 0

    def __call__(self, rng: np.random.Generator) -> list[TrainingSequence]:
        """The documents of the next step."""
        images = [
            replace(each, loss_weights=self.phase.image_weight * each.loss_weights)
            for source in self.sources
            for each in source(rng)
        ]
        directions = next((n for until, n in self.curriculum.items() if self.step < until), None)
        self.step += 1
        if self.videos is None or self.phase.videos is None:
            return images
        if directions is None:
            return images + self.videos(rng, self.phase.videos)
        copied = self.videos.curriculum(rng, CURRICULUM_VIDEOS, directions)
        return images + self.videos(rng, CURRICULUM_MIX) + copied

    def state_dict(self) -> int:
        """Steps so far."""
        return self.step

    def load_state_dict(self, state: int, /) -> None:
        """Resume after this many steps."""
        self.step = state


def documents_for(
    phase: Phase,
    vision: VisionTokenizer,
    text: TextTokenizer,
    icon_sets: IconSets,
    folder: Path,
    curriculum: Mapping[int, int],
) -> StepDocuments:
    """The data of a phase; codes of augmented images are kept in its folder."""
    style_counts, other_counts = (
        {ratio: max(1, round(count * phase.augmented)) for ratio, count in counts.items()}
        for counts in (STYLE_IMAGES, OTHER_IMAGES)
    )
    # Every phase has augmented images of its own: images that are read often are memorised.
    icons, seed = icon_sets.icons, phase.run.seed
    augmented = (
        augmented_style_images(vision, icons, icon_sets.variants, folder, style_counts, seed),
        augmented_other_images(vision, icon_sets, folder, other_counts, seed),
    )
    captions = CaptionAugmentation(icon_sets.available)
    sources = [
        ImageDocuments(
            phase.images,
            vision,
            text,
            icons,
            augmented,
            icon_sets.other_pairs,
            captions.image_caption,
        )
    ]
    if phase.extra_objects:
        sources.append(
            ImageDocuments(
                ImageMix(captioned=phase.extra_objects),
                vision,
                text,
                load_extra_icons(),
                caption_function=extra_caption,
                pairs=extra_pairs(),
            )
        )
    videos = (
        VideoDocuments.build(vision, text, icons, captions.video_caption) if phase.videos else None
    )
    return StepDocuments(sources, videos, phase, curriculum)


def insert_block(
    decoder: Transformer, vision: VisionTokenizer, text: TextTokenizer, icon_sets: IconSets
) -> Transformer:
    """The decoder with one block more, whose heads attend to the same place one frame earlier."""
    videos = VideoDocuments.build(vision, text, icon_sets.icons)
    rows = [each.token_ids for each in videos(np.random.default_rng(8), SAMPLE)]
    # A code is predicted at the id before it, hence one less than a frame.
    distances = [FRAME_TOKENS - 1] * decoder.config.num_attention_heads
    return insert_previous_frame_block(
        decoder, INSERTED_AT, distances, rows, text.vocabulary.visual
    )


def average_weights(before: Transformer, after: Transformer, share: float) -> Transformer:
    """`(1 - share) * before + share * after`, weight by weight.

    Raises InputError if the shapes differ or `share` is outside of (0, 1]. Source: Wortsman et al.,
    "Model soups" (arXiv 2203.05482).
    """
    if not 0 < share <= 1:
        raise InputError(f"a share of {share} must be above 0 and at most 1")
    if before.config != after.config:
        raise InputError("decoders of different shapes have no mean")
    mean = Transformer(after.config)
    ends = before.state_dict(), after.state_dict()
    mean.load_state_dict(
        {name: torch.lerp(ends[0][name], ends[1][name], share) for name in ends[0]}
    )
    return mean


def train_phase(
    phase: Phase,
    start: Transformer,
    vision: VisionTokenizer,
    text: TextTokenizer,
    icon_sets: IconSets,
    folder: Path,
) -> Transformer:
    """Train one phase, with a contact sheet at every checkpoint, and keep its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Transformer(start.config)
    model.load_state_dict(start.state_dict())
    documents = documents_for(phase, vision, text, icon_sets, folder, phase.curriculum)
    if phase.run.bf16:
        compile_blocks(model)

    def sheet(model: Transformer, step: int) -> None:
        save_samples(model, vision, text, folder / f"sheet-{step:06d}.png")

    visual = text.vocabulary.visual
    model = train_decoder(model, phase.run, documents, visual, folder, on_save=sheet)
    trained = Transformer(start.config)
    trained.load_state_dict(model.state_dict())
    result = average_weights(start, trained, phase.average)
    save_state(folder / WEIGHTS, result.state_dict())
    return result


def save_samples(
    model: Transformer, vision: VisionTokenizer, text: TextTokenizer, path: Path
) -> None:
    """Draw some seen pairs (upper row) and as many held-out ones (lower row)."""
    rng = np.random.default_rng(1)
    pairs = [*rng.permutation(seen_pairs())[:SAMPLES], *rng.permutation(held_out_pairs())[:SAMPLES]]
    prompts = [full_caption(random_scene(rng, int(o), int(s))) for o, s in pairs]
    emu3 = Emu3(assemble(vision, model, text))
    images = emu3.image(prompts, ratio="1:1", seed=0).images
    save_image_grid([np.asarray(each.convert("RGB")) for each in images], SAMPLES, path)


def load_phase(folder: Path, text: TextTokenizer, **changes: Any) -> Transformer | None:
    """The weights of a finished phase in float32, or None."""
    state = load_state(folder / WEIGHTS)
    if state is None:
        return None
    blocks = {name.split(".")[2] for name in state if name.startswith("model.layers.")}
    config = config_for(text, **(changes | {"num_hidden_layers": len(blocks)}))
    decoder = Transformer(config)
    decoder.load_state_dict(state)
    return decoder


def main(
    vision: VisionTokenizer,
    folder: Path,
    phases: Sequence[Phase] = PHASES,
    start: Checkpoint | None = None,
    icon_sets: IconSets | None = None,
    **size: Any,
) -> Transformer:
    """Train all phases that are not finished; returns the decoder of the last one.

    `start` is a checkpoint to train further. `size` are changes to the decoder's configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    icon_sets = IconSets.load() if icon_sets is None else icon_sets
    if start is not None:
        start.text_tokenizer.save(folder)
    elif not (folder / RANKS_FILE).exists():
        train_bpe(corpus(), RANKS, vision.config.codebook_size).save(folder)
    text = TextTokenizer.from_folder(folder)
    decoder = None if start is None else start.decoder
    for phase in phases:
        done = load_phase(folder / phase.name, text, **size)
        if done is not None:
            decoder = done
            continue
        if decoder is None:
            decoder = init_decoder(config_for(text, **size), phase.run.seed)
            init_visual_embeddings(
                decoder, text.vocabulary.visual, vision.quantize.embedding.weight
            )
        elif phase.curriculum:
            decoder = insert_block(decoder, vision, text, icon_sets)
        decoder = train_phase(phase, decoder, vision, text, icon_sets, folder / phase.name)
    if decoder is None:
        raise InputError("there is no phase to train")
    return decoder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/decoder"))
    parser.add_argument("--vision", type=Path, default=Path("runs/vision"), help="its run's folder")
    parser.add_argument("--start", help="a checkpoint to train further, such as nano")
    parser.add_argument("--phase", action="append", choices=[each.name for each in PHASES])
    asked = parser.parse_args()
    chosen = [each for each in PHASES if asked.phase is None or each.name in asked.phase]
    if asked.start is None:
        main(load_vision(asked.vision / CODES), asked.folder, chosen)
    else:
        given = load_checkpoint(asked.start, None, DeviceConfig(torch.device("cpu"), FP32))
        main(given.vision_processor.vision, asked.folder, chosen, given)
