"""nano's vision tokenizer, from scratch: `python -m recipes.nano.train_vision runs/vision`.

64 codes of a codebook of 2,048 for a picture of 64x64, trained on Emoji World without its held-out
pairs. Two phases: all of it learns together until the codes are settled (`codes.pt`, all that
`recipes.nano.image_documents` needs), then the way back to pixels learns on (`model.pt`). Kill it whenever
you like: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.training.checkpointing import load_state, save_state
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.vq.codebook import reassign_duplicates
from emu3.training.vq.decoder_finetuning import VQDecoderTrainingConfig, finetune_vq_decoder
from emu3.training.vq.trainer import VQTrainingConfig, train_vq
from recipes.nano.emoji_world import Icons, Scene, compose, held_out_pairs, random_scene, seen_pairs
from recipes.nano.model import VISION_CONFIG

RUN = VQTrainingConfig(
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
)

PICTURE = VQDecoderTrainingConfig(
    steps=1200,
    learning_rate=1e-3,
    warmup_steps=20,
    max_grad_norm=1.0,
    bf16=has_fast_bf16("cpu"),
    report_every=20,
    save_every=100,
    seed=1,
)

RADIUS = 0.2  # in the latent; the typical distance to the nearest entry is 0.18
CODES = "codes.pt"  # after the first phase: encoder and codebook are final
MODEL = "model.pt"  # after the second


def pixels_of(scenes: list[Scene], icons: Icons) -> Tensor:
    """Scenes of one ratio as pixels [B, 3, H, W] in [-1, 1]."""
    return as_pixels([compose(scene, icons) for scene in scenes])


def as_pixels(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Pictures [H, W, 3] of one size as pixels [B, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(pictures))
    return stacked.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def anywhere(rng: np.random.Generator, thing: int, style: int) -> Scene:
    """A scene composed by chance: the tokenizer should not care where things stand."""
    return random_scene(rng, thing, style, usual=0.0)


def scenes_of_one_ratio(rng: np.random.Generator, pairs: np.ndarray, count: int) -> list[Scene]:
    """Scenes of random pairs, all in the ratio that the first happens to have."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        thing, style = pairs[rng.integers(len(pairs))]
        scene = anywhere(rng, int(thing), int(style))
        if not scenes or scene.ratio == scenes[0].ratio:
            scenes.append(scene)
    return scenes


def twin(rng: np.random.Generator, scene: Scene) -> Scene:
    """The same icon at the same size, on another background and in another place."""
    while True:
        other = anywhere(rng, scene.object, scene.style)
        if (other.ratio, other.size) == (scene.ratio, scene.size):
            return replace(other, mirror=scene.mirror)


def load_vision(path: Path) -> VisionTokenizer:
    """The vision tokenizer that a phase left at `path`."""
    state = load_state(path)
    if state is None:
        raise SystemExit(f"{path} is not there yet; run python -m recipes.nano.train_vision")
    model = VisionTokenizer(VISION_CONFIG)
    model.load_state_dict(state)
    return model.eval()


def settle(folder: Path, icons: Icons) -> VisionTokenizer:
    """The first phase: codes, with a sheet of held-out pictures at every checkpoint."""
    seen = seen_pairs()
    shown = pixels_of(scenes_of_one_ratio(np.random.default_rng(1), held_out_pairs(), 16), icons)

    def batch(rng: np.random.Generator, count: int) -> Tensor:
        scenes = scenes_of_one_ratio(rng, seen, count // 2)
        return pixels_of([*scenes, *(twin(rng, scene) for scene in scenes)], icons)

    def sheet(model: VisionTokenizer, step: int) -> None:
        psnr = save_sheet(model, shown, folder / f"sheet-{step:06d}.png")
        print(f"step {step}: held out {psnr:.2f} dB")

    model = train_vq(VISION_CONFIG, RUN, batch, folder, on_save=sheet)
    rng = np.random.default_rng(2)
    scenes = [anywhere(rng, *map(int, seen[rng.integers(len(seen))])) for _ in range(2000)]
    with torch.no_grad():
        latents = [model.encode_latent(pixels_of([scene], icons)) for scene in scenes]
    rows = torch.cat([latent.movedim(1, -1).flatten(0, -2) for latent in latents])
    print(
        f"{reassign_duplicates(model.quantize, rows, RADIUS)} entries doubled another and were moved"
    )
    return model


@torch.no_grad()
def save_sheet(model: VisionTokenizer, pixels: Tensor, path: Path) -> float:
    """Draw pictures above their reconstructions; returns the mean PSNR, dB."""
    both = torch.cat([pixels, model.decode(model.encode(pixels))], dim=2).clamp(-1, 1)
    row = both.permute(2, 0, 3, 1).flatten(1, 2).add(1).mul(127.5).byte()
    Image.fromarray(row.numpy()).save(path)
    true, again = both.chunk(2, dim=2)
    error = (true - again).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error / 4)).mean())


def main(folder: Path) -> VisionTokenizer:
    """Both phases, one after the other; what is done already is not done again."""
    icons = Icons.load()
    if not (folder / CODES).exists():
        save_state(folder / CODES, settle(folder, icons).state_dict())
    model = load_vision(folder / CODES)
    seen, held_out = seen_pairs(), held_out_pairs()

    def pictures(rng: np.random.Generator) -> Tensor:
        return pixels_of(scenes_of_one_ratio(rng, seen, RUN.batch_size), icons)

    finetune_vq_decoder(model, PICTURE, pictures, folder / "picture")
    save_state(folder / MODEL, model.state_dict())
    shown = pixels_of(scenes_of_one_ratio(np.random.default_rng(1), held_out, 16), icons)
    print(f"held out {save_sheet(model, shown, folder / 'sheet-final.png'):.2f} dB")
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vision"))
