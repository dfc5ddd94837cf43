"""Train nano's vision tokenizer from scratch: `python -m recipes.nano.train_vision runs/vision`.

64 codes of a codebook of 2,048 for an image of 64x64, trained on Emoji World without its held-out
pairs, in two phases:

* `codes.pt`: encoder, codebook and decoder are trained together (23 minutes on two cores with AMX).
  Afterwards, codebook entries that duplicate others are moved. The decoder's recipe needs no more.
* `model.pt`: encoder and codebook are frozen, and the decoder is trained on (13 minutes).

Equal patches must have equal codes: group norms and attention let every code depend on the whole
image, and without a loss against it (`consistency`) plain background had 4.2 nats of entropy per
code, which is noise to the language model. With it, that is 0.2 nats, at the same reconstruction.

An interrupted command resumes from the last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.training.checkpointing import load_state, save_state
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.trainer import TrainingConfig
from emu3.training.vq.codebook import reassign_duplicates
from emu3.training.vq.decoder_finetuning import finetune_vq_decoder
from emu3.training.vq.trainer import VQTrainingConfig, train_vq
from recipes.nano.emoji_world import Icons, Scene, held_out_pairs, random_scene, seen_pairs
from recipes.nano.model import VISION_CONFIG
from recipes.nano.scene_encoding import scenes_to_pixels

CODES, MODEL = "codes.pt", "model.pt"  # in the folder of a run
SHEET_IMAGES = 16  # on a contact sheet


@dataclass(frozen=True)
class VisionRecipe:
    """Everything that a run is defined by."""

    config: VisionConfig
    joint: VQTrainingConfig
    decoder: TrainingConfig
    duplicate_radius: float  # distance in the latent space below which two entries are duplicates
    duplicate_scenes: int = 2000  # whose latents duplicates are moved to


RECIPE = VisionRecipe(
    VISION_CONFIG,
    VQTrainingConfig(
        steps=3600,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=20,
        unquantized_steps=200,
        l1_weight=0.2,
        commitment_weight=0.25,
        consistency_weight=4.0,
        max_grad_norm=1.0,
        bf16=has_fast_bf16("cpu"),
        report_every=20,
        save_every=200,
        seed=0,
    ),
    TrainingConfig(
        steps=1200,
        learning_rate=1e-3,
        warmup_steps=20,
        max_grad_norm=1.0,
        bf16=has_fast_bf16("cpu"),
        report_every=20,
        save_every=100,
        seed=1,
    ),
    duplicate_radius=0.2,  # the typical distance to the nearest entry is 0.18
)


def uncentred_scene(rng: np.random.Generator, index: int, style: int) -> Scene:
    """A scene with random position and size, which the tokenizer must not depend on."""
    return random_scene(rng, index, style, centred=0.0)


def scenes_of_one_ratio(
    rng: np.random.Generator, pairs: NDArray[np.int64], count: int
) -> list[Scene]:
    """Random scenes in the aspect ratio that the first one has."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        index, style = pairs[rng.integers(len(pairs))]
        scene = uncentred_scene(rng, int(index), int(style))
        if not scenes or scene.ratio == scenes[0].ratio:
            scenes.append(scene)
    return scenes


def matching_scene(rng: np.random.Generator, scene: Scene) -> Scene:
    """The same icon at the same size, on another background and at another position."""
    while True:
        other = uncentred_scene(rng, scene.object, scene.style)
        if (other.ratio, other.size) == (scene.ratio, scene.size):
            return replace(other, mirror=scene.mirror)


def load_vision(path: Path, config: VisionConfig = VISION_CONFIG) -> VisionTokenizer:
    """The vision tokenizer that a phase wrote; raises InputError if there is none."""
    state = load_state(path)
    if state is None:
        raise InputError(f"{path}: no such file; run python -m recipes.nano.train_vision first")
    model = VisionTokenizer(config)
    model.load_state_dict(state)
    return model.eval()


def train_codes(recipe: VisionRecipe, folder: Path, icons: Icons) -> VisionTokenizer:
    """The first phase, with a contact sheet of held-out images at every checkpoint."""
    seen, sheet_pixels = seen_pairs(), held_out_pixels(icons)

    def batch(rng: np.random.Generator, count: int) -> Tensor:
        scenes = scenes_of_one_ratio(rng, seen, count // 2)
        return scenes_to_pixels([*scenes, *(matching_scene(rng, s) for s in scenes)], icons)

    def sheet(model: VisionTokenizer, step: int) -> None:
        quality = save_reconstructions(model, sheet_pixels, folder / f"sheet-{step:06d}.png")
        print(f"step {step}: held out {quality:.2f} dB")

    model = train_vq(recipe.config, recipe.joint, batch, folder, on_save=sheet)
    rng = np.random.default_rng(2)
    scenes = [
        uncentred_scene(rng, *map(int, seen[rng.integers(len(seen))]))
        for _ in range(recipe.duplicate_scenes)
    ]
    with torch.no_grad():
        latents = [model.encode_latent(scenes_to_pixels([scene], icons)) for scene in scenes]
    rows = torch.cat([latent.movedim(1, -1).flatten(0, -2) for latent in latents])
    moved = reassign_duplicates(model.quantize, rows, recipe.duplicate_radius)
    print(f"{moved} codebook entries duplicated others and were moved")
    return model


def held_out_pixels(icons: Icons) -> Tensor:
    """Held-out images for contact sheets, pixels [SHEET_IMAGES, 3, H, W]."""
    rng = np.random.default_rng(1)
    return scenes_to_pixels(scenes_of_one_ratio(rng, held_out_pairs(), SHEET_IMAGES), icons)


@torch.no_grad()
def save_reconstructions(model: VisionTokenizer, pixels: Tensor, path: Path) -> float:
    """Write images above their reconstructions as a PNG; returns the mean PSNR in dB."""
    both = torch.cat([pixels, model.decode(model.encode(pixels))], dim=2).clamp(-1, 1)
    row = both.permute(2, 0, 3, 1).flatten(1, 2).add(1).mul(127.5).byte()
    Image.fromarray(row.numpy()).save(path)
    original, reconstruction = both.chunk(2, dim=2)
    error = (original - reconstruction).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error / 4)).mean())


def main(
    folder: Path, recipe: VisionRecipe = RECIPE, icons: Icons | None = None
) -> VisionTokenizer:
    """Run the phases that are not finished; returns the trained tokenizer."""
    icons = Icons.load() if icons is None else icons
    if not (folder / CODES).exists():
        save_state(folder / CODES, train_codes(recipe, folder, icons).state_dict())
    model = load_vision(folder / CODES, recipe.config)
    seen, batch = seen_pairs(), recipe.joint.batch_size

    def images(rng: np.random.Generator) -> Tensor:
        return scenes_to_pixels(scenes_of_one_ratio(rng, seen, batch), icons)

    finetune_vq_decoder(model, recipe.decoder, images, folder / "decoder")
    save_state(folder / MODEL, model.state_dict())
    quality = save_reconstructions(model, held_out_pixels(icons), folder / "sheet-final.png")
    print(f"held out {quality:.2f} dB")
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vision"))
