"""A checkpoint of Emu3-Gen's size with random weights: `python -m benchmarks.full_size_checkpoint`.

The files are those of BAAI: seven float32 shards with an index (34 GB), configurations, two
vocabulary files of the published sizes, and the vision tokenizer (270 M parameters) in a folder
beside it. The images are noise; times, bytes and memory are those of the published model.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from emu3.checkpoints.loading import write_decoder_files, write_vision_tokenizer_files
from emu3.checkpoints.safetensors_io import TensorSpec, write_safetensors
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.files import atomic_write
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vocabulary import EOV, SOT, SOV, visual_token
from emu3.progress import transfer_progress

DECODER, VISION = "Emu3-Gen", "Emu3-VisionTokenizer"
RANKS = 151_643
SHARD_BYTES = 5_100_000_000  # gives seven
NOISE = 2**24  # numbers drawn; every tensor reads them from a place of its own


def vocabulary() -> TextTokenizer:
    """A text tokenizer of the published size with made-up tokens."""
    tokens = (
        bytes(letters)
        for size in (1, 2, 3)
        for letters in itertools.product(range(256), repeat=size)
    )
    ranks = {token: rank for rank, token in enumerate(itertools.islice(tokens, RANKS))}
    codes = (visual_token(code) for code in range(VisionConfig().codebook_size))
    return TextTokenizer(ranks, (SOT, SOV, EOV, *codes))


class Noise:
    """Rows of any tensor, from a fixed pool of normal random numbers."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.numbers = torch.randn(NOISE, generator=generator)

    def rows(self, name: str, spec: TensorSpec, first: int, last: int) -> Tensor:
        """Rows of a tensor of that name; norms start as ones, matrices small."""
        if not spec.dtype.is_floating_point:
            return torch.zeros(spec.shape, dtype=spec.dtype)
        shape = (last - first, *spec.shape[1:])
        if len(spec.shape) == 1:
            plain = torch.zeros if name.endswith(("bias", "running_mean")) else torch.ones
            return plain(shape)
        width = torch.Size(spec.shape[1:]).numel()
        start = (zlib.crc32(name.encode()) + first * width) % NOISE
        count = (last - first) * width
        repeats = -(-(start + count) // NOISE)
        numbers = torch.cat([self.numbers] * repeats)[start : start + count]
        return numbers.view(shape) * min(0.02, width**-0.5)


def specs_of(model: nn.Module) -> dict[str, TensorSpec]:
    """The tensors of a network."""
    return {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in model.state_dict().items()}


def main(folder: Path) -> None:
    """Write both folders, which takes minutes and 35 GB of disk."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 36e9:
        raise SystemExit(f"{folder}: 36 GB of free disk are needed")
    config, vision = DecoderConfig(), VisionConfig()
    with torch.device("meta"):
        parts = {DECODER: specs_of(Transformer(config)), VISION: specs_of(VisionTokenizer(vision))}
    noise = Noise()
    total = sum(spec.nbytes for specs in parts.values() for spec in specs.values())
    done = 0
    with transfer_progress(f"writing {folder}") as on_bytes:

        def report(count: int) -> None:
            nonlocal done
            on_bytes(done := done + count, total)

        for name, specs in parts.items():
            with atomic_write(folder / name) as temporary:
                temporary.mkdir()

                def rows(
                    tensor: str, first: int, last: int, specs: dict[str, TensorSpec] = specs
                ) -> Tensor:
                    return noise.rows(tensor, specs[tensor], first, last)

                write_safetensors(temporary, specs, rows, SHARD_BYTES, report)
                if name == DECODER:
                    write_decoder_files(config, vocabulary(), temporary, "float32")
                else:
                    write_vision_tokenizer_files(vision, PreprocessorConfig(), temporary, "float32")
    for path in sorted(folder.rglob("*.safetensors")):
        print(f"{path.relative_to(folder)}  {path.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/full_size"))
