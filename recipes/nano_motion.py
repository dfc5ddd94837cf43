"""nano's vision tokenizer learns to move: `python -m recipes.nano_motion runs/motion`.

Goes on from the nano that comes with the package, on clips and pictures of Emoji World without its
held-out pairs; `model.pt` is what comes out. Codes of pictures stay (nearly) what they were, so
`recipes.nano_moving` can go on from nano's decoder. Kill it whenever you like: the same command
goes on from the last checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.checkpoint import Place, open_checkpoint
from emu3.emoji_world import (
    MOTIONS,
    Icons,
    MovingScene,
    compose_frame,
    held_out_motions,
    held_out_pairs,
    random_moving_scene,
    seen_pairs,
)
from emu3.precision import FP32
from emu3.train.checkpoints import save_state
from emu3.train.motion import MotionTraining, train_motion
from emu3.train.precision import has_bf16
from emu3.vision.tokenizer import VisionTokenizer
from recipes.clip_codes import GROUP, pixels_of_clips
from recipes.nano_vision import MODEL, pixels_of, scenes_of_one_ratio

RUN = MotionTraining(
    steps=400,
    learning_rate=1.5e-3,
    warmup=20,
    clip=1.0,
    commitment=0.25,
    hold_still=4.0,
    decoded=2,
    bf16=has_bf16("cpu"),
    report_every=10,
    save_every=50,
    seed=3,
)

GROUPS, PICTURES = 8, 4  # of a step


def moving(rng: np.random.Generator, pairs: NDArray[np.int64]) -> MovingScene:
    """Something that moves as it may be seen to."""
    hidden, names = held_out_motions(), list(MOTIONS)
    while True:
        thing, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        motion = int(rng.integers(len(names)))
        if not hidden[thing, motion]:
            return random_moving_scene(rng, thing, style, names[motion])


def group_of(rng: np.random.Generator, scene: MovingScene, icons: Icons) -> NDArray[np.uint8]:
    """Four frames of a clip, uint8 [4, 64, 64, 3]: one of its groups."""
    first = GROUP * int(rng.integers(-(-scene.frames // GROUP)))
    return np.stack([compose_frame(scene, icons, first + each) for each in range(GROUP)])


@torch.no_grad()
def clip_psnr(model: VisionTokenizer, pixels: Tensor) -> float:
    """Mean over groups [B, 4, 3, H, W] of the PSNR of what comes back, dB."""
    again = model.decode_groups(model.encode_groups(pixels)).clamp(-1, 1)
    error = (pixels - again).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error / 4)).mean())


def main(folder: Path) -> VisionTokenizer:
    """Train the package's vision tokenizer further."""
    nano = open_checkpoint("nano", None, Place(torch.device("cpu"), FP32))
    model, icons, seen = nano.codec.vision.requires_grad_(True), Icons.load(), seen_pairs()
    rng = np.random.default_rng(1)
    shown = pixels_of_clips(
        [group_of(rng, moving(rng, held_out_pairs()), icons) for _ in range(96)]
    )
    print(f"held out, before: {clip_psnr(model, shown):.2f} dB")

    def footage(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        groups = [group_of(rng, moving(rng, seen), icons) for _ in range(GROUPS)]
        return pixels_of_clips(groups), pixels_of(scenes_of_one_ratio(rng, seen, PICTURES), icons)

    train_motion(model, RUN, footage, folder)
    save_state(folder / MODEL, model.state_dict())
    print(f"held out: {clip_psnr(model, shown):.2f} dB")
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/motion"))
