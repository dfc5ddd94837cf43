"""DPO example: train nano on preferences of an automatic score.

    python -m recipes.dpo runs/dpo

Eight images are sampled for each of 240 prompts about seen pairs, the nearest-icon classifier of
`recipes.nano.evaluation` scores object and background, and the best and the worst image of a prompt
are a preference pair. Five seeds each have samples, training and measurement of their own.
`figures.json` has the accuracy on held-out pairs before and after, and the 95% interval of the
difference over seeds.

The score is also the metric, but on pairs of object and style that neither nano nor the preferences
were trained on. `--quick` only checks that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emu3 import Emu3
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.training.dpo import (
    DPOLossConfig,
    DPOTrainingConfig,
    PreferencePair,
    add_reference_log_probs,
    train_dpo,
)
from emu3.training.export import ModelCardData, export_model
from emu3.training.preference_data import (
    CandidateSampling,
    ImagePrompt,
    mean_score,
    sample_candidates,
)
from emu3.training.presets import NANO_DPO
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    RATIOS,
    Icons,
    centred_scene,
    code_grid,
    full_caption,
    held_out_pairs,
    seen_pairs,
)
from recipes.nano.evaluation.accuracy import (
    Target,
    background_reward,
    generation_accuracy,
    mean_interval,
    object_reward,
)
from recipes.nano.evaluation.icon_classifier import REFERENCE_BACKGROUNDS, NearestIconClassifier

PRESET = NANO_DPO
LOSS = DPOLossConfig(beta=0.1, next_token_weight=1.0)
MARGIN = 0.2  # a correct object scores at least 0.25, a background 0.5: smaller margins are noise

DATA = (
    "Images that nano generated for captions of Emoji World without its held-out pairs, scored by "
    "the nearest-icon classifier of `recipes.nano.evaluation`."
)


@dataclass(frozen=True)
class Size:
    """The extent of a run."""

    seeds: int
    prompts: int
    images_per_prompt: int
    steps: int
    batch_size: int
    measured: int  # held-out pairs per measurement, at most 120
    backgrounds: tuple[str, ...] = REFERENCE_BACKGROUNDS  # of the classifier


FULL = Size(
    seeds=5,
    prompts=240,
    images_per_prompt=8,
    steps=PRESET.steps,
    batch_size=PRESET.batch_size,
    measured=120,
)
QUICK = Size(
    seeds=2,
    prompts=3,
    images_per_prompt=4,
    steps=2,
    batch_size=2,
    measured=2,
    backgrounds=("white",),
)


def make_targets(pairs: NDArray[np.int64], count: int, rng: np.random.Generator) -> list[Target]:
    """Full captions of `count` pairs on random backgrounds."""
    colours = list(BACKGROUNDS)
    scenes = [
        centred_scene(int(index), int(style), colours[rng.integers(len(colours))])
        for index, style in rng.permutation(pairs)[:count]
    ]
    return [Target(full_caption(scene), scene, scene.style) for scene in scenes]


def preference_pairs(
    checkpoint: Checkpoint, classifier: NearestIconClassifier, folder: Path, size: Size, seed: int
) -> list[PreferencePair]:
    """Sample images, score them, choose pairs, and add the reference's log-probabilities."""
    targets = make_targets(seen_pairs(), size.prompts, np.random.default_rng((seed, 0)))
    by_prompt = {each.prompt: each for each in targets}
    score = mean_score(object_reward(by_prompt, classifier), background_reward(by_prompt))
    prompts = [ImagePrompt(each.prompt, code_grid(RATIOS[0])) for each in targets]
    sampling = CandidateSampling(
        images_per_prompt=size.images_per_prompt, seed=1_000_000 * (seed + 1)
    )
    path = folder / "candidates.jsonl"
    candidates = sample_candidates(checkpoint, prompts, score, path, sampling)
    pairs = [pair for each in candidates if (pair := each.pair(MARGIN)) is not None]
    visual = checkpoint.text_tokenizer.vocabulary.visual
    return add_reference_log_probs(checkpoint.decoder, pairs, visual)


def training_for(size: Size, seed: int) -> DPOTrainingConfig:
    """The settings of the training loop."""
    return DPOTrainingConfig(
        steps=size.steps,
        learning_rate=PRESET.learning_rate,
        final_learning_rate=PRESET.final_learning_rate,
        schedule=PRESET.schedule,
        warmup_steps=min(PRESET.warmup_steps, size.steps),
        max_grad_norm=PRESET.max_grad_norm,
        weight_decay=PRESET.weight_decay,
        betas=PRESET.betas,
        eps=PRESET.eps,
        loss=LOSS,
        batch_size=size.batch_size,
        micro_batch_size=8,
        bf16=False,  # the margin is a small difference of large numbers
        report_every=1,
        save_every=50,
        seed=seed,
    )


def run_seed(
    classifier: NearestIconClassifier, folder: Path, size: Size, seed: int
) -> dict[str, Any]:
    """One seed from nano to its figures; the model of the first seed is exported."""
    checkpoint = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    targets = make_targets(held_out_pairs(), size.measured, np.random.default_rng((seed, 1)))
    before = generation_accuracy(Emu3(checkpoint), targets, classifier, seed=1000 * seed)
    pairs = preference_pairs(checkpoint, classifier, folder, size, seed)
    visual, run = checkpoint.text_tokenizer.vocabulary.visual, training_for(size, seed)
    decoder = checkpoint.decoder.requires_grad_(True)  # it was loaded for inference
    train_dpo(decoder, run, pairs, visual, folder)
    after = generation_accuracy(Emu3(checkpoint), targets, classifier, seed=1000 * seed)
    accuracies = {
        name: {"before": before[name].value, "after": after[name].value} for name in before
    }
    if seed == 0:
        preset = replace(PRESET, steps=size.steps, batch_size=size.batch_size)
        figures = {name: f"{before[name]} before, {after[name]} after" for name in before}
        model_card = ModelCardData(DATA, "CPU; see the log.", preset, folder / "log.jsonl", figures)
        export_model(replace(checkpoint, name="nano-dpo"), model_card, folder.parent / "model")
    return {"pairs": len(pairs), **accuracies}


def main(folder: Path, size: Size = FULL) -> dict[str, Any]:
    """Run all seeds that are not finished, each in a folder of its own; returns the figures."""
    classifier = NearestIconClassifier.build(Icons.load(), backgrounds=size.backgrounds)
    seeds = []
    for seed in range(size.seeds):
        path = folder / f"seed-{seed}" / "figures.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, run_seed(classifier, path.parent, size, seed))
        seeds.append(json.loads(path.read_text(encoding="utf-8")))
    report: dict[str, Any] = {"seeds": seeds, "difference": {}}
    for name in ("object", "style", "background", "all"):
        mean, low, high = mean_interval([s[name]["after"] - s[name]["before"] for s in seeds])
        report["difference"][name] = {"mean": mean, "low": low, "high": high}
        print(f"{name}: {mean:+.1%} ({low:+.1%} to {high:+.1%}) over {len(seeds)} seeds")
    _write(folder / "figures.json", report)
    return report


def _write(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="by default runs/dpo")
    parser.add_argument("--quick", action="store_true", help="check that everything runs")
    arguments = parser.parse_args()
    default = Path("runs/dpo-quick" if arguments.quick else "runs/dpo")
    main(arguments.folder or default, QUICK if arguments.quick else FULL)
