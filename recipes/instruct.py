"""Questions: `python -m recipes.instruct runs/instruct`.

Instruction tuning as anybody would do it with data of their own: pictures and a JSONL of questions
and answers go through `emu3 prepare` and `emu3 train nano-instruct`. Half of the pictures are
scenes of Emoji World without its held-out pairs, half are drawings as no style has them.
`figures.json` has the results of `recipes.nano.evaluation` before and after. An interrupted command
resumes. `--quick` only checks that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from emu3 import Emu3
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.data.dataset import TokenDataset
from emu3.data.discovery import find_sources
from emu3.data.prepare import prepare
from emu3.data.workers import TokenizerConfig
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.progress import count_progress
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.presets import NANO_INSTRUCTION
from emu3.training.run import RunOptions, run_preset
from recipes.nano.augmented_images import varied
from recipes.nano.emoji_world import (
    OBJECTS,
    QUESTIONS,
    Icons,
    Redrawn,
    compose,
    dialogue,
    held_out,
    random_scene,
    seen_pairs,
    with_article,
)
from recipes.nano.evaluation.image_evaluation import evaluate_nano
from recipes.nano.evaluation.report import DrawingSettings

SAMPLES, STORE = "samples.jsonl", "store"
SEED = 7  # no run of nano's decoder had it

Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    samples: int
    steps: int
    pairs: int  # of each kind in a measurement, at most 120


FULL = Size(samples=20_000, steps=NANO_INSTRUCTION.steps, pairs=120)
QUICK = Size(samples=24, steps=2, pairs=1)


def samples(
    count: int, icons: Icons, redrawn: Redrawn
) -> Iterator[tuple[NDArray[np.uint8], Turns]]:
    """Pictures uint8 [h, w, 3] and what is asked about each; nothing held out is among them."""
    rng, pairs, seen = np.random.default_rng(SEED), seen_pairs(), ~held_out()
    names = QUESTIONS["object"]
    for number in range(count):
        thing, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        scene = random_scene(rng, thing, style)
        if number % 2:
            yield compose(scene, icons), dialogue(scene, rng)
        else:
            styles = np.flatnonzero(seen[thing])
            picture = varied(rng, icons, redrawn, thing, styles, scene.ratio)
            question = names[rng.integers(len(names))]
            yield picture, [(question, with_article(OBJECTS[thing]))]


def write_samples(folder: Path, count: int) -> Path:
    """The JSONL of the samples, beside a folder of their pictures, unless it is there."""
    path = folder / SAMPLES
    if path.exists():
        return path
    (folder / "pictures").mkdir(exist_ok=True)
    lines = []
    made = samples(count, Icons.load(), Redrawn.load())
    with count_progress("drawing samples", count) as advance:
        for number, (picture, turns) in enumerate(made):
            name = f"pictures/{number:05}.png"
            Image.fromarray(picture).save(folder / name)
            said = [{"question": question, "answer": answer} for question, answer in turns]
            lines.append(json.dumps({"image": name, "turns": said}))
            advance(1)
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def stored(folder: Path, size: Size, workers: int) -> Path:
    """The samples as ids of nano, made or gone on with."""
    sources = find_sources([write_samples(folder, size.samples)])
    with count_progress("preparing", sum(source.num_slices for source in sources)) as advance:
        prepare(sources, folder / STORE, TokenizerConfig("nano"), workers, advance)
    return folder / STORE


def measured(checkpoint: Checkpoint, pairs: int) -> dict[str, Any]:
    """What `emu3 eval nano` finds of a model."""
    drawing = DrawingSettings.of(checkpoint.defaults)
    return evaluate_nano(Emu3(checkpoint), samples=pairs, drawing=drawing).to_dict()


def main(folder: Path, size: Size = FULL) -> dict[str, Any]:
    """Measure, tune, measure again; everything goes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    device = DeviceConfig(torch.device("cpu"), FP32)
    checkpoint = load_checkpoint("nano", None, device)
    before = measured(checkpoint, size.pairs)
    store = TokenDataset.open(stored(folder, size, workers=2), checkpoint.text_tokenizer)
    warmup = min(NANO_INSTRUCTION.warmup_steps, size.steps)
    stage = NANO_INSTRUCTION.override(
        starts_from=checkpoint.name, steps=size.steps, warmup_steps=warmup
    )
    settings = RunOptions(seed=SEED, bf16=has_fast_bf16("cpu"))
    model = run_preset(stage, checkpoint, [(store, 1.0)], folder / "run", settings)
    after = measured(load_checkpoint(model / "baai", None, device), size.pairs)
    report = {"before": before, "after": after}
    with atomic_write(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for kind in ("seen", "held_out"):
        for name, share in report["before"][kind].items():
            if "share" in share:
                after = report["after"][kind][name]["share"]
                print(f"{kind}, {name}: {share['share']:.1%} before, {after:.1%} after")
    return report


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    named = [word for word in sys.argv[1:] if not word.startswith("--")]
    usual = Path("runs/instruct-quick" if quick else "runs/instruct")
    chosen = Path(named[0]) if named else usual
    main(chosen, QUICK if quick else FULL)
