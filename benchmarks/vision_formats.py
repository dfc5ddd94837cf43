"""Memory formats and precisions of the vision tokenizer: `python -m benchmarks.vision_formats`.

Memory formats, bfloat16 and `torch.compile` at the published size (270 M parameters, random
weights) on one image; then the effect of bfloat16 on the codes of nano's trained tokenizer, on
scenes of Emoji World. This is why the vision tokenizer always runs in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import emu3
from emu3.config import VisionConfig
from emu3.models.vq.tokenizer import VisionTokenizer
from recipes.nano.emoji_world import Icons, random_scene, render_scene, seen_pairs

SCENES = 200
Ready = Callable[[VisionTokenizer], VisionTokenizer]


def channels_last(model: VisionTokenizer) -> VisionTokenizer:
    """Convolutions in channels-last format."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def compiled(model: VisionTokenizer) -> VisionTokenizer:
    """Both spatial networks with `torch.compile`."""
    model.encoder.compile()
    model.decoder.compile()
    return model


FORMATS: dict[str, Ready] = {
    "fp32": lambda model: model,
    "fp32, channels last": channels_last,
    "fp32, compiled": compiled,
    "bf16": lambda model: model.to(torch.bfloat16),
    "bf16, channels last": lambda model: channels_last(model.to(torch.bfloat16)),
}


@torch.inference_mode()
def timed(name: str, model: VisionTokenizer, pixels: Tensor, codes: Tensor) -> dict[str, object]:
    """Seconds of one encoding and one decoding, each after a warm-up."""
    pixels = pixels.to(model.dtype)
    if "channels" in name:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    seconds = {}
    for what, run in {
        "encode": lambda: model.encode(pixels),
        "decode": lambda: model.decode(codes),
    }.items():
        run()
        start = time.perf_counter()
        run()
        seconds[f"{what}_s"] = round(time.perf_counter() - start, 2)
    return {"format": name, **seconds}


@torch.inference_mode()
def codes_of_nano() -> dict[str, object]:
    """The codes of a trained tokenizer that change in bfloat16, and their margins."""
    model = emu3.Emu3.from_pretrained("nano").checkpoint.vision_processor.vision
    half = copy.deepcopy(model).to(torch.bfloat16)
    rng, icons, pairs = np.random.default_rng(0), Icons.load(), seen_pairs()
    moved, margins, apart = [], [], []
    for _ in range(SCENES):
        scene = random_scene(rng, *map(int, pairs[rng.integers(len(pairs))]))
        pixels = (
            torch.from_numpy(render_scene(scene, icons)).permute(2, 0, 1)[None].float() / 127.5 - 1
        )
        latent = model.encode_latent(pixels).movedim(1, -1).flatten(0, -2)
        nearest = torch.cdist(latent, model.quantize.embedding.weight).topk(2, largest=False).values
        # Distances in float32: in bfloat16 their differences drown and three in four codes move.
        rounded = model.quantize(half.encode_latent(pixels.to(torch.bfloat16)).float())
        true = model.encode(pixels)
        moved.append((rounded[:, 0] != true).flatten())
        error = half.decode(true).float() - model.decode(true)
        apart.append(-10 * torch.log10(error.square().mean() / 4))  # pixels span 2
        margins.append((nearest[:, 1] - nearest[:, 0]) / nearest[:, 1])
    which, margin = torch.cat(moved), torch.cat(margins)
    return {
        "nano, codes": len(which),
        "moved in bf16": round(float(which.float().mean()), 4),
        "margin of the moved, median": round(float(margin[which].median()), 4),
        "margin of all, median": round(float(margin.median()), 4),
        "decoded in bf16, dB from float32": round(float(torch.stack(apart).mean()), 1),
    }


def main(side: int, formats: list[str]) -> None:
    """Print a line of JSON for each."""
    about = {"cores": os.cpu_count(), "cpu": torch.backends.cpu.get_cpu_capability()}
    print(json.dumps({**about, "torch": torch.__version__, "side": side}), flush=True)
    print(json.dumps(codes_of_nano()), flush=True)
    torch.manual_seed(0)
    model = VisionTokenizer(VisionConfig()).eval()
    pixels = torch.rand(1, 3, side, side) * 2 - 1
    codes = torch.randint(model.quantize.size, (1, side // 8, side // 8))
    for name in formats:
        print(
            json.dumps(timed(name, FORMATS[name](copy.deepcopy(model)), pixels, codes)), flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The vision tokenizer in several formats.")
    parser.add_argument("--side", type=int, default=256, help="pixels along a side")
    parser.add_argument("--format", action="append", choices=list(FORMATS))
    args = parser.parse_args()
    main(args.side, args.format or list(FORMATS))
