"""The paper's vision tokenizer over a folder of pictures of your own.

    python -m recipes.vision_tokenizer PICTURES runs/tokenizer
    python -m recipes.vision_tokenizer PICTURES runs/tokenizer-quick --quick
    python -m recipes.vision_tokenizer PICTURES runs/tokenizer --start FOLDER

BAAI's size, 270 M weights and 32,768 codes, with the losses that paper section 2.2 names: L2,
perceptual, GAN and commitment. All other numbers are ours, and no one has run them to the end:
this size wants a GPU. `--quick` is the same in small, minutes on a CPU, to see that it runs.
`--start` goes on from a tokenizer in BAAI's layout and of the same size, codebook and all.

Pictures only, no clips: the paper's tokenizer saw both. Training takes clips as well
(`emu3.training.vq.trainer.Batch`); what is missing here is a reader of video files.

Kill it whenever you like: the same command goes on from the last checkpoint. At the end the folder
holds `Emu3-VisionTokenizer/` in BAAI's layout, and a sheet of held-out pictures for every save.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import load_vision_processor, save_vision_tokenizer
from emu3.config import PreprocessorConfig, VisionConfig
from emu3.errors import InputError
from emu3.files import atomic_write
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.image import open_image
from emu3.processing.vision_processor import VisionProcessor
from emu3.training.vq.trainer import VQTrainingConfig, train_vq
from emu3.training.vq.warm_start import warm_start
from recipes.nano.train_vision import as_pixels, save_sheet

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HELD_OUT = 4  # pictures that are never learned from, on every sheet
LARGEST = 1.5  # how much longer than the crop the shorter side of a picture is drawn at, at most
OUT = "Emu3-VisionTokenizer"


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    config: VisionConfig
    crop: int  # pixels of a side
    run: VQTrainingConfig


PAPER = Size(
    VisionConfig(),
    crop=256,
    run=VQTrainingConfig(
        steps=200_000,
        batch_size=8,
        learning_rate=5e-4,
        warmup_steps=1000,
        unquantized_steps=500,
        l1_weight=0.0,
        commitment_weight=1.0,
        consistency_weight=0.0,
        perceptual_weight=0.1,  # MoVQGAN's
        perceptual_backbone="vgg",
        adversarial_weight=0.1,  # MoVQGAN's number; here it multiplies the adaptive weight
        adversarial_start_step=20_000,
        max_grad_norm=1.0,
        bf16=True,
        report_every=100,
        save_every=2000,
        seed=0,
    ),
)

QUICK = Size(
    VisionConfig(codebook_size=512, ch=32, ch_mult=(1, 1, 2, 4), num_res_blocks=1),
    crop=64,
    run=replace(
        PAPER.run,
        steps=120,
        batch_size=4,
        learning_rate=2e-3,
        warmup_steps=10,
        unquantized_steps=30,
        perceptual_backbone="alex",
        adversarial_start_step=80,
        discriminator_width=16,
        bf16=False,
        report_every=10,
        save_every=40,
    ),
)


def find_pictures(folder: Path) -> list[Path]:
    """The picture files under a folder, in the order of their names.

    Raises InputError where there are too few to hold some out.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) <= HELD_OUT:
        raise InputError(
            f"{folder}: {len(paths)} pictures ({', '.join(SUFFIXES)}); "
            f"{HELD_OUT} are held out, so give more than that"
        )
    return paths


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Held out, spread over the folder, and seen."""
    held_out = set(paths[:: len(paths) // HELD_OUT][:HELD_OUT])
    return sorted(held_out), [path for path in paths if path not in held_out]


def crop(picture: Image.Image, side: int, rng: np.random.Generator | None) -> Image.Image:
    """A square of a picture: the middle of it, or by chance in size, place and mirror."""
    scale = rng.uniform(1, LARGEST) if rng else 1.0
    ratio = side * scale / min(picture.size)
    width, height = (max(side, round(ratio * length)) for length in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (
        (int(rng.integers(room + 1)) if rng else room // 2)
        for room in (width - side, height - side)
    )
    square = resized.crop((left, top, left + side, top + side))
    mirrored = rng is not None and rng.integers(2)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else square


class Pictures:
    """Draws batches from files; one that cannot be read is told of once and never drawn again."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths, self.side = paths, side
        self.bad: set[Path] = set()

    def batch(self, rng: np.random.Generator, count: int) -> Tensor:
        """Pixels [count, 3, side, side] of pictures by chance.

        Raises InputError where no picture can be read.
        """
        drawn: list[Image.Image] = []
        while len(drawn) < count:
            picture = self._open(self.paths[int(rng.integers(len(self.paths)))])
            if picture is not None:
                drawn.append(crop(picture, self.side, rng))
        return as_pixels([np.asarray(each) for each in drawn])

    def all(self) -> Tensor:
        """The middles of all pictures, for a sheet."""
        pictures = [one for path in self.paths if (one := self._open(path)) is not None]
        return as_pixels([np.asarray(crop(each, self.side, None)) for each in pictures])

    def _open(self, path: Path) -> Image.Image | None:
        if path in self.bad:
            return None
        try:
            return open_image(path)
        except InputError as error:
            print(f"left out: {error}")
            self.bad.add(path)
            if len(self.bad) == len(self.paths):
                raise InputError("none of the pictures can be read") from None
            return None


def export(model: VisionTokenizer, folder: Path) -> None:
    """Write the tokenizer in BAAI's layout, whole or not at all."""
    preprocessor = PreprocessorConfig(spatial_factor=model.config.spatial_factor)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        save_vision_tokenizer(VisionProcessor(model, preprocessor), temporary)


def begin_from(folder: Path, size: Size) -> VisionTokenizer:
    """A model with the weights of a tokenizer in BAAI's layout.

    Raises InputError where it is of another size or has another codebook.
    """
    model = VisionTokenizer(size.config)
    left = warm_start(model, load_vision_processor(folder, torch.device("cpu")).vision.state_dict())
    if left:
        raise InputError(f"{folder}: {left[0]} is missing or of another size; give its own config")
    return model


def main(pictures: Path, folder: Path, size: Size, start: Path | None = None) -> VisionTokenizer:
    """Train, show held-out pictures at every save, and write the model."""
    held_out, seen = split(find_pictures(pictures))
    drawn = Pictures(seen, size.crop)
    shown = Pictures(held_out, size.crop).all()
    folder.mkdir(parents=True, exist_ok=True)

    def sheet(model: VisionTokenizer, step: int) -> None:
        home = model.device
        psnr = save_sheet(model.cpu(), shown, folder / f"sheet-{step:06d}.png")
        model.to(home)
        print(f"step {step}: held out {psnr:.2f} dB")

    beginning = begin_from(start, size) if start else None
    run = replace(size.run, unquantized_steps=0) if start else size.run
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train_vq(size.config, run, drawn.batch, folder, sheet, beginning, device).cpu()
    export(model, folder / OUT)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", type=Path, help="a folder, searched to any depth")
    parser.add_argument("folder", type=Path, help="where the run goes")
    parser.add_argument("--quick", action="store_true", help="in small, minutes on a CPU")
    parser.add_argument("--start", type=Path, help="a tokenizer to go on from, in BAAI's layout")
    asked = parser.parse_args()
    try:
        main(asked.pictures, asked.folder, QUICK if asked.quick else PAPER, asked.start)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
