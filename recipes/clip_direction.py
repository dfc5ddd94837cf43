"""Whether a decoder sees which way things slide: `python -m recipes.clip_direction runs/moving`.

Asked about clips, and going on with them. Where a group begins to differ from the one before says
which way things go, and what follows can be told from that: so of each group, all it is judged by
is whether the codes up to the first that changes would be drawn right, the likeliest each time.
New clips of pairs of object and motion that were trained on, as often in each direction; nothing
is drawn, so this takes seconds where `emu3 eval nano --only video` takes minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
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
from recipes.nano.emoji_world import Icons, MovingScene, clip_answer, full_clip_caption, seen_pairs
from recipes.nano.emoji_world.motion import BEAT, SLIDES
from recipes.nano.ship import decoder_of

EACH, FPS, SEED = 6, 8, 77  # clips of a direction, frames a second
ASKED = 2, 4, 6  # groups of clips that are asked about
GROUPS = 8
QUESTION = "How does it move?"


def slides(codes_of: CodesOfClips, groups: int) -> Iterator[tuple[MovingScene, VideoCodes]]:
    """The same clips every time, of so many groups."""
    rng, pairs = np.random.default_rng(SEED), seen_pairs()
    scenes = [
        replace(moving(rng, pairs, [f"moving {way}"]), fps=FPS, frames=groups * BEAT, still=0)
        for way in SLIDES
        for _ in range(EACH)
    ]
    for scene, codes in zip(scenes, codes_of(scenes), strict=True):
        yield scene, VideoCodes(codes, FPS, scene.frames)


@torch.no_grad()
def right(decoder: Transformer, ids: Tensor) -> Tensor:
    """Of each id [L] but the first, whether it is the likeliest after those before it, [L - 1]."""
    return decoder(ids[None, :-1])[0].argmax(-1) == ids[1:]


def begun_right(right: Tensor, codes: Tensor) -> Tensor:
    """For each group but the first, whether it is right up to the first code that changes.

    `right` of each code, and the codes: [t, h, w]. Returns [t - 1].
    """
    changed = (codes[1:] != codes[:-1]).flatten(1)
    upto = changed.cumsum(1) - changed.long() == 0  # the first that changes is among them
    return (right[1:].flatten(1) | ~upto).all(1)


def answered(
    decoder: Transformer, prompts: PromptTemplates, scene: MovingScene, clip: VideoCodes
) -> bool:
    """Whether the answer to which way things move would be exact, drawn greedily."""
    ids, said = prompts.chat_document(clip, [(QUESTION, clip_answer(scene, "motion"))])
    return bool(right(decoder, ids)[said[1:] > 0].all())


def gone_on(decoder: Transformer, prompts: PromptTemplates, words: str, clip: VideoCodes) -> Tensor:
    """For each group but the first, whether it would begin right: [t - 1]."""
    ids, visual = prompts.document(words, clip), prompts.tokenizer.vocabulary.visual
    codes = (ids[1:] >= visual.start) & (ids[1:] < visual.stop)
    return begun_right(right(decoder, ids)[codes].view_as(clip.codes), clip.codes)


def main(folder: Path | None) -> None:
    """Print what a run's decoder, or the package's, sees."""
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    decoder = (nano.decoder if folder is None else decoder_of(folder)).eval()
    codes_of, prompts = CodesOfClips(nano.vision_processor.vision, Icons.load()), nano.prompts
    asked = Table("groups", *map(str, ASKED))
    asked.title = f"asked {QUESTION!r}, {EACH * len(SLIDES)} clips that slide, seed {SEED}"
    shares = [
        np.mean([answered(decoder, prompts, *each) for each in slides(codes_of, groups)])
        for groups in ASKED
    ]
    asked.add_row("right", *(f"{share:.0%}" for share in shares))
    begun = Table("clips", *(f"group {at + 1}" for at in range(1, GROUPS)))
    begun.title = "groups that begin right"
    for name, say in (("with a caption", full_clip_caption), ("without", lambda _: "")):
        found = [gone_on(decoder, prompts, say(s), clip) for s, clip in slides(codes_of, GROUPS)]
        begun.add_row(name, *(f"{each:.0%}" for each in torch.stack(found).float().mean(0)))
    Console().print(asked, begun)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
