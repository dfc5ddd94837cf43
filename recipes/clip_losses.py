"""What clips cost a decoder, group by group: `python -m recipes.clip_losses runs/moving`.

A clip whose first group is known can be told: what a later group costs, against the first one, says
how much of it the decoder copies. New captioned clips of four groups, each motion as often as the
others, of what was trained on; nats a code.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.processing.document_format import VideoCodes
from emu3.processing.prompts import PromptTemplates
from recipes.clip_codes import CodesOfClips
from recipes.clip_lessons import moving
from recipes.nano.emoji_world import MOTIONS, Icons, full_clip_caption, seen_pairs
from recipes.nano.emoji_world.motion import BEAT
from recipes.nano.ship import decoder_of

EACH, GROUPS, FPS = 4, 4, 8  # clips of a motion, their length, frames a second
SEED = 99


@torch.no_grad()
def by_group(decoder: Transformer, ids: Tensor, groups: int, visual: slice) -> NDArray[np.float32]:
    """Mean cross-entropies [groups] of a document's codes, in nats; `ids` [L]."""
    told = torch.log_softmax(decoder(ids[None, :-1])[0], dim=-1)
    nats = -told.gather(1, ids[1:, None])[:, 0]
    codes = (ids[1:] >= visual.start) & (ids[1:] < visual.stop)
    return nats[codes].view(groups, -1).mean(1).numpy()


def measure(
    decoder: Transformer, prompts: PromptTemplates, codes_of: CodesOfClips, each: int = EACH
) -> dict[str, NDArray[np.float32]]:
    """For each motion the mean of so many clips, [GROUPS]."""
    rng, pairs = np.random.default_rng(SEED), seen_pairs()
    found = defaultdict[str, list[NDArray[np.float32]]](list)
    for motion in MOTIONS:
        for _ in range(each):
            scene = moving(rng, pairs, [motion])
            scene = replace(scene, fps=FPS, frames=GROUPS * BEAT, still=0)
            video = VideoCodes(codes_of([scene])[0], FPS, scene.frames)
            ids = prompts.document(full_clip_caption(scene), video)
            visual = prompts.tokenizer.vocabulary.visual
            found[motion].append(by_group(decoder, ids, GROUPS, visual))
    return {motion: np.mean(losses, 0) for motion, losses in found.items()}


def main(folder: Path | None) -> None:
    """Print a table of a run's decoder, or of the package's."""
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    decoder = nano.decoder if folder is None else decoder_of(folder)
    codes_of = CodesOfClips(nano.vision_processor.vision, Icons.load())
    found = measure(decoder.eval(), nano.prompts, codes_of)
    table = Table("motion", *(f"group {at + 1}" for at in range(GROUPS)))
    table.title = f"nats a code, {EACH} clips of each motion, seed {SEED}"
    for motion, losses in (found | {"all": np.mean(list(found.values()), 0)}).items():
        table.add_row(motion, *(f"{loss:.2f}" for loss in losses))
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
