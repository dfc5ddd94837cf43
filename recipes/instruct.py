"""Instruction-tuning example: train nano on questions about your own images.

    python -m recipes.instruct runs/instruct

The data takes the same path as anybody's: images and a JSONL file of questions and answers go
through `emu3 prepare` and the preset of `emu3 train nano-instruct`. Half of the images are scenes
of Emoji World without its held-out pairs, half are augmented images. `figures.json` has the metrics
of `recipes.nano.evaluation` before and after. An interrupted command resumes. `--quick` only checks
that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
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
from emu3.data.prepare import prepare_dataset
from emu3.data.workers import TokenizerConfig
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.progress import count_progress
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.presets import NANO_INSTRUCTION
from emu3.training.run import RunOptions, run_preset
from recipes.nano.augmented_images import augmented_image
from recipes.nano.emoji_world import (
    OBJECTS,
    QUESTIONS,
    Icons,
    IconVariants,
    dialogue,
    held_out_mask,
    random_scene,
    render_scene,
    seen_pairs,
    with_article,
)
from recipes.nano.evaluation import NearestIconClassifier, SamplingSettings, evaluate_images

SAMPLES, TOKENS = "samples.jsonl", "tokens"
SEED = 7

Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Size:
    """The extent of a run."""

    samples: int
    steps: int
    measured: int  # pairs of each kind per measurement, at most 120


FULL = Size(samples=20_000, steps=NANO_INSTRUCTION.steps, measured=120)
QUICK = Size(samples=24, steps=2, measured=1)


def make_samples(
    count: int, icons: Icons, variants: IconVariants
) -> Iterator[tuple[NDArray[np.uint8], Turns]]:
    """Images uint8 [h, w, 3] with questions and answers; no held-out pair is among them."""
    rng, pairs, seen = np.random.default_rng(SEED), seen_pairs(), ~held_out_mask()
    questions = QUESTIONS["object"]
    for number in range(count):
        index, style = (int(each) for each in pairs[rng.integers(len(pairs))])
        scene = random_scene(rng, index, style)
        if number % 2:
            yield render_scene(scene, icons), dialogue(scene, rng)
        else:
            styles = np.flatnonzero(seen[index])
            image = augmented_image(rng, icons, variants, index, styles, scene.ratio)
            question = questions[rng.integers(len(questions))]
            yield image, [(question, with_article(OBJECTS[index]))]


def write_samples(folder: Path, count: int) -> Path:
    """Write a JSONL file beside a folder of images, unless it exists; returns its path."""
    path = folder / SAMPLES
    if path.exists():
        return path
    (folder / "images").mkdir(exist_ok=True)
    lines = []
    samples = make_samples(count, Icons.load(), IconVariants.load())
    with count_progress("writing samples", count) as advance:
        for number, (image, turns) in enumerate(samples):
            name = f"images/{number:05}.png"
            Image.fromarray(image).save(folder / name)
            qa = [{"question": question, "answer": answer} for question, answer in turns]
            lines.append(json.dumps({"image": name, "turns": qa}))
            advance(1)
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tokenize_samples(folder: Path, size: Size, workers: int) -> Path:
    """The samples as token ids of nano; resumes an unfinished data set."""
    sources = find_sources([write_samples(folder, size.samples)])
    with count_progress("preparing", sum(source.num_slices for source in sources)) as advance:
        prepare_dataset(sources, folder / TOKENS, TokenizerConfig("nano"), workers, advance)
    return folder / TOKENS


def main(folder: Path, size: Size = FULL) -> dict[str, Any]:
    """Measure, train, measure again; writes everything to `folder` and returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    icons, device = Icons.load(), DeviceConfig(torch.device("cpu"), FP32)
    classifier = NearestIconClassifier.build(icons)

    def measure(checkpoint: Checkpoint) -> dict[str, Any]:
        sampling = SamplingSettings.of(checkpoint.defaults)
        return evaluate_images(
            Emu3(checkpoint),
            icons=icons,
            classifier=classifier,
            samples=size.measured,
            sampling=sampling,
        ).to_dict()

    checkpoint = load_checkpoint("nano", None, device)
    before = measure(checkpoint)
    tokens = tokenize_samples(folder, size, workers=2)
    dataset = TokenDataset.open(tokens, checkpoint.text_tokenizer)
    preset = NANO_INSTRUCTION.override(
        starts_from=checkpoint.name,
        steps=size.steps,
        warmup_steps=min(NANO_INSTRUCTION.warmup_steps, size.steps),
    )
    options = RunOptions(seed=SEED, bf16=has_fast_bf16("cpu"))
    model = run_preset(preset, checkpoint, [(dataset, 1.0)], folder / "run", options)
    report = {"before": before, "after": measure(load_checkpoint(model / "baai", None, device))}
    with atomic_write(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for kind in ("seen", "held_out"):
        for name, found in report["before"][kind].items():
            if "proportion" in found:
                after = report["after"][kind][name]["proportion"]
                print(f"{kind}, {name}: {found['proportion']:.1%} before, {after:.1%} after")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="by default runs/instruct")
    parser.add_argument("--quick", action="store_true", help="check that everything runs")
    arguments = parser.parse_args()
    default = Path("runs/instruct-quick" if arguments.quick else "runs/instruct")
    main(arguments.folder or default, QUICK if arguments.quick else FULL)
