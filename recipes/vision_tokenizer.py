"""Train the paper's vision tokenizer on a folder of your own images.

    python -m recipes.vision_tokenizer IMAGES runs/tokenizer
    python -m recipes.vision_tokenizer IMAGES runs/tokenizer-quick --quick
    python -m recipes.vision_tokenizer IMAGES runs/tokenizer --start FOLDER

The size is BAAI's, 270 M parameters and 32,768 codes, and so are the losses (paper, section 2.2):
L2, perceptual, GAN and commitment. All other settings are ours, and no run has been finished with
them: this size needs a GPU. `--quick` trains a small configuration for minutes on a CPU, to check
that everything runs. `--start` continues from a tokenizer of the same size in BAAI's format.

The training set is images only; the paper's tokenizer was also trained on videos. The training loop
takes videos as well (`emu3.training.vq.trainer.Batch`), but this recipe reads no video files.

An interrupted command resumes from the last checkpoint. At the end the folder has
`Emu3-VisionTokenizer/` in BAAI's format, and for every checkpoint a contact sheet of held-out
images.
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
from recipes.nano.scene_encoding import images_to_pixels
from recipes.nano.train_vision import save_reconstructions

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HELD_OUT = 4  # images that are not trained on, for contact sheets
MAX_SCALE = 1.5  # of the shorter side of an image before cropping, relative to the crop
OUTPUT = "Emu3-VisionTokenizer"


@dataclass(frozen=True)
class Size:
    """A configuration and the extent of its training."""

    config: VisionConfig
    crop: int  # px, side of the square crops
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
        adversarial_weight=0.1,  # MoVQGAN's; it multiplies the adaptive weight
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


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder and below, by name.

    Raises InputError if there are too few to hold some out.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) <= HELD_OUT:
        raise InputError(
            f"{folder}: {len(paths)} images ({', '.join(SUFFIXES)}); {HELD_OUT} are held out, so "
            f"at least {HELD_OUT + 1} are needed"
        )
    return paths


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Held-out images, evenly spread over the folder, and images to train on."""
    held_out = set(paths[:: len(paths) // HELD_OUT][:HELD_OUT])
    return sorted(held_out), [path for path in paths if path not in held_out]


def crop(image: Image.Image, side: int, rng: np.random.Generator | None) -> Image.Image:
    """A square crop: random in scale, position and mirroring, or the centre without `rng`."""
    scale = rng.uniform(1, MAX_SCALE) if rng else 1.0
    ratio = side * scale / min(image.size)
    width, height = (max(side, round(ratio * length)) for length in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (
        (int(rng.integers(margin + 1)) if rng else margin // 2)
        for margin in (width - side, height - side)
    )
    square = resized.crop((left, top, left + side, top + side))
    mirrored = rng is not None and rng.integers(2)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else square


class ImageFolder:
    """Random batches of image files. A file that cannot be read is reported once and left out."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths, self.side = paths, side
        self.unreadable: set[Path] = set()

    def batch(self, rng: np.random.Generator, count: int) -> Tensor:
        """Pixels [count, 3, side, side] of random images.

        Raises InputError if no image can be read.
        """
        crops: list[Image.Image] = []
        while len(crops) < count:
            image = self._open(self.paths[int(rng.integers(len(self.paths)))])
            if image is not None:
                crops.append(crop(image, self.side, rng))
        return images_to_pixels([np.asarray(each) for each in crops])

    def centre_crops(self) -> Tensor:
        """Pixels of the centre crops of all images."""
        images = [each for path in self.paths if (each := self._open(path)) is not None]
        return images_to_pixels([np.asarray(crop(each, self.side, None)) for each in images])

    def _open(self, path: Path) -> Image.Image | None:
        if path in self.unreadable:
            return None
        try:
            return open_image(path)
        except InputError as error:
            print(f"left out: {error}")
            self.unreadable.add(path)
            if len(self.unreadable) == len(self.paths):
                raise InputError("none of the images can be read") from None
            return None


def export(model: VisionTokenizer, folder: Path) -> None:
    """Write the tokenizer in BAAI's format, atomically."""
    preprocessor = PreprocessorConfig(spatial_factor=model.config.spatial_factor)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        save_vision_tokenizer(VisionProcessor(model, preprocessor), temporary)


def load_start(folder: Path, size: Size) -> VisionTokenizer:
    """A model with the weights of a tokenizer in BAAI's format.

    Raises InputError if its size or its codebook differs.
    """
    model = VisionTokenizer(size.config)
    weights = load_vision_processor(folder, torch.device("cpu")).vision.state_dict()
    missing = warm_start(model, weights)
    if missing:
        raise InputError(
            f"{folder}: {missing[0]} is missing or differs in size; use its own config"
        )
    return model


def main(images: Path, folder: Path, size: Size, start: Path | None = None) -> VisionTokenizer:
    """Train, with a contact sheet at every checkpoint, and write the model."""
    held_out, seen = split(find_images(images))
    training_set = ImageFolder(seen, size.crop)
    sheet_pixels = ImageFolder(held_out, size.crop).centre_crops()
    folder.mkdir(parents=True, exist_ok=True)

    def sheet(model: VisionTokenizer, step: int) -> None:
        device = model.device
        path = folder / f"sheet-{step:06d}.png"
        quality = save_reconstructions(model.cpu(), sheet_pixels, path)
        model.to(device)
        print(f"step {step}: held out {quality:.2f} dB")

    initial = load_start(start, size) if start else None
    run = replace(size.run, unquantized_steps=0) if start else size.run
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train_vq(size.config, run, training_set.batch, folder, sheet, initial, device).cpu()
    export(model, folder / OUTPUT)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder, searched to any depth")
    parser.add_argument("folder", type=Path, help="the folder of the run")
    parser.add_argument("--quick", action="store_true", help="a small run, minutes on a CPU")
    parser.add_argument("--start", type=Path, help="a tokenizer in BAAI's format to continue from")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else PAPER
    try:
        main(arguments.images, arguments.folder, size, arguments.start)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
