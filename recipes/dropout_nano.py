"""Without dropout: `python -m recipes.dropout_nano runs/dropout`.

Emu3's authors are said to report that training collapses without dropout; we know of no figures.
Decoders of nano's shape, with the same first weights, read the same documents with the published
dropout of 0.1 in its four places and without any, moved by Muon as nano is and by AdamW as Emu3 is.
Every hundred steps documents are read that none of them learns from: of pairs trained on, and of
pairs held out. `figures.json` has these losses and the greatest gradient. Kill it whenever you
like: the same command goes on. `--quick` is a rehearsal: its figures mean nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.training.decoder import DecoderTraining, fresh, train_decoder
from emu3.training.errors import TrainingError
from emu3.training.lm_loss import Document, losses
from emu3.training.mixed_precision import has_bf16
from recipes.nano.emoji_world import (
    QUESTIONS,
    RATIOS,
    Icons,
    Redrawn,
    answer,
    full_caption,
    held_out_pairs,
    seen_pairs,
    usual_scene,
)
from recipes.nano_decoder import Lessons, Mix, config_for
from recipes.nano_variations import variations

SEED = 11
MIX = Mix(drawn=14, asked=4, named=6)
DROPOUT = (0.0, 0.1)
RATES: dict[Literal["muon", "adamw"], float] = {"muon": 4e-3, "adamw": 1e-3}
LOG, MEASURED = "log.jsonl", "measured.jsonl"


@dataclass(frozen=True)
class Size:
    """How much is done."""

    steps: int
    every: int  # steps between two measurements
    pairs: int  # of each kind in a measurement
    variations: int  # of an object, in each ratio


FULL = Size(steps=500, every=100, pairs=60, variations=8)
QUICK = Size(steps=2, every=1, pairs=2, variations=1)


def run_for(size: Size, optimizer: Literal["muon", "adamw"]) -> DecoderTraining:
    """The same steps for all; the rate is the optimizer's."""
    return DecoderTraining(
        steps=size.steps,
        micro_batch=12,
        learning_rate=RATES[optimizer],
        warmup=min(30, size.steps),
        decay=0.01,
        clip=1.0,
        optimizer=optimizer,
        bf16=has_bf16("cpu"),
        report_every=min(10, size.steps),
        save_every=size.every,
        seed=SEED,
    )


def unlearnt(lessons: Lessons, pairs: np.ndarray, count: int) -> list[Document]:
    """A picture from its caption and its name from the picture, of some pairs each."""
    documents = []
    for thing, style in np.random.default_rng(SEED).permutation(pairs)[:count]:
        scene = usual_scene(int(thing), int(style), "white")
        (codes,) = lessons.codes_of([scene])
        documents += [
            lessons.picture(full_caption(scene), codes),
            lessons.answer(codes, [(QUESTIONS["object"][0], answer(scene, "object"))]),
        ]
    return documents


def train_one(
    nano: Checkpoint,
    lessons: Lessons,
    measures: Mapping[str, Sequence[Document]],
    run: DecoderTraining,
    dropout: float,
    folder: Path,
) -> str:
    """One decoder from nothing; its folder gets a log and what was measured on the way.

    Returns why it had to be stopped, if it collapsed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    visual = nano.text_tokenizer.vocabulary.visual

    @torch.no_grad()
    def measure(model: Transformer, step: int) -> None:
        line: dict[str, Any] = {"step": step}
        for kind, documents in measures.items():
            found = losses(model, documents, visual)
            line[kind] = {name: round(found[name].item(), 4) for name in ("text", "vision")}
        with (folder / MEASURED).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")

    config = replace(config_for(nano.text_tokenizer), attention_dropout=dropout)
    try:
        train_decoder(fresh(config, SEED), run, lessons, visual, folder, on_save=measure)
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: Path, size: Size = FULL) -> dict[str, Any]:
    """All four; what is done is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    icons, each = Icons.load(), dict.fromkeys(RATIOS, size.variations)
    varied = variations(nano.vision_processor.vision, icons, Redrawn.load(), folder, each)
    lessons = Lessons(MIX, nano.vision_processor.vision, nano.text_tokenizer, icons, varied)
    measures = {
        "seen": unlearnt(lessons, seen_pairs(), size.pairs),
        "held_out": unlearnt(lessons, held_out_pairs(), size.pairs),
    }
    report: dict[str, Any] = {}
    for optimizer in RATES:
        for dropout in DROPOUT:
            name = f"{optimizer}-{dropout:g}"
            run = run_for(size, optimizer)
            stopped = train_one(nano, lessons, measures, run, dropout, folder / name)
            report[name] = {"stopped": stopped, **told(folder / name)}
            print(f"{name}: {json.dumps(report[name]['measured'][-1])}")
    with atomic_write(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def told(folder: Path) -> dict[str, Any]:
    """What a run wrote down; where it was resumed, the later line of a step counts."""
    logged, measured = (
        {line["step"]: line for line in map(json.loads, path.read_text().splitlines())}
        for path in (folder / LOG, folder / MEASURED)
    )
    return {
        "greatest_gradient": max(line["grad"] for line in logged.values()),
        "measured": [measured[step] for step in sorted(measured)],
    }


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    named = [word for word in sys.argv[1:] if word != "--quick"]
    usual = "runs/dropout-quick" if quick else "runs/dropout"
    main(Path(named[0] if named else usual), QUICK if quick else FULL)
