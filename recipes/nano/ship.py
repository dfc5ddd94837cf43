"""Ship nano: `python -m recipes.nano` puts finished runs together as the package's own model.

The whole of nano, from nothing, on a laptop:

    python -m recipes.nano_vision runs/vision      # the vision tokenizer
    python -m recipes.nano_decoder runs/decoder    # the BPE and the decoder
    python -m recipes.nano                         # this: runs/* to src/emu3/nano
    emu3 eval nano                                 # and how good it is

And longer, from the nano that is there:

    python -m recipes.nano_longer runs/hands       # the decoder alone
    python -m recipes.nano runs/hands              # in place of the package's; a log by that name

And with clips besides:

    python -m recipes.nano_moving runs/moving      # the decoder alone, on pictures and clips
    python -m recipes.nano runs/moving             # in place of the package's
    python -m recipes.nano runs/moving 0.5         # or the mean of both: that share is the run's
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

import emu3
from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.config import PreprocessorConfig
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vision_processor import VisionProcessor
from emu3.training.checkpoints import load_state
from recipes import nano_vision
from recipes.nano_decoder import config_for

# A photograph comes down to the sizes that nano was trained on: 8x8, 7x9, 9x7, 6x11 or 11x6 codes.
PREPROCESSOR = PreprocessorConfig(min_pixels=60 * 60, max_pixels=66 * 66)

HOME = Path(emu3.__file__).parent / "nano"
LOGS = Path("docs/nano")

CARD = GenerationDefaults(
    tasks=("image", "chat", "video"),
    suffix="",
    negative_prompt="",  # the dropped caption of its training
    guidance_scale=1.5,  # both of them chosen on seen pairs, docs/nano.md
    temperature=0.2,
    license="Apache-2.0",
    description=(
        "nano draws and names 400 objects in three icon styles, and moves them. Trained from "
        "scratch by recipes/ on pictures and clips composed of Noto Emoji (Apache-2.0), Fluent "
        "Emoji (MIT), Twemoji, EmojiOne and Streamline Emojis (CC BY 4.0); names also on pictures "
        "of OpenMoji and the first EmojiOne (CC BY-SA 4.0); see NOTICE and docs/nano.md."
    ),
)


def decoder_of(folder: Path) -> Transformer:
    """The decoder of a run as it is by now, in float32."""
    state = load_state(folder / "state.pt")
    if state is None:
        raise SystemExit(f"{folder}: no run here; python -m recipes.nano_decoder")
    blocks = {name.split(".")[2] for name in state["model"] if name.startswith("model.layers.")}
    config = config_for(TextTokenizer.from_folder(folder))
    decoder = Transformer(replace(config, num_hidden_layers=len(blocks)))
    decoder.load_state_dict(state["model"])
    return decoder


def assemble(vision: VisionTokenizer, decoder: Transformer, text: TextTokenizer) -> Checkpoint:
    """The checkpoint of these; the decoder in bfloat16, which halves the file."""
    return Checkpoint(
        name="nano",
        defaults=CARD,
        decoder=decoder.to(torch.bfloat16).eval(),
        text_tokenizer=text,
        vision_processor=VisionProcessor(vision, PREPROCESSOR),
    )


def main(vision_folder: Path, decoder_folder: Path) -> None:
    """Write the checkpoint into the package, and the logs it came from into docs/nano."""
    vision = nano_vision.opened(vision_folder / nano_vision.MODEL)
    text = TextTokenizer.from_folder(decoder_folder)
    assemble(vision, decoder_of(decoder_folder), text).save(HOME)
    keep_log(vision_folder, "vision")
    keep_log(vision_folder / "picture", "picture")
    keep_log(decoder_folder, "decoder")


def longer(run: Path, share: float = 1.0) -> None:
    """Put a decoder that went on from the package's in its place, or the mean of both.

    What lies between two runs often knows better what neither has seen (Wortsman et al., "Model
    soups", arXiv 2203.05482). The run's `share` of the mean is 1 where it is to be left alone.
    """
    if not 0 < share <= 1:
        raise SystemExit(f"a share of {share}: above 0, and 1 at most")
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    decoder = decoder_of(run)
    if share < 1:
        decoder = mean_of(nano.decoder, decoder, share)
    assemble(nano.vision_processor.vision, decoder, nano.text_tokenizer).save(HOME)
    keep_log(run, run.name)


def mean_of(before: Transformer, after: Transformer, share: float) -> Transformer:
    """The decoder that is `share` of the way from one to another; SystemExit if shapes differ."""
    if before.config != after.config:
        raise SystemExit("the run has another shape than the package's nano: no mean of both")
    mean = Transformer(after.config)
    ends = before.state_dict(), after.state_dict()
    mean.load_state_dict(
        {name: torch.lerp(ends[0][name], ends[1][name], share) for name in ends[0]}
    )
    return mean


def keep_log(run: Path, name: str) -> None:
    """Copy what a run wrote down."""
    LOGS.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "log.jsonl", LOGS / f"{name}.jsonl")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        longer(Path(sys.argv[1]), *map(float, sys.argv[2:3]))
    else:
        main(Path("runs/vision"), Path("runs/decoder"))
