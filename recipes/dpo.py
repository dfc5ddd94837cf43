"""Preferences on nano: `python -m recipes.dpo runs/dpo`.

Eight pictures for each of 240 requests about pairs trained on; the judge of `emu3 eval nano` votes
on object and background; the best and the worst make a pair. Five seeds, each with pictures,
training and measurement of its own. `figures.json` says how many drawings of held-out pairs are
right before and after, and the 95% interval of the difference over seeds. `--quick` is a rehearsal:
its figures mean nothing.

What the votes reward is also what is measured, but on pairs of object and style that neither nano
nor these preferences were trained on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
    full_caption,
    grid,
    held_out_pairs,
    seen_pairs,
    usual_scene,
)
from recipes.nano.evaluation.accuracy import (
    Wanted,
    accuracy,
    background_voter,
    interval,
    object_voter,
)
from recipes.nano.evaluation.icon_classifier import REFERENCE_BACKGROUNDS, Judge

STAGE = NANO_DPO
PREFERENCE = DPOLossConfig(beta=0.1, next_token_weight=1.0)
MARGIN = 0.2  # a right object counts 0.25 at least, a background 0.5: closer calls are noise

DATA = (
    "Pictures that nano drew for captions of Emoji World without its held-out pairs, and the votes "
    "of the judge of `emu3 eval nano` on them."
)


@dataclass(frozen=True)
class Size:
    """How much is done."""

    seeds: int
    requests: int
    pictures: int  # for a request
    steps: int
    batch: int
    drawn: int  # held-out pairs that a measurement asks for, at most 120
    backgrounds: tuple[str, ...] = REFERENCE_BACKGROUNDS  # of the judge


FULL = Size(seeds=5, requests=240, pictures=8, steps=STAGE.steps, batch=STAGE.batch_size, drawn=120)
QUICK = Size(seeds=2, requests=3, pictures=4, steps=2, batch=2, drawn=2, backgrounds=("white",))


def asked(pairs: np.ndarray, count: int, rng: np.random.Generator) -> list[Wanted]:
    """Full captions about `count` of the pairs, backgrounds by chance."""
    colours = list(BACKGROUNDS)
    scenes = [
        usual_scene(int(thing), int(style), colours[rng.integers(len(colours))])
        for thing, style in rng.permutation(pairs)[:count]
    ]
    return [Wanted(full_caption(scene), scene, scene.style) for scene in scenes]


def pairs_of(
    checkpoint: Checkpoint, judge: Judge, folder: Path, size: Size, seed: int
) -> list[PreferencePair]:
    """Draw, score and choose, with the reference's log-probabilities."""
    wanted = asked(seen_pairs(), size.requests, np.random.default_rng((seed, 0)))
    known = {each.words: each for each in wanted}
    voter = mean_score(object_voter(known, judge), background_voter(known))
    requests = [ImagePrompt(each.words, grid(RATIOS[0])) for each in wanted]
    sampler = CandidateSampling(images_per_prompt=size.pictures, seed=1_000_000 * (seed + 1))
    drawn = sample_candidates(checkpoint, requests, voter, folder / "drawn.jsonl", sampler)
    chosen = [pair for one in drawn if (pair := one.pair(MARGIN)) is not None]
    return add_reference_log_probs(
        checkpoint.decoder, chosen, checkpoint.text_tokenizer.vocabulary.visual
    )


def run_for(size: Size, seed: int) -> DPOTrainingConfig:
    return DPOTrainingConfig(
        steps=size.steps,
        learning_rate=STAGE.learning_rate,
        final_learning_rate=STAGE.final_learning_rate,
        schedule=STAGE.schedule,
        warmup_steps=min(STAGE.warmup_steps, size.steps),
        max_grad_norm=STAGE.max_grad_norm,
        weight_decay=STAGE.weight_decay,
        betas=STAGE.betas,
        eps=STAGE.eps,
        loss=PREFERENCE,
        batch_size=size.batch,
        micro_batch_size=8,
        bf16=False,  # the margin is a small difference of large numbers
        report_every=1,
        save_every=50,
        seed=seed,
    )


def one_seed(judge: Judge, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """One seed from nano to figures; the first one's model is exported."""
    checkpoint = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    wanted = asked(held_out_pairs(), size.drawn, np.random.default_rng((seed, 1)))
    before = accuracy(Emu3(checkpoint), wanted, judge, seed=1000 * seed)
    pairs = pairs_of(checkpoint, judge, folder, size, seed)
    visual, run = checkpoint.text_tokenizer.vocabulary.visual, run_for(size, seed)
    decoder = checkpoint.decoder.requires_grad_(True)  # it was opened to be used
    train_dpo(decoder, run, pairs, visual, folder)
    after = accuracy(Emu3(checkpoint), wanted, judge, seed=1000 * seed)
    shares = {name: {"before": before[name].value, "after": after[name].value} for name in before}
    if seed == 0:
        stage = replace(STAGE, steps=size.steps, batch_size=size.batch)
        figures = {name: f"{before[name]} before, {after[name]} after" for name in before}
        provenance = ModelCardData(
            DATA, "CPU; see the journal.", stage, folder / "log.jsonl", figures
        )
        export_model(replace(checkpoint, name="nano-dpo"), provenance, folder.parent / "model")
    return {"pairs": len(pairs), **shares}


def main(folder: Path, size: Size = FULL) -> dict[str, Any]:
    """All seeds, each in a folder of its own; a seed that is done is not done again."""
    judge = Judge.build(Icons.load(), backgrounds=size.backgrounds)
    seeds = []
    for seed in range(size.seeds):
        path = folder / f"seed-{seed}" / "figures.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, one_seed(judge, path.parent, size, seed))
        seeds.append(json.loads(path.read_text(encoding="utf-8")))
    report: dict[str, Any] = {"seeds": seeds, "gain": {}}
    for name in ("object", "style", "background", "all"):
        mean, low, high = interval([each[name]["after"] - each[name]["before"] for each in seeds])
        report["gain"][name] = {"mean": mean, "low": low, "high": high}
        print(f"{name}: {mean:+.1%} ({low:+.1%} to {high:+.1%}) over {len(seeds)} seeds")
    _write(folder / "figures.json", report)
    return report


def _write(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    named = [word for word in sys.argv[1:] if word != "--quick"]
    usual = "runs/dpo-quick" if quick else "runs/dpo"
    main(Path(named[0] if named else usual), QUICK if quick else FULL)
