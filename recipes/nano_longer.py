"""nano's decoder, longer: `python -m recipes.nano_longer runs/freer`.

Goes on from the nano that comes with the package, up to the highest rate again and down to zero, on
the same documents drawn anew. Kill it whenever you like: the same command goes on. Then
`python -m recipes.nano runs/freer` puts the decoder in place of the package's.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from emu3.checkpoint import Place, open_checkpoint
from emu3.decoder.transformer import Transformer
from emu3.emoji_world import Icons, Redrawn
from emu3.precision import FP32
from emu3.train.compiled import MULTIPLE, compile_blocks
from recipes import nano_decoder
from recipes.nano_decoder import Lessons, Mix
from recipes.nano_variations import variations

MIX = Mix(drawn=12, asked=6, named=32, freely=6)  # it draws well what it knows by heart

RUN = replace(
    nano_decoder.RUN,
    steps=3800,
    micro_batch=28,
    learning_rate=2.5e-3,
    warmup=60,
    hold=900,
    schedule="linear",
    multiple=2 * MULTIPLE,
    seed=4,  # other documents than before
)


def main(folder: Path) -> Transformer:
    """Train the package's decoder further; its text and vision tokenizers stay what they are."""
    nano = open_checkpoint("nano", None, Place(torch.device("cpu"), FP32))
    folder.mkdir(parents=True, exist_ok=True)
    nano.text.save(folder)
    decoder = nano.decoder.requires_grad_(True)
    if RUN.bf16:
        compile_blocks(decoder)
    vision = nano.codec.vision
    icons = Icons.load()
    varied = variations(vision, icons, Redrawn.load(), folder)
    lessons = Lessons(MIX, vision, nano.text, icons, varied)
    return nano_decoder.learn(decoder, nano.text, vision, RUN, folder, lessons)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/freer"))
