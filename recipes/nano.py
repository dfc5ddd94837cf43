"""Ship nano: `python -m recipes.nano` puts finished runs together as the package's own model.

The whole of nano, from nothing, on a laptop:

    python -m recipes.nano_vision runs/vision      # the vision tokenizer
    python -m recipes.nano_decoder runs/decoder    # the BPE and the decoder
    python -m recipes.nano                         # this: runs/* to src/emu3/nano
    emu3 eval nano                                 # and how good it is
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

import emu3
from emu3.card import Card
from emu3.checkpoint import Checkpoint
from emu3.codec import Codec
from emu3.config import PreprocessorConfig
from emu3.decoder.transformer import Transformer
from emu3.text import TextTokenizer
from emu3.train.checkpoints import load_state
from recipes import nano_vision
from recipes.nano_decoder import config_for

# A photograph comes down to the sizes that nano was trained on: 8x8, 7x9, 9x7, 6x11 or 11x6 codes.
PREPROCESSOR = PreprocessorConfig(min_pixels=60 * 60, max_pixels=66 * 66)

CARD = Card(
    tasks=("image", "chat"),
    suffix="",
    negative_prompt="",  # the dropped caption of its training
    guidance_scale=1.5,  # with the temperature: between the best of eleven tried, docs/nano.md
    temperature=0.5,
    license="Apache-2.0",
    description=(
        "nano draws and names 400 objects in three icon styles. Trained from scratch by recipes/ "
        "on pictures composed of Noto Emoji (Apache-2.0), Fluent Emoji Flat (MIT) and Twemoji "
        "(CC BY 4.0); see NOTICE and docs/nano.md."
    ),
)


def assemble(vision_folder: Path, decoder_folder: Path) -> Checkpoint:
    """The checkpoint of two runs; the decoder in bfloat16, which halves the file."""
    text = TextTokenizer.from_folder(decoder_folder)
    state = load_state(decoder_folder / "state.pt")
    if state is None:
        raise SystemExit(f"{decoder_folder}: no run here; python -m recipes.nano_decoder")
    decoder = Transformer(config_for(text))
    decoder.load_state_dict(state["model"])
    return Checkpoint(
        name="nano",
        card=CARD,
        decoder=decoder.to(torch.bfloat16).eval(),
        text=text,
        codec=Codec(nano_vision.opened(vision_folder / nano_vision.MODEL), PREPROCESSOR),
    )


def main(vision_folder: Path, decoder_folder: Path) -> None:
    """Write the checkpoint into the package, and the logs it came from into docs/nano."""
    assemble(vision_folder, decoder_folder).save(Path(emu3.__file__).parent / "nano")
    logs = Path("docs/nano")
    logs.mkdir(parents=True, exist_ok=True)
    shutil.copy(vision_folder / "log.jsonl", logs / "vision.jsonl")
    shutil.copy(vision_folder / "picture" / "log.jsonl", logs / "picture.jsonl")
    shutil.copy(decoder_folder / "log.jsonl", logs / "decoder.jsonl")


if __name__ == "__main__":
    main(Path("runs/vision"), Path("runs/decoder"))
