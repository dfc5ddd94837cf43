"""What nano's codes tell of what a picture shows: `python -m recipes.nano_readers`.

Readers of codes that are not language models learn names from the variations that nano's decoder
learns them from, and name the pictures of `emu3 eval nano`: a layer, a layer of hidden units, three
convolutions. None has seen a held-out pair. What they reach is what a decoder could.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.models.precision import FP32
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    RATIOS,
    Icons,
    Redrawn,
    held_out_pairs,
    seen_pairs,
    usual_scene,
)
from recipes.nano_variations import variations
from recipes.nano_vision import pixels_of

EPOCHS, BATCH, RATE, DECAY = 12, 128, 2e-3, 0.05
SMOOTHING = 0.1  # of the labels
DROPPED = 0.3
SIDE = 8  # codes

READERS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(len(OBJECTS))),
    "hidden units": lambda: nn.Sequential(
        nn.Flatten(),
        *(nn.LazyLinear(1024), nn.GELU(), nn.Dropout(DROPPED)),
        *(nn.LazyLinear(512), nn.GELU(), nn.Dropout(DROPPED)),
        nn.LazyLinear(len(OBJECTS)),
    ),
    "three convolutions": lambda: nn.Sequential(
        *(nn.LazyConv2d(128, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU()),
        *(nn.LazyConv2d(128, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU()),
        *(nn.LazyConv2d(256, 3, stride=2, padding=1), nn.LazyBatchNorm2d(), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(DROPPED), nn.LazyLinear(len(OBJECTS))),
    ),
}


def entries(vision: VisionTokenizer) -> Tensor:
    """The codebook [K, c], each channel of its entries with mean 0 and deviation 1."""
    table = vision.quantize.embedding.weight.detach().float()
    return (table - table.mean(0)) / table.std(0)


def trained(reader: nn.Module, codes: Tensor, table: Tensor, epochs: int = EPOCHS) -> nn.Module:
    """A reader that has seen codes [objects, any number, h, w] of each object."""
    pictures = codes.flatten(0, 1)
    names = torch.arange(len(codes)).repeat_interleave(codes.shape[1])
    torch.manual_seed(0)
    reader(_latents(pictures[:2], table))  # the shapes of its weights
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with count_progress("learning names", steps) as advance:
        for _ in range(epochs):
            for chosen in torch.randperm(len(pictures)).split(BATCH):
                if len(chosen) < BATCH:
                    continue
                said = reader(_latents(pictures[chosen], table))
                loss = F.cross_entropy(said, names[chosen], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(1)
    return reader.eval()


@torch.no_grad()
def share_named(reader: nn.Module, codes: Tensor, objects: Tensor, table: Tensor) -> float:
    """How many of the pictures [N, h, w] get their right name [N]."""
    said = torch.cat([reader(_latents(part, table)).argmax(1) for part in codes.split(BATCH)])
    return (said == objects).float().mean().item()


def _latents(codes: Tensor, table: Tensor) -> Tensor:
    return table[codes.long()].permute(0, 3, 1, 2)


def true_pictures(
    vision: VisionTokenizer, icons: Icons, pairs: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Codes [N, 8, 8] of each pair composed the usual way on each background, and its object."""
    scenes = [usual_scene(int(o), int(s), colour) for o, s in pairs for colour in BACKGROUNDS]
    parts = [scenes[at : at + 60] for at in range(0, len(scenes), 60)]
    with torch.no_grad():
        codes = torch.cat([vision.encode(pixels_of(part, icons)) for part in parts])
    return codes, torch.tensor([scene.object for scene in scenes])


def main(folder: Path) -> None:
    """Print what each reader names, of seen pairs and of held-out ones."""
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    vision, icons = nano.vision_processor.vision, Icons.load()
    folder.mkdir(parents=True, exist_ok=True)
    codes = variations(vision, icons, Redrawn.load(), folder)[RATIOS[0]]
    table = entries(vision)
    seen, held = (true_pictures(vision, icons, p) for p in (seen_pairs()[::9], held_out_pairs()))
    for name, reader in READERS.items():
        made = trained(reader(), codes, table)
        of_seen, of_held = (share_named(made, *each, table) for each in (seen, held))
        print(f"{name}: {of_seen:.1%} of seen pairs, {of_held:.1%} of held-out ones")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/readers"))
