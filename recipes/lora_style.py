"""LoRA example: teach nano a fourth style from 153 images.

    python -m recipes.lora_style runs/fxemoji

The style is Firefox OS Emoji (`@iconify-json/fxemoji`, Mozilla, Apache-2.0), which has icons of 193
of the 400 objects; 40 of them are held out. Adapters are on every linear layer. A third of the
images in a batch are of the known styles, so that these are not forgotten.

The folder of the run gets `figures.json` (accuracy before and after, for the new style and the old
ones), `adapter/` in PEFT's format, and `model/`, the merged checkpoint. `--quick` only checks that
everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3 import Emu3
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.evaluation import Proportion
from emu3.files import atomic_write
from emu3.models.precision import FP32
from emu3.training.decoder import DecoderTrainingConfig, train_decoder
from emu3.training.export import ModelCardData, export_model
from emu3.training.lm_loss import TrainingSequence
from emu3.training.lora import LoraConfig, add_adapter
from emu3.training.mixed_precision import has_fast_bf16
from emu3.training.presets import NANO_QUALITY, Preset
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    ICON_SIZES,
    OBJECTS,
    Icons,
    Scene,
    centred_scene,
    default_folder,
    full_caption,
    held_out_pairs,
    seen_pairs,
    with_article,
)
from recipes.nano.emoji_world.download import fetch_package
from recipes.nano.emoji_world.icons import rasterise_icon
from recipes.nano.evaluation.accuracy import Target, generation_accuracy
from recipes.nano.evaluation.icon_classifier import REFERENCE_BACKGROUNDS, NearestIconClassifier
from recipes.nano.scene_encoding import SceneEncoder

PACKAGE = "@iconify-json/fxemoji@1.2.2"
STYLE = "fxemoji"  # its name in captions
STYLE_INDEX = 3  # for the classifier, after the three known styles
HELD_OUT = 40  # objects

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
    from_paper=(),  # weights and schedule are those of quality tuning; taking them is our choice
    from_script=(),
)

DATA = (
    f"153 images of Firefox OS Emoji (Mozilla, Apache-2.0, {PACKAGE}) on flat backgrounds, and "
    "scenes of Emoji World without its held-out pairs, against forgetting."
)


@dataclass(frozen=True)
class Size:
    """The extent of a run."""

    steps: int
    measured: int  # images per measurement, at most
    replayed: int  # images of the known styles in a batch
    backgrounds: tuple[str, ...] = REFERENCE_BACKGROUNDS  # of the classifier


FULL = Size(steps=STAGE.steps, measured=120, replayed=8)
QUICK = Size(steps=2, measured=2, replayed=2, backgrounds=("white",))


@dataclass(frozen=True)
class NewStyle:
    """The icons of the new style; `icons` has this style alone. Objects are indices."""

    icons: Icons
    trained: tuple[int, ...]
    held_out: tuple[int, ...]

    @classmethod
    def load(cls, path: Path | None = None, seed: int = 0) -> Self:
        """Download and rasterise the icons. Raises InputError without npm or a file at `path`."""
        path = fetch_package(PACKAGE, path or default_folder() / f"{STYLE}.json")
        icon_set = json.loads(path.read_text(encoding="utf-8"))
        known = set(icon_set["icons"]) | set(icon_set.get("aliases", {}))
        names = {index: name.replace("-", "") for index, name in enumerate(OBJECTS)}
        found = {index: name for index, name in names.items() if name in known}
        arrays = {}
        for size in ICON_SIZES:
            arrays[size] = np.zeros((len(OBJECTS), 1, size, size, 4), np.uint8)
            for index, name in found.items():
                arrays[size][index, 0] = rasterise_icon(icon_set, name, size)
        order = np.random.default_rng(seed).permutation(list(found)).tolist()
        return cls(Icons(arrays), tuple(sorted(order[HELD_OUT:])), tuple(sorted(order[:HELD_OUT])))

    def scenes(self, objects: Sequence[int], rng: np.random.Generator) -> list[Scene]:
        """A centred scene of each object on a random background."""
        return [centred_scene(each, 0, random_background(rng)) for each in objects]

    def add_to(
        self,
        classifier: NearestIconClassifier,
        backgrounds: Sequence[str] = REFERENCE_BACKGROUNDS,
    ) -> NearestIconClassifier:
        """The classifier with this style as `STYLE_INDEX`; objects without an icon never match."""
        new = NearestIconClassifier.build(self.icons, styles=(0,), backgrounds=backgrounds)
        norms: NDArray[np.float32] = new.squared_norms[0].copy()
        missing = np.setdiff1d(np.arange(len(OBJECTS)), (*self.trained, *self.held_out))
        norms.reshape(len(OBJECTS), -1)[missing] = np.inf
        references = {**classifier.references, STYLE_INDEX: new.references[0]}
        return NearestIconClassifier(references, {**classifier.squared_norms, STYLE_INDEX: norms})


def random_background(rng: np.random.Generator) -> str:
    """The name of a background."""
    names = list(BACKGROUNDS)
    return names[rng.integers(len(names))]


def caption(scene: Scene) -> str:
    """The caption of a scene in the new style."""
    return (
        f"{with_article(OBJECTS[scene.object])} on a {scene.background} background, {STYLE} style"
    )


class StyleDocuments:
    """The documents of a step: images of the new style and some of the known ones."""

    def __init__(
        self, checkpoint: Checkpoint, style: NewStyle, icons: Icons, size: Size, stage: Preset
    ) -> None:
        self.checkpoint, self.size, self.stage = checkpoint, size, stage
        vision = checkpoint.vision_processor.vision
        self.encode = SceneEncoder(vision, icons)
        scenes = style.scenes(style.trained, np.random.default_rng(0))
        self.captions = [caption(scene) for scene in scenes]
        self.codes = SceneEncoder(vision, style.icons)(scenes)
        self.pairs = seen_pairs()

    def __call__(self, rng: np.random.Generator) -> list[TrainingSequence]:
        chosen = rng.permutation(len(self.codes))[: self.stage.batch_size - self.size.replayed]
        examples = [(self.captions[index], self.codes[index]) for index in chosen]
        pairs = self.pairs[rng.integers(len(self.pairs), size=self.size.replayed)]
        scenes = [centred_scene(int(o), int(s), random_background(rng)) for o, s in pairs]
        examples += zip(map(full_caption, scenes), self.encode(scenes), strict=True)
        return [self.document(text, codes, rng) for text, codes in examples]

    def document(self, text: str, codes: Tensor, rng: np.random.Generator) -> TrainingSequence:
        """One image, sometimes with an empty caption."""
        text = "" if rng.random() < self.stage.caption_dropout else text
        ids = self.checkpoint.prompts.document(text, codes)
        visual = self.checkpoint.text_tokenizer.vocabulary.visual
        is_visual = (ids >= visual.start) & (ids < visual.stop)
        weights = self.stage.loss_weights
        return TrainingSequence(ids, torch.where(is_visual, weights.vision, weights.text))


def make_targets(style: NewStyle, count: int) -> dict[str, list[Target]]:
    """The prompts that are measured before and after."""
    rng = np.random.default_rng(1)
    targets = {}
    for name, objects in (("new, trained", style.trained), ("new, held out", style.held_out)):
        scenes = style.scenes(objects, rng)[:count]
        targets[name] = [Target(caption(scene), scene, STYLE_INDEX) for scene in scenes]
    for name, pairs in (("old, seen", seen_pairs()), ("old, held out", held_out_pairs())):
        rows = rng.permutation(pairs)[:count]
        scenes = [centred_scene(int(o), int(s), random_background(rng)) for o, s in rows]
        targets[name] = [Target(full_caption(scene), scene, scene.style) for scene in scenes]
    return targets


def measure(
    checkpoint: Checkpoint, targets: dict[str, list[Target]], classifier: NearestIconClassifier
) -> dict[str, dict[str, Proportion]]:
    """The accuracy of each kind of prompt."""
    model = Emu3(checkpoint)
    return {
        name: generation_accuracy(model, each, classifier, seed=1000)
        for name, each in targets.items()
    }


def training_for(size: Size) -> DecoderTrainingConfig:
    """The settings of the training loop."""
    stage = replace(STAGE, steps=size.steps, warmup_steps=min(STAGE.warmup_steps, size.steps))
    return stage.training_config(
        micro_batch_size=24, bf16=has_fast_bf16("cpu"), report_every=1, save_every=50, seed=0
    )


def main(folder: Path, size: Size = FULL) -> dict[str, object]:
    """Measure, train, measure again; writes everything to `folder` and returns the figures."""
    checkpoint = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    icons, style = Icons.load(), NewStyle.load()
    known = NearestIconClassifier.build(icons, backgrounds=size.backgrounds)
    classifier = style.add_to(known, size.backgrounds)
    targets = make_targets(style, size.measured)
    before = measure(checkpoint, targets, classifier)
    adapted = add_adapter(checkpoint.decoder, LORA)
    documents = StyleDocuments(checkpoint, style, icons, size, STAGE)
    visual = checkpoint.text_tokenizer.vocabulary.visual
    start = time.perf_counter()
    train_decoder(adapted.model, training_for(size), documents, visual, folder)
    seconds = time.perf_counter() - start
    adapted.save(folder / "adapter")
    adapted.merge()
    after = measure(checkpoint, targets, classifier)
    report = {
        "images": len(style.trained),
        "seconds": round(seconds, 1),  # of this call only, if the run was resumed
        **{
            name: {"before": _plain(before[name]), "after": _plain(after[name])} for name in targets
        },
    }
    figures = {
        f"{name}, {what}": f"{before[name][what]} before, {after[name][what]} after"
        for name in targets
        for what in after[name]
    }
    stage = replace(STAGE, steps=size.steps)
    provenance = ModelCardData(DATA, "CPU; see the log.", stage, folder / "log.jsonl", figures)
    export_model(replace(checkpoint, name="nano-fxemoji"), provenance, folder / "model")
    with atomic_write(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, text in figures.items():
        print(f"{name}: {text}")
    return report


def _plain(proportions: dict[str, Proportion]) -> dict[str, dict[str, float]]:
    return {name: each.to_dict() for name, each in proportions.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="by default runs/fxemoji")
    parser.add_argument("--quick", action="store_true", help="check that everything runs")
    arguments = parser.parse_args()
    default = Path("runs/fxemoji-quick" if arguments.quick else "runs/fxemoji")
    main(arguments.folder or default, QUICK if arguments.quick else FULL)
