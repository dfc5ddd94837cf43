"""nano's decoder, longer: `python -m recipes.nano_longer runs/hands`.

Goes on from the nano that comes with the package, up to the highest rate again and down to zero, on
the same documents drawn anew. Kill it whenever you like: the same command goes on. Then
`python -m recipes.nano runs/hands` puts the decoder in place of the package's.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.training.compilation import MULTIPLE, compile_blocks
from emu3.training.decoder import DecoderTraining
from recipes import nano_decoder
from recipes.nano.emoji_world import Hands, caption
from recipes.nano_decoder import Lessons, Mix, Say
from recipes.nano_variations import BY_OTHERS, EACH, by_others, variations

MIX = Mix(drawn=14, asked=4, named=32, others=10)  # it draws well what it knows by heart

RUN = replace(
    nano_decoder.RUN,
    steps=3400,
    micro_batch=30,
    learning_rate=2.5e-3,
    warmup=60,
    hold=800,
    schedule="linear",
    multiple=2 * MULTIPLE,
    seed=5,  # other documents than before
)


def opened(folder: Path) -> Checkpoint:
    """The package's nano; its text tokenizer is kept in the run's folder."""
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    folder.mkdir(parents=True, exist_ok=True)
    nano.text_tokenizer.save(folder)
    return nano


def ready(decoder: Transformer, run: DecoderTraining) -> Transformer:
    """The decoder with all of it to be learned, compiled where products are in bfloat16."""
    decoder.requires_grad_(True)
    if run.bf16:
        compile_blocks(decoder)
    return decoder


def lessons_for(
    nano: Checkpoint,
    mix: Mix,
    hands: Hands,
    folder: Path,
    fewer: int = 1,
    seed: int = 0,
    say: Say = caption,
) -> Lessons:
    """Documents about pictures by all hands; the codes of what is varied are kept in the folder.

    A run that asks about few pictures has so many times `fewer` of them varied, and with a `seed`
    of its own others than the runs before it, which were read too often to be learned from again.
    """
    vision = nano.vision_processor.vision
    each, of_others = (
        {ratio: count // fewer for ratio, count in counts.items()} for counts in (EACH, BY_OTHERS)
    )
    varied = (
        variations(vision, hands.icons, hands.redrawn, folder, each, seed),
        by_others(vision, hands, folder, of_others, seed),
    )
    return Lessons(
        mix, vision, nano.text_tokenizer, hands.icons, *varied, others=hands.others, say=say
    )


def main(folder: Path) -> Transformer:
    """Train the package's decoder further; its text and vision tokenizers stay what they are."""
    nano = opened(folder)
    lessons, decoder = lessons_for(nano, MIX, Hands.load(), folder), ready(nano.decoder, RUN)
    return nano_decoder.learn(
        decoder, nano.text_tokenizer, nano.vision_processor.vision, RUN, folder, lessons
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hands"))
