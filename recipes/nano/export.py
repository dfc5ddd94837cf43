"""Write a trained nano into the package: `python -m recipes.nano.export runs/vision runs/decoder`.

`--decoder-only` keeps the package's vision tokenizer, for a decoder that was trained further from
the package's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import emu3
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import TextTokenizer
from recipes.nano.model import assemble
from recipes.nano.train_decoder import PHASES, load_phase
from recipes.nano.train_vision import MODEL, load_vision

HOME = Path(emu3.__file__).parent / "nano"


def last_decoder(folder: Path) -> Transformer:
    """The decoder of the last finished phase of a run; raises InputError if there is none."""
    text = TextTokenizer.from_folder(folder)
    for phase in reversed(PHASES):
        decoder = load_phase(folder / phase.name, text)
        if decoder is not None:
            return decoder
    raise InputError(f"{folder}: no finished phase; run python -m recipes.nano.train_decoder")


def main(vision: VisionTokenizer, folder: Path, home: Path = HOME) -> None:
    """Write the checkpoint. The decoder is stored in bfloat16, which halves the file."""
    decoder = last_decoder(folder).to(torch.bfloat16).eval()
    assemble(vision, decoder, TextTokenizer.from_folder(folder)).save(home)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vision", type=Path, nargs="?", default=Path("runs/vision"))
    parser.add_argument("decoder", type=Path, nargs="?", default=Path("runs/decoder"))
    parser.add_argument("--decoder-only", action="store_true", help="keep the vision tokenizer")
    asked = parser.parse_args()
    if asked.decoder_only:
        shipped = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
        main(shipped.vision_processor.vision, asked.decoder)
    else:
        main(load_vision(asked.vision / MODEL), asked.decoder)
