"""The vision tokenizer at its published size (270 M parameters), beside transformers' own:
`python -m benchmarks.full_size_vision runs/full_size`.

The same weights and the same photograph, float32. Every case runs in a process of its own, encodes
the image once, decodes its codes once, and prints the seconds and the peak resident set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.full_size import memory
from benchmarks.full_size_checkpoint import VISION

SIDES = (512, 720, 1024)


def photograph(side: int) -> Any:
    """The astronaut of scikit-image (NASA, public domain), as pixels [1, 3, side, side]."""
    import numpy as np
    import torch
    from PIL import Image
    from skimage import data

    image = Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(image).copy()).float().div(127.5).sub(1)
    return values.permute(2, 0, 1)[None].contiguous()


def timed(encode: Callable[[Any], Any], decode: Callable[[Any], Any], side: int) -> dict[str, Any]:
    """Seconds of encoding and decoding, and peak resident memory after each."""
    import torch

    pixels = photograph(side)
    with torch.inference_mode():
        start = time.perf_counter()
        codes = encode(pixels)
        middle, after_encode = time.perf_counter(), memory()["VmHWM"]
        decoded = decode(codes)
        end = time.perf_counter()
    return {
        "encode_s": middle - start,
        "encode_peak_GB": after_encode,
        "decode_s": end - middle,
        "peak_GB": memory()["VmHWM"],
        "codes": int(codes.long().sum()),
        "pixels": float(decoded.float().mean()),
    }


def ours(folder: Path, side: int) -> dict[str, Any]:
    """The vision tokenizer of this package."""
    import torch

    from emu3.checkpoints.weights import load_vision_tokenizer

    model = load_vision_tokenizer(folder / VISION, torch.device("cpu"))
    return timed(model.encode, model.decode, side)


def theirs(folder: Path, side: int) -> dict[str, Any]:
    """transformers' Emu3VQVAE with the same weights."""
    import torch
    from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

    from emu3.checkpoints.formats import hf
    from emu3.checkpoints.weights import load_vision_tokenizer

    weights = load_vision_tokenizer(folder / VISION, torch.device("cpu")).state_dict()
    model = Emu3VQVAE(Emu3VQVAEConfig()).eval()
    prefix = hf.vision_name("")
    renamed = {hf.vision_name(name).removeprefix(prefix): t for name, t in weights.items()}
    sized = {k: t.view(model.state_dict()[k].shape) for k, t in renamed.items()}
    model.load_state_dict(sized)
    sizes = torch.tensor([[side, side]])

    def encode(pixels: Any) -> Any:
        return model.encode(pixels, sizes).image_tokens[0][None]

    def decode(codes: Any) -> Any:
        return model.decode(codes)

    return timed(encode, decode, side)


CASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {"ours": ours, "transformers": theirs}


def main(folder: Path, cases: list[str]) -> None:
    """Run the cases (`ours:512`) and print a line of JSON each."""
    import torch

    about = {"cores": os.cpu_count(), "cpu": torch.backends.cpu.get_cpu_capability()}
    print(json.dumps({**about, "torch": torch.__version__}), flush=True)
    for one in cases:
        case, _, side = one.partition(":")
        command = [sys.executable, "-m", "benchmarks.full_size_vision", str(folder), case, side]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
            print(json.dumps({"case": one, "failed": last[0]}), flush=True)
            continue
        figures = json.loads(done.stdout.splitlines()[-1])
        shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}
        print(json.dumps({"case": one, **shown}), flush=True)


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/full_size")
    if len(sys.argv) == 4 and sys.argv[2] in CASES:
        print(json.dumps(CASES[sys.argv[2]](where, int(sys.argv[3]))))
    else:
        main(where, sys.argv[2:] or [f"{case}:{side}" for side in SIDES for case in CASES])
