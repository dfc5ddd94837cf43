"""Teach nano a fourth style from 153 pictures: `python -m recipes.lora_style runs/fxemoji`.

LoRA on every linear layer; between pictures of the new style come some of the old ones, so that
these are not forgotten. `figures.json` says how well the new style is drawn before and after, by
objects learnt and by objects held out, and what the old styles lost. `adapter/` is PEFT's,
`model/` the merged checkpoint with its card. `--quick` is a rehearsal: its figures mean nothing.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from emu3 import Emu3
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.training.decoder import DecoderTrainingConfig, train_decoder
from emu3.training.export import ModelCardData, export_model
from emu3.training.lm_loss import TrainingSequence
from emu3.training.lora import LoraConfig, add_adapter
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.presets import NANO_QUALITY, Preset
from recipes.fourth_style import NUMBER, PACKAGE, FourthStyle, caption
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    Icons,
    full_caption,
    held_out_pairs,
    seen_pairs,
    usual_scene,
)
from recipes.nano.evaluation.accuracy import Wanted, accuracy
from recipes.nano.evaluation.icon_classifier import REFERENCE_BACKGROUNDS, Judge
from recipes.nano.evaluation.proportions import Share
from recipes.nano.scene_codes import CodesOfScenes

COLOURS = list(BACKGROUNDS)

LORA = LoraConfig(rank=16, alpha=32.0)

STAGE = replace(
    NANO_QUALITY,
    name="a fourth style with LoRA",
    starts_from="nano",
    optimizer="adamw",
    learning_rate=2e-3,
    steps=300,
    batch_size=24,
    caption_dropout=0.08,
    from_paper=(),  # weights and schedule are those of quality tuning, but to take them is our choice
    from_script=(),
)

DATA = (
    f"153 pictures of Firefox OS Emoji (Mozilla, Apache-2.0, {PACKAGE}) on plain backgrounds, and "
    "scenes of Emoji World without its held-out pairs, against forgetting."
)


@dataclass(frozen=True)
class Size:
    """How much is done; pictures of the old styles in a step are `replayed`."""

    steps: int
    drawn: int  # pictures a measurement asks for, at most
    replayed: int
    backgrounds: tuple[str, ...] = REFERENCE_BACKGROUNDS  # of the judge


FULL = Size(steps=STAGE.steps, drawn=120, replayed=8)
QUICK = Size(steps=2, drawn=2, replayed=2, backgrounds=("white",))


class Lessons:
    """The documents of a step: pictures of the new style, and some of the old ones."""

    def __init__(
        self, checkpoint: Checkpoint, style: FourthStyle, icons: Icons, size: Size, stage: Preset
    ) -> None:
        self.checkpoint, self.size, self.stage = checkpoint, size, stage
        self.codes_of = CodesOfScenes(checkpoint.vision_processor.vision, icons)
        scenes = style.scenes(style.learnt, np.random.default_rng(0))
        self.captions = [caption(scene) for scene in scenes]
        self.codes = CodesOfScenes(checkpoint.vision_processor.vision, style.icons)(scenes)
        self.pairs = seen_pairs()

    def __call__(self, rng: np.random.Generator) -> list[TrainingSequence]:
        chosen = rng.permutation(len(self.codes))[: self.stage.batch_size - self.size.replayed]
        said = [(self.captions[index], self.codes[index]) for index in chosen]
        pairs = self.pairs[rng.integers(len(self.pairs), size=self.size.replayed)]
        scenes = [
            usual_scene(int(thing), int(known), COLOURS[rng.integers(len(COLOURS))])
            for thing, known in pairs
        ]
        said += zip(map(full_caption, scenes), self.codes_of(scenes), strict=True)
        return [self.document(words, each, rng) for words, each in said]

    def document(
        self, words: str, codes: torch.Tensor, rng: np.random.Generator
    ) -> TrainingSequence:
        words = "" if rng.random() < self.stage.caption_dropout else words
        ids = self.checkpoint.prompts.document(words, codes)
        visual = self.checkpoint.text_tokenizer.vocabulary.visual
        is_visual = (ids >= visual.start) & (ids < visual.stop)
        weights = self.stage.loss_weights
        return TrainingSequence(ids, torch.where(is_visual, weights.vision, weights.text))


def questions(style: FourthStyle, most: int) -> dict[str, list[Wanted]]:
    """What is asked for before and after."""
    rng = np.random.default_rng(1)
    asked = {}
    for name, things in (("new, learnt", style.learnt), ("new, held out", style.held_out)):
        scenes = style.scenes(things, rng)[:most]
        asked[name] = [Wanted(caption(scene), scene, NUMBER) for scene in scenes]
    for name, pairs in (("old, seen", seen_pairs()), ("old, held out", held_out_pairs())):
        rows = rng.permutation(pairs)[:most]
        scenes = [
            usual_scene(int(thing), int(known), COLOURS[rng.integers(len(COLOURS))])
            for thing, known in rows
        ]
        asked[name] = [Wanted(full_caption(scene), scene, scene.style) for scene in scenes]
    return asked


def measure(
    checkpoint: Checkpoint, asked: dict[str, list[Wanted]], judge: Judge
) -> dict[str, dict[str, Share]]:
    model = Emu3(checkpoint)
    return {name: accuracy(model, wanted, judge, seed=1000) for name, wanted in asked.items()}


def run_for(size: Size) -> DecoderTrainingConfig:
    stage = replace(STAGE, steps=size.steps, warmup_steps=min(STAGE.warmup_steps, size.steps))
    return stage.training_config(
        micro_batch_size=24, bf16=has_fast_bf16("cpu"), report_every=1, save_every=50, seed=0
    )


def main(folder: Path, size: Size = FULL) -> dict[str, object]:
    """Measure, teach, measure again; everything goes to `folder`."""
    checkpoint = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    icons, style = Icons.load(), FourthStyle.load()
    known = Judge.build(icons, backgrounds=size.backgrounds)
    judge = style.taught_to(known, size.backgrounds)
    asked = questions(style, size.drawn)
    before = measure(checkpoint, asked, judge)
    adapted = add_adapter(checkpoint.decoder, LORA)
    lessons = Lessons(checkpoint, style, icons, size, STAGE)
    start = time.perf_counter()
    train_decoder(
        adapted.model, run_for(size), lessons, checkpoint.text_tokenizer.vocabulary.visual, folder
    )
    seconds = time.perf_counter() - start
    adapted.save(folder / "adapter")
    adapted.merge()
    after = measure(checkpoint, asked, judge)
    report = {
        "pictures": len(style.learnt),
        "seconds": round(seconds, 1),  # of this call: less than all where a run was resumed
        **{name: {"before": _plain(before[name]), "after": _plain(after[name])} for name in asked},
    }
    figures = {
        f"{name}, {what}": f"{before[name][what]} before, {after[name][what]} after"
        for name in asked
        for what in after[name]
    }
    stage = replace(STAGE, steps=size.steps)
    journal = folder / "log.jsonl"
    provenance = ModelCardData(DATA, "CPU; see the journal.", stage, journal, figures)
    export_model(replace(checkpoint, name="nano-fxemoji"), provenance, folder / "model")
    with atomic_write(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, said in figures.items():
        print(f"{name}: {said}")
    return report


def _plain(shares: dict[str, Share]) -> dict[str, dict[str, float]]:
    return {name: share.to_dict() for name, share in shares.items()}


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    named = [word for word in sys.argv[1:] if word != "--quick"]
    usual = "runs/fxemoji-quick" if quick else "runs/fxemoji"
    main(Path(named[0] if named else usual), QUICK if quick else FULL)
